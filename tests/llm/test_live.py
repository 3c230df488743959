"""Environments that live on between turns: a toy one that remembers what it was told, and breaks on demand."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from cyqd.llm.tasks.base import Spec, Turn
from cyqd.llm.tasks.live import ATTEMPTS, EnvironmentFault, LiveTask, Session
from cyqd.llm.tasks.problems import Problem


class Memory(Session):
    """Answers with all that it was told; "stop" ends it."""

    def __init__(self, task: Recall, number: int) -> None:
        self.task = task
        self.number = number
        self.told: list[str] = []
        self.closed = False

    def reply(self, text: str, *, last: bool) -> Turn:
        assert not self.closed
        self.task.calls.append((self.number, text, last))
        if text == "break" and self.task.breaks > 0:
            self.task.breaks -= 1
            raise EnvironmentFault(f"session {self.number} broke")
        if text == "bug":
            raise ZeroDivisionError
        self.told.append(text)
        done = text == "stop"
        return Turn(done=done, score=float(done), observation=" ".join(self.told))

    def close(self) -> None:
        assert not self.closed, "closed twice"
        self.closed = True


class Recall(LiveTask):
    default_name = "recall"

    def __init__(self, path: Path, *, breaks: int = 0, **options: int) -> None:
        path.write_text("".join(json.dumps({"id": i, "prompt": "talk"}) + "\n" for i in "ab"))
        super().__init__(path, **options)
        self.breaks = breaks
        self.sessions: list[Memory] = []
        self.calls: list[tuple[int, str, bool]] = []
        self.lock = threading.Lock()

    def check_spec(self, spec: Spec) -> None: ...

    def open(self, problem: Problem) -> Session:
        with self.lock:
            self.sessions.append(Memory(self, len(self.sessions)))
            return self.sessions[-1]

    def ask(self, *replies: str, problem: str = "a") -> Turn:
        return self.submit(Problem(problem, (), {}), replies).result(10)

    @property
    def living(self) -> list[int]:
        return [session.number for session in self.sessions if not session.closed]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "problems.jsonl"


def test_a_session_lives_until_the_dialogue_is_over(path: Path) -> None:
    task = Recall(path)
    assert task.ask("one").observation == "one"
    assert task.ask("one", "two").observation == "one two"
    assert task.living == [0]
    assert task.ask("one", "two", "stop") == Turn(done=True, score=1.0, observation="one two stop")
    assert task.living == []
    assert [text for _, text, _ in task.calls] == ["one", "two", "stop"], "nothing was played twice"


def test_the_last_turn_ends_it(path: Path) -> None:
    task = Recall(path, max_turns=2)
    assert not task.ask("one").done
    assert task.ask("one", "two").done
    assert task.calls == [(0, "one", False), (0, "two", True)]
    assert task.living == []
    with pytest.raises(ValueError, match="1 to 2 replies expected, got 3"):
        task.ask("one", "two", "three")


def test_dialogues_do_not_share_a_session(path: Path) -> None:
    task = Recall(path)
    for problem in "aab":  # two samples of one problem, and another one
        task.ask("one", problem=problem)
    assert len(task.sessions) == 3
    for problem in "aab":
        assert task.ask("one", "two", problem=problem).observation == "one two"
    assert len(task.sessions) == 3
    task.close()
    assert task.living == []


def test_after_a_fault_the_dialogue_is_played_again(path: Path) -> None:
    task = Recall(path, breaks=1)
    task.ask("one")
    turn = task.ask("one", "break")
    assert turn == Turn(done=False, observation="one break", retried="session 0 broke")
    assert task.living == [1]
    assert task.ask("one", "break", "stop").score == 1.0


def test_what_breaks_again_and_again_is_a_fault(path: Path) -> None:
    task = Recall(path, breaks=100)
    turn = task.ask("one", "break")
    assert turn.done
    assert turn.score == 0.0
    assert turn.fault == f"session {ATTEMPTS - 1} broke"
    assert task.living == []


def test_a_programming_error_is_not_swallowed(path: Path) -> None:
    task = Recall(path)
    with pytest.raises(ZeroDivisionError):
        task.ask("bug")
    assert task.living == []


def test_sessions_beyond_the_limit_make_room_and_are_played_again(path: Path) -> None:
    task = Recall(path, waiting=1)
    task.ask("one", problem="a")
    task.ask("one", problem="b")
    assert task.living == [1]
    turn = task.ask("one", "two", problem="a")
    assert turn == Turn(done=False, observation="one two"), "being evicted is no fault"
    assert task.living == [2]


def test_a_task_goes_on_after_it_was_closed(path: Path) -> None:
    task = Recall(path)
    task.ask("one")
    task.close()
    task.close()
    assert task.ask("one", "two").observation == "one two"
    task.close()


@pytest.mark.parametrize("option", [{"environments": 0}, {"waiting": -1}])
def test_bad_options(path: Path, option: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"task recall: {next(iter(option))} must be at least"):
        Recall(path, **option)

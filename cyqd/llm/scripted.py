"""A scripted model: plays given replies through real tasks, so that environments are checked without any LLM."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cyqd.llm.dialogue import Dialogue, Dialogues
from cyqd.llm.tasks.base import Task, Turn
from cyqd.llm.tasks.problems import Problem
from cyqd.training.splits import Split

Script = Sequence[str | Callable[[str], str]]
"""Replies in turn; a callable makes one from the environment's newest observation, or "" before the first."""

SPLITS: tuple[Split, ...] = ("optimisation", "test")
AT_ONCE = 64  # dialogues under way at a time


class ScriptedModel:
    """Replies to every problem by its script, and by nothing at all once the script has ended.

    Args:
        scripts: by problem id.
    """

    def __init__(self, scripts: Mapping[str, Script]) -> None:
        self.scripts = scripts

    def __call__(self, task: Task, dialogues: Sequence[Dialogue]) -> list[str | None]:
        """Return each dialogue's next reply."""
        return [self._reply(dialogue) for dialogue in dialogues]

    def _reply(self, dialogue: Dialogue) -> str:
        script, number = self.scripts[dialogue.problem.id], len(dialogue.replies)
        if number >= len(script):
            return ""
        line = script[number]
        return line if isinstance(line, str) else line(dialogue.messages[-1]["content"] if number else "")


def play(
    task: Task, scripts: Mapping[str, Script], *, progress: Callable[[], object] = lambda: None
) -> dict[str, Turn]:
    """Play scripts through a task's real environment.

    A response prefix that a problem begins the reply with is dropped: scripts are whole replies.

    Args:
        task: the task; any of its problems may be played, of either half.
        scripts: replies by problem id.
        progress: called as each problem ends.

    Returns:
        Each problem's result, by id, in the order of ``scripts``.

    Raises:
        KeyError: if the task has no problem of that id.
    """
    problems = {problem.id: problem for split in SPLITS for problem in task.problems(split)}
    results: dict[str, Turn] = {}

    def finish(problem: Problem, turn: Turn) -> None:
        results[problem.id] = turn
        progress()

    dialogues = Dialogues(ScriptedModel(scripts), {})
    ids = list(scripts)
    for start in range(0, len(ids), AT_ONCE):
        asked = [_whole(problems[problem]) for problem in ids[start : start + AT_ONCE]]
        dialogues.add(task, asked, finish)
    dialogues.drain()
    return {problem: results[problem] for problem in ids}


def _whole(problem: Problem) -> Problem:
    if problem.messages[-1]["role"] != "assistant":
        return problem
    return Problem(problem.id, problem.messages[:-1], problem.spec)


@dataclass(frozen=True)
class Check:
    """What came of one kind of replies.

    Attributes:
        task: the task's name.
        kind: "gold", "empty" or "wrong".
        scores: by problem id.
        faults: what broke, by problem id.
        retries: what broke at first, by problem id.
        seconds: wall-clock time.
    """

    task: str
    kind: str
    scores: dict[str, float]
    faults: dict[str, str]
    retries: dict[str, str]
    seconds: float

    @property
    def suspicious(self) -> list[str]:
        """Ids of problems that gold replies do not solve, or others do."""
        wanted = 1.0 if self.kind == "gold" else 0.0
        return [problem for problem, score in self.scores.items() if score != wanted]

    def row(self) -> dict[str, Any]:
        """Return all of it as builtins."""
        return {**self.__dict__, "suspicious": self.suspicious}


def check_task(
    task: Task, *, progress: Callable[[], object] = lambda: None, limit: int | None = None
) -> Iterator[Check]:
    """Play gold, empty and wrong replies through a task.

    Args:
        task: the task; its ``limit`` and ``test_limit`` hold.
        progress: called as each dialogue's problem ends.
        limit: play at most this many problems of each kind; all by default.

    Yields:
        One check per kind; problems without gold replies are left out of "gold".
    """
    problems = [problem for split in SPLITS for problem in task.problems(split)]
    replies: dict[str, Callable[[Problem], Script | None]] = {
        "gold": task.gold,
        "empty": lambda problem: [""],
        "wrong": task.wrong,
    }
    for kind in replies:
        scripts: dict[str, Script] = {}
        for problem in problems:
            script = replies[kind](problem) if len(scripts) != limit else None
            if script is not None:
                scripts[problem.id] = script
        start = time.perf_counter()
        turns = play(task, scripts, progress=progress)
        yield Check(
            task.name,
            kind,
            {problem: turn.score for problem, turn in turns.items()},
            {problem: turn.fault for problem, turn in turns.items() if turn.fault is not None},
            {problem: turn.retried for problem, turn in turns.items() if turn.retried is not None},
            time.perf_counter() - start,
        )

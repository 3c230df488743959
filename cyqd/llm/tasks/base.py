"""What a task is: problems, and an environment that answers and judges a model's replies."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from cyqd.llm.chat import chat_template
from cyqd.llm.environments import Job, Limits, Outcome, shared_sandbox
from cyqd.llm.tasks.problems import Problem, messages_of, read_records
from cyqd.training.splits import Split, excluded, halves, kept_back

Spec = Mapping[str, Any]

_CACHED = 1 << 16  # verdicts kept; then the cache starts again


@dataclass(frozen=True)
class Turn:
    """The environment's answer to a reply.

    Attributes:
        done: whether the dialogue is over.
        score: in [0, 1]; the problem's score where ``done``, else 0.
        observation: what the model is told next, as a user message, where not ``done``.
        fault: what broke, where the environment itself failed (not the model); the problem then scores 0.
        retried: what broke before, where a fresh environment was needed.
        measures: scores beside ``score``, each in [0, 1], by name out of :attr:`Task.measures`.
    """

    done: bool
    score: float = 0.0
    observation: str = ""
    fault: str | None = None
    retried: str | None = None
    measures: Mapping[str, float] = field(default_factory=dict)


class Task(ABC):
    """A skill: problems in a JSONL file, split evenly by seed, and the environment that judges replies.

    Args:
        problems: JSONL file, one problem a line.
        name: the task's name; by default the class's.
        system: a system message that starts every dialogue.
        max_turns: at most this many replies per problem; the last one is final.
        split_seed: seed of the even split into an optimisation half and a test half.
        limit: use at most this many problems of the optimisation half, which is scored for every child.
        selection_limit: keep back at most this many of the problems beyond ``limit``, for final rules to judge
            models on; as many as ``limit`` if not given.
        test_limit: use at most this many problems of the test half.
        exclude: JSON files {task's name: [id, ...]} of problems to leave out of the optimisation half, such as
            those that no expert solves; the halves themselves and the test half stay as they are.
        samples: dialogues per problem; its score is their mean. More than one makes sense with a ``temperature``,
            or where the environment itself differs from one time to the next.
        temperature: replies are drawn from the model's distribution at this temperature; 0 takes the likeliest.
        template: the chat template that prompts are rendered with, in place of the tokenizer's: the name of one in
            :data:`cyqd.llm.chat.TEMPLATES`, or a file with a Jinja template.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file does not hold at least two well-formed problems with different ids, or an argument
            is out of range.
    """

    default_name: ClassVar[str]

    waiting: float = math.inf
    """At most so many of its dialogues are best under way at a time."""

    measures: tuple[str, ...] = ()
    """Names of what is reported beside the score; each is a mean over the problems whose last turn has it."""

    def __init__(
        self,
        problems: Path,
        *,
        name: str | None = None,
        system: str | None = None,
        max_turns: int = 5,
        split_seed: int = 0,
        limit: int | None = None,
        selection_limit: int | None = None,
        test_limit: int | None = None,
        exclude: Sequence[Path] = (),
        samples: int = 1,
        temperature: float = 0.0,
        template: str | None = None,
    ) -> None:
        self.path = Path(problems)
        self.name = name or self.default_name
        if "/" in self.name:
            raise ValueError(f"task {self.name}: a name has no '/', which separates it from a problem's id")
        self.system = system
        self.max_turns = max_turns
        self.split_seed = split_seed
        self.samples = samples
        self.temperature = temperature
        self.template = chat_template(template)
        limits = {"limit": limit, "selection_limit": selection_limit, "test_limit": test_limit}
        for key, number in {"max_turns": max_turns, **limits, "samples": samples}.items():
            if number is not None and number < 1:
                raise ValueError(f"task {self.name}: {key} must be at least 1, got {number}")
        if temperature < 0:
            raise ValueError(f"task {self.name}: temperature must be at least 0, got {temperature}")
        problems_read = self.load()
        left_out = excluded(exclude, self.name, {problem.id for problem in problems_read})
        first, second = halves(problems_read, split_seed)
        first = [problem for problem in first if problem.id not in left_out]
        if not first:
            raise ValueError(f"task {self.name}: exclude leaves no problem in the optimisation half")
        optimisation, selection = kept_back(first, limit, selection_limit)
        self._split: dict[Split, Sequence[Problem]] = {
            "optimisation": optimisation,
            "selection": selection,
            "test": second[:test_limit],
        }

    def problems(self, split: Split) -> Sequence[Problem]:
        """Return the problems of one split, in a fixed order; the selection split may be empty."""
        return self._split[split]

    def load(self) -> list[Problem]:
        """Read all problems from the file; a task with another format overrides this or :meth:`check_spec`."""
        found = []
        for where, record in read_records(self.path):
            spec = {key: value for key, value in record.items() if key not in ("id", "prompt")}
            try:
                self.check_spec(spec)
                _check_gold(spec)
                messages = messages_of(record["prompt"], self.system)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
            found.append(Problem(record["id"], messages, spec))
        return found

    @abstractmethod
    def check_spec(self, spec: Spec) -> None:
        """Check a problem's keys beside ``id`` and ``prompt``; raises ValueError saying what is wrong."""

    @abstractmethod
    def submit(self, problem: Problem, replies: Sequence[str]) -> Future[Turn]:
        """Judge a dialogue in the background.

        The environment has no state between calls: it starts from the problem's initial state and runs all
        ``replies``, so that an answer is a function of the problem and the replies and can be cached.

        Args:
            problem: the problem.
            replies: all of the model's replies so far, the newest last; at most ``max_turns``.
        """

    def abandon(self, problem: Problem, replies: Sequence[str]) -> None:  # noqa: B027  most keep nothing
        """Give back what is kept for the next turn of a dialogue that will have none."""

    def close(self) -> None:  # noqa: B027  likewise
        """Give everything back; what is under way may end. The next :meth:`submit` starts afresh."""

    def gold(self, problem: Problem) -> list[str | Callable[[str], str]] | None:
        """Return replies that solve the problem, for ``check-task``; None where the file names none.

        A callable makes a reply from the environment's newest observation. By default the problem's optional key
        ``gold``, a reply or a list of them.
        """
        replies = problem.spec.get("gold")
        return [replies] if isinstance(replies, str) else replies

    def wrong(self, problem: Problem) -> list[str]:
        """Return well-formed replies that do not solve the problem, for ``check-task``."""
        return ["987654321"]

    def combine(self, turns: Sequence[Turn]) -> Turn:
        """Return a problem's result from the last turns of its ``samples`` dialogues: the means."""
        if len(turns) == 1:
            return turns[0]
        names = {name for turn in turns for name in turn.measures}
        return Turn(
            done=True,
            score=fmean(turn.score for turn in turns),
            fault=next((turn.fault for turn in turns if turn.fault), None),
            retried=next((turn.retried for turn in turns if turn.retried), None),
            measures={name: fmean(turn.measures.get(name, 0.0) for turn in turns) for name in sorted(names)},
        )

    def measures_of(self, problem: Problem) -> Sequence[str]:
        """Return which of :attr:`measures` a problem has, all by default; one that its last turn lacks is 0."""
        return self.measures

    def derived(self, means: Mapping[str, float]) -> dict[str, float]:
        """Return what is reported, given the means of the :attr:`measures` that there are: by default those."""
        return dict(means)


def _check_gold(spec: Spec) -> None:
    replies = spec.get("gold", "")
    if not all(isinstance(reply, str) for reply in (replies if isinstance(replies, list) else [replies])):
        raise ValueError(f"'gold' must be a reply or a list of replies, as texts, got {replies!r:.60}")


class SandboxTask(Task):
    """A task whose environment is one sandboxed program per dialogue.

    Verdicts are cached by problem and replies, but for timeouts and faults, which may not happen again.

    Args:
        limits: what a program may use.
        observation_limit: characters of an observation; what is longer is cut.
    """

    def __init__(
        self,
        problems: Path,
        *,
        limits: Limits = Limits(),  # noqa: B008
        observation_limit: int = 1000,
        **options: Any,
    ) -> None:
        super().__init__(problems, **options)
        if observation_limit < 1:
            raise ValueError(f"task {self.name}: observation_limit must be at least 1, got {observation_limit}")
        self.limits = limits
        self.observation_limit = observation_limit
        self._verdicts: dict[tuple[str, tuple[str, ...]], Turn] = {}

    @abstractmethod
    def plan(self, spec: Spec, replies: Sequence[str]) -> Job | Turn:
        """Return the program that runs ``replies``, or the answer where nothing needs to run."""

    @abstractmethod
    def judge(self, spec: Spec, outcome: Outcome) -> Turn:
        """Read the program's outcome, "fault" excepted; the last turn and the cut are not its concern."""

    def limits_of(self, spec: Spec) -> Limits:
        """Return what a problem's program may use; by default :attr:`limits`."""
        return self.limits

    def submit(self, problem: Problem, replies: Sequence[str]) -> Future[Turn]:
        """Judge a dialogue in the background; see :meth:`Task.submit`.

        Raises:
            ValueError: if there is no reply, or there are more than ``max_turns``.
        """
        if not 1 <= len(replies) <= self.max_turns:
            raise ValueError(f"task {self.name}: 1 to {self.max_turns} replies expected, got {len(replies)}")
        if len(self._verdicts) >= _CACHED:
            self._verdicts = {}
        key = (problem.id, tuple(replies))
        answer: Future[Turn] = Future()
        known = self._verdicts.get(key) or self.plan(problem.spec, replies)
        if isinstance(known, Turn):
            answer.set_result(self._finish(known, len(replies)))
            return answer

        def receive(running: Future[Outcome]) -> None:
            try:
                outcome = running.result()
                if outcome.status == "fault":
                    turn = Turn(done=True, fault=outcome.stderr)
                else:
                    turn = self._finish(self.judge(problem.spec, outcome), len(replies))
                if outcome.status not in ("fault", "timeout"):
                    self._verdicts[key] = turn
                turn = replace(turn, retried=outcome.retried)
            except BaseException as error:  # handed on to whoever waits for the answer
                answer.set_exception(error)
            else:
                answer.set_result(turn)

        shared_sandbox().submit(known, self.limits_of(problem.spec)).add_done_callback(receive)
        return answer

    def _finish(self, turn: Turn, replies: int) -> Turn:
        if not turn.done and replies >= self.max_turns:
            return Turn(done=True)
        return replace(turn, observation=shorten(turn.observation, self.observation_limit))


def shorten(text: str, limit: int) -> str:
    """Return ``text`` without surrounding white space, cut to ``limit`` characters with "..." at the cut."""
    text = text.strip()
    return text if len(text) <= limit else text[: max(0, limit - 3)].rstrip() + "..."[:limit]


def failure(outcome: Outcome) -> str:
    """Return what to tell the model about a program that failed: its stderr, else its stdout, else how it ended."""
    stopped = {
        "timeout": "Error: time limit",
        "memory": "Error: out of memory",
        "output": "Error: too much output",
    }
    if outcome.status in stopped:
        return stopped[outcome.status]
    return outcome.stderr.strip() or outcome.stdout.strip() or f"Error: exit code {outcome.exit_code}"

"""The public coding benchmarks, from local files in their published formats."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from cyqd.llm.environments import Job, Limits, Outcome, shared_sandbox
from cyqd.llm.tasks import calls
from cyqd.llm.tasks.base import Spec, Turn
from cyqd.llm.tasks.coding import NO_PROGRAM, Coding, pass_at_k
from cyqd.llm.tasks.coding_formats import Style, messages, read_problem, records
from cyqd.llm.tasks.oracles import SETS, agree
from cyqd.llm.tasks.problems import Problem
from cyqd.llm.tasks.replies import python_program

CAP_SECONDS = 60.0  # of CPU time for one group of inputs, unless the reference needs more; EvalPlus's
REFERENCE_SECONDS = 300.0  # for a reference solution, on however slow a machine
WAITING = 3  # wall-clock seconds for each second of CPU time that a job may take
REFERENCE_BYTES = 1 << 28

_SOURCE = Path(calls.__file__).read_text(encoding="utf-8")

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Reference:
    """What a problem's reference solution did in the sandbox of this machine.

    Attributes:
        expected: what it returned, for each group of inputs.
        seconds: CPU seconds of each call, likewise; of the tests where there are no inputs.
        output_bytes: of its results' text.
        calls_text: the calls with their limits, as the job that judges a program is told.
    """

    expected: list[list[Any]]
    seconds: list[list[float]]
    output_bytes: int
    calls_text: str


class CodingBenchmark(Coding):
    """MBPP+ and HumanEval+ (EvalPlus), MBPP and HumanEval; the format is recognised by its keys.

    The score is pass@1 on the base tests. EvalPlus's problems are judged by calling the function on all inputs and
    comparing with what the reference solution returns, which is computed in the sandbox once per problem; passing
    the additional inputs as well is the measure "plus". The others are judged by their asserts.

    Time limits are CPU time and follow the reference solution's, measured on this machine (for asserts, its
    wall-clock time, which is no less), so that neither a slow nor a busy one lowers scores.

    Args:
        problems: ``.jsonl``, ``.json`` (a list), or either with ``.gz``.
        style: how to ask, "chat" (EvalPlus's) or "instruction" (the paper's reference code; goes with
            ``template: magicoder``).
        plus: whether the additional inputs are run; without them, scoring is faster.
        min_seconds: of CPU time that a call may take at least.
        time_factor: a call may take this many times what the reference takes.
        max_turns: 1, for an answer without a program fails.
        limits: memory, processes and disk; for problems with asserts, its times are the least limits.
        options: see :class:`~cyqd.llm.tasks.Coding`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it has another format, or an argument is out of range.
    """

    def __init__(
        self,
        problems: Path,
        *,
        style: Style = "chat",
        plus: bool = True,
        min_seconds: float = 1.0,
        time_factor: float = 4.0,
        max_turns: int = 1,
        limits: Limits = Limits(memory_mb=1024),  # noqa: B008
        **options: Any,
    ) -> None:
        if style not in ("chat", "instruction"):
            raise ValueError(f"style must be 'chat' or 'instruction', got {style!r}")
        for key, number in ("min_seconds", min_seconds), ("time_factor", time_factor):
            if number <= 0:
                raise ValueError(f"{key} must be more than 0, got {number}")
        self.style = style
        self.plus = plus
        self.min_seconds = min_seconds
        self.time_factor = time_factor
        self._references: dict[str, Reference] = {}
        self._running: dict[str, Future[Outcome]] = {}  # reference solutions, until they are measured
        self._lock = threading.Lock()
        super().__init__(problems, max_turns=max_turns, limits=limits, **options)
        if self.plus:
            self.measures = ("plus", *self.measures, *(f"plus_pass@{k}" for k in self.pass_at))

    def load(self) -> list[Problem]:
        """Read all problems from the file, whatever its format."""
        found: dict[str, Problem] = {}
        for where, record in records(self.path):
            id_, prompt, spec = read_problem(record, where)
            if id_ in found:
                raise ValueError(f"{where}: the task_id {id_!r} occurs twice; ids are unique")
            asked = messages(prompt, self.style)
            if self.system is not None:
                asked.insert(0, {"role": "system", "content": self.system})
            found[id_] = Problem(id_, tuple(asked), {"id": id_, **spec})
        if len(found) < 2:
            raise ValueError(f"{self.path}: found {len(found)} problems; an even split needs at least 2")
        self.plus = self.plus and any("plus" in problem.spec for problem in found.values())
        return list(found.values())

    def submit(self, problem: Problem, replies: Sequence[str]) -> Future[Turn]:
        """Judge a dialogue in the background, once the problem's reference solution has been run."""
        if problem.id in self._references:
            return super().submit(problem, replies)

        def judge(outcome: Outcome) -> Future[Turn]:
            self._running.pop(problem.id, None)
            if problem.id not in self._references:
                reference = self._read_reference(problem.spec, outcome)
                if isinstance(reference, Turn):
                    faulty: Future[Turn] = Future()
                    faulty.set_result(reference)
                    return faulty
                self._references[problem.id] = reference
            return super(CodingBenchmark, self).submit(problem, replies)

        with self._lock:
            running = self._running.get(problem.id)
            if running is None:
                running = self._running[problem.id] = self._run_reference(problem.spec)
        return _then(running, judge)

    def _run_reference(self, spec: Spec) -> Future[Outcome]:
        calls_text = "" if "tests" in spec else self._calls(spec)
        limits = replace(
            self.limits,
            wall_seconds=WAITING * REFERENCE_SECONDS,
            cpu_seconds=REFERENCE_SECONDS,
            output_bytes=REFERENCE_BYTES,
        )
        return shared_sandbox().submit(self._job(spec, spec["reference"], calls_text), limits)

    def plan(self, spec: Spec, replies: Sequence[str]) -> Job | Turn:
        """Return the program with its tests or calls; ask again where the newest reply has no program."""
        program = python_program(replies[-1], name=spec["name"], head=spec["head"])
        if program is None:
            return Turn(done=False, observation=NO_PROGRAM)
        return self._job(spec, program, self._references[spec["id"]].calls_text)

    def limits_of(self, spec: Spec) -> Limits:
        """Return limits on time and output that follow what the reference solution used."""
        reference = self._references[spec["id"]]
        if "tests" in spec:
            cpu = max(self.limits.cpu_seconds, self.time_factor * reference.seconds[0][0])
            return replace(self.limits, cpu_seconds=cpu, wall_seconds=max(self.limits.wall_seconds, WAITING * cpu))
        cpu = self._load_seconds * len(reference.seconds)
        for used in reference.seconds:
            cpu += min(sum(map(self._limit, used)), max(CAP_SECONDS, self.time_factor * sum(used)))
        return replace(
            self.limits,
            cpu_seconds=cpu,
            wall_seconds=WAITING * cpu,
            output_bytes=4 * reference.output_bytes + (1 << 16),
        )

    def judge(self, spec: Spec, outcome: Outcome) -> Turn:
        """Compare the program's outputs with the reference's; problems with asserts as :class:`Coding` does."""
        if "tests" in spec:
            return super().judge(spec, outcome)
        reference = self._references[spec["id"]]
        outputs = [returned for returned, _ in _results(outcome.stdout)]
        passed = []
        for group, expected in zip(self._groups, reference.expected):  # noqa: B905
            mine, outputs = outputs[: len(expected)], outputs[len(expected) :]
            passed.append(agree(spec["name"], spec[group], expected, mine, atol=spec["atol"]))
        return Turn(done=True, score=float(passed[0]), measures={"plus": float(all(passed))} if self.plus else {})

    def combine(self, turns: Sequence[Turn]) -> Turn:
        """Return the mean of a problem's samples, with its pass@k, on base and on all inputs."""
        combined = super().combine(turns)
        if not self.plus:
            return combined
        passed = round(sum(turn.measures.get("plus", 0.0) for turn in turns))  # a fault, or no program, has none
        measures = {f"plus_pass@{k}": pass_at_k(len(turns), passed, k) for k in self.pass_at}
        return replace(combined, measures={**combined.measures, "plus": passed / len(turns), **measures})

    def gold(self, problem: Problem) -> list[str | Callable[[str], str]]:
        """Return the reference solution."""
        return [_fenced(problem.spec["reference"])]

    def wrong(self, problem: Problem) -> list[str]:
        """Return a program whose function is of no use."""
        return [_fenced(f"def {problem.spec['name']}(*arguments):\n    return '987654321'")]

    @property
    def _groups(self) -> tuple[str, ...]:
        return ("base", "plus") if self.plus else ("base",)

    @property
    def _load_seconds(self) -> float:
        return self.time_factor * self.min_seconds

    def _limit(self, seconds: float) -> float:
        return max(self.min_seconds, self.time_factor * seconds)

    def _job(self, spec: Spec, program: str, calls_text: str) -> Job:
        if "tests" in spec:
            return Job(_SOURCE, files={calls.PROGRAM: program, calls.TESTS: "\n\n".join(spec["tests"])})
        return Job(_SOURCE, files={calls.PROGRAM: program, calls.CALLS: calls_text})

    def _calls(self, spec: Spec, used: list[list[float]] | None = None) -> str:
        """Return what the job calls, with limits from the seconds that the reference used, else without."""
        inputs = [spec[group] for group in self._groups]
        seconds = [[0.0] * len(group) for group in inputs]
        if used is not None:
            seconds = [[self._limit(one) for one in group] for group in used]
        told = {
            "name": spec["name"],
            "as_set": spec["name"] in SETS,
            "load_seconds": 0.0 if used is None else self._load_seconds,
            "groups": list(zip(inputs, seconds, strict=True)),
        }
        return json.dumps(calls.encode(told))

    def _read_reference(self, spec: Spec, outcome: Outcome) -> Reference | Turn:
        """Return what the reference solution did, or the fault where it failed."""
        failed = f"the reference solution of {spec['id']} failed: {outcome.status}"
        if "tests" in spec:
            if outcome.status == "ok" and outcome.completed:
                return Reference([], [[outcome.seconds]], 0, "")
            return Turn(done=True, fault=f"{failed}\n{outcome.stderr}".strip(), retried=outcome.retried)
        results, calls_made = _results(outcome.stdout), sum(len(spec[group]) for group in self._groups)
        if outcome.status != "ok" or len(results) != calls_made:
            fault = f"{failed} after {len(results)} of {calls_made} calls\n{outcome.stderr}".strip()
            return Turn(done=True, fault=fault, retried=outcome.retried)
        expected, seconds = [], []
        for group in self._groups:
            mine, results = results[: len(spec[group])], results[len(spec[group]) :]
            expected.append([returned for returned, _ in mine])
            seconds.append([used for _, used in mine])
        return Reference(expected, seconds, len(outcome.stdout), self._calls(spec, seconds))


def _results(stdout: str) -> list[Any]:
    """Read [returned, CPU seconds] of each call, up to what is none: a program may have written there."""
    results: list[Any] = []
    for line in stdout.splitlines():
        try:
            returned, seconds = calls.decode(line)
        except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError):
            break
        results.append((returned, seconds))
    return results


def _fenced(program: str) -> str:
    return f"```python\n{program.strip()}\n```"


def _then(first: Future[A], step: Callable[[A], Future[B]]) -> Future[B]:
    """Return the future of what ``step`` makes of a future's result."""
    answer: Future[B] = Future()

    def hand_on(second: Future[B]) -> None:
        try:
            answer.set_result(second.result())
        except BaseException as error:  # handed on to whoever waits for the answer
            answer.set_exception(error)

    def go_on(done: Future[A]) -> None:
        try:
            second = step(done.result())
        except BaseException as error:  # likewise
            answer.set_exception(error)
        else:
            second.add_done_callback(hand_on)

    first.add_done_callback(go_on)
    return answer

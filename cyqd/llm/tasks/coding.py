"""Coding: a Python program against asserts, pass@1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import comb
from pathlib import Path
from typing import Any

from cyqd.llm.environments import Job, Outcome
from cyqd.llm.tasks.base import SandboxTask, Spec, Turn
from cyqd.llm.tasks.problems import Problem, require
from cyqd.llm.tasks.replies import python_program

NO_PROGRAM = "There is no Python program in your reply; answer with one."


class Coding(SandboxTask):
    """Write a program; it scores 1 if all of the problem's asserts hold.

    The first reply with a program in it is final, whether it passes or not (pass@1). A problem has ``tests``, a
    list of Python statements, and optionally ``setup``, Python that runs before the program.

    Args:
        problems: see :class:`~cyqd.llm.tasks.Task`.
        pass_at: report "pass@k" for each of these k, estimated from ``samples`` replies per problem.
        options: see :class:`~cyqd.llm.tasks.SandboxTask`.

    Raises:
        ValueError: if a k is less than 1 or more than ``samples``.
    """

    default_name = "coding"

    def __init__(self, problems: Path, *, pass_at: Sequence[int] = (), **options: Any) -> None:
        super().__init__(problems, **options)
        if wrong := [k for k in pass_at if not 1 <= k <= self.samples]:
            raise ValueError(
                f"task {self.name}: pass_at must hold numbers from 1 to samples, {self.samples}; got {wrong[0]}"
            )
        self.pass_at = pass_at
        self.measures = (*self.measures, *(f"pass@{k}" for k in pass_at))

    def check_spec(self, spec: Spec) -> None:
        """Check that there are tests."""
        require(spec, "problem", tests=list)
        if not isinstance(spec.get("setup", ""), str):
            raise ValueError(f"'setup' must be Python, as a text, got {spec['setup']!r:.60}")
        if not all(isinstance(test, str) for test in spec["tests"]):
            raise ValueError(f"'tests' must be a list of Python statements, got {spec['tests']!r:.60}")

    def plan(self, spec: Spec, replies: Sequence[str]) -> Job | Turn:
        """Join setup, program and tests; ask again where the newest reply has no program."""
        program = python_program(replies[-1])
        if program is None:
            return Turn(done=False, observation=NO_PROGRAM)
        return Job("\n\n".join([spec.get("setup", ""), program, *spec["tests"]]) + "\n")

    def judge(self, spec: Spec, outcome: Outcome) -> Turn:
        """Pass where the last assert was reached and held; leaving early with exit code 0 does not."""
        return Turn(done=True, score=float(outcome.status == "ok" and outcome.completed))

    def wrong(self, problem: Problem) -> list[str]:
        """Return a program that does nothing."""
        return ["```python\nanswer = 987654321\n```"]

    def combine(self, turns: Sequence[Turn]) -> Turn:
        """Return the mean of a problem's samples, with its pass@k."""
        passed = round(sum(turn.score for turn in turns))
        measures = {f"pass@{k}": pass_at_k(len(turns), passed, k) for k in self.pass_at}
        combined = super().combine(turns)
        return replace(combined, measures={**combined.measures, **measures})


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """Return the unbiased estimate that one of k programs passes, from ``samples`` >= k of which some passed.

    Source: equation 1 of "Evaluating Large Language Models Trained on Code" (arXiv 2107.03374).
    """
    return 1 - comb(samples - passed, k) / comb(samples, k)

"""Coding: a Python program against asserts, pass@1."""

from __future__ import annotations

from collections.abc import Sequence

from cyqd.llm.environments import Job, Outcome
from cyqd.llm.tasks.base import SandboxTask, Spec, Turn
from cyqd.llm.tasks.problems import require
from cyqd.llm.tasks.replies import python_program

NO_PROGRAM = "There is no Python program in your reply; answer with one."


class Coding(SandboxTask):
    """Write a program; it scores 1 if all of the problem's asserts hold.

    The first reply with a program in it is final, whether it passes or not (pass@1). A problem has ``tests``, a
    list of Python statements, and optionally ``setup``, Python that runs before the program.
    """

    default_name = "coding"

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

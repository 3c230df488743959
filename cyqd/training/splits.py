"""The even split of a task's problems into an optimisation half and a test half."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Literal, Protocol, TypeVar

Split = Literal["optimisation", "test"]


class HasId(Protocol):
    """Anything that is known by a name of its own within its task."""

    @property
    def id(self) -> str:
        """The name."""


Problem = TypeVar("Problem", bound=HasId)


def shuffled(problems: Iterable[Problem], seed: int) -> list[Problem]:
    """Order by a hash of seed and id, whatever the order of ``problems``; the ids must differ."""
    return sorted(problems, key=lambda problem: hashlib.sha256(f"{seed}:{problem.id}".encode()).digest())


def halves(problems: Iterable[Problem], seed: int) -> tuple[list[Problem], list[Problem]]:
    """Split evenly by a hash of seed and id, whatever the order of ``problems``; the first half may be one more.

    Args:
        problems: with different ids.
        seed: of the split.
    """
    ordered = shuffled(problems, seed)
    middle = (len(ordered) + 1) // 2
    return ordered[:middle], ordered[middle:]


def excluded(files: Sequence[Path], task: str, ids: Collection[str]) -> set[str]:
    """Return the ids that JSON files {task's name: [id, ...]} list for a task.

    Args:
        files: the files; other tasks' entries in them are ignored.
        task: the task's name.
        ids: the ids that exist.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file has another form, or lists an id that does not exist.
    """
    found: set[str] = set()
    for path in files:
        try:
            lists = json.loads(Path(path).read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"exclude: {path} is no valid JSON ({error})") from None
        if not isinstance(lists, dict) or not all(isinstance(listed, list) for listed in lists.values()):
            raise ValueError(f"exclude: {path} must hold an object of task names and lists of problem ids")
        listed = lists.get(task, [])
        if unknown := [problem for problem in listed if problem not in ids]:
            raise ValueError(
                f"exclude: {path} lists {len(unknown)} ids that task {task} lacks, such as {unknown[0]!r}"
            )
        found.update(listed)
    return found

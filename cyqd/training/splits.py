"""The even split of a task's problems into an optimisation half, some of which is kept back, and a test half."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Literal, Protocol, TypeVar, get_args

Split = Literal["optimisation", "selection", "test"]
"""What a model is scored on: the optimisation split drives the search, the test split is what is reported. On the
selection split, which is of the optimisation half too but drove nothing, final rules judge their candidates."""

SPLITS: tuple[Split, ...] = get_args(Split)


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


def kept_back(
    half: Sequence[Problem], limit: int | None, selection_limit: int | None
) -> tuple[Sequence[Problem], Sequence[Problem]]:
    """Divide an optimisation half into the optimisation split and the selection split.

    Args:
        half: its problems, in a fixed order.
        limit: length of the optimisation split; without it, that is all of the half.
        selection_limit: length of the selection split; as many as ``limit`` if not given.

    Returns:
        The first problems, and those that follow them; fewer, or none, where the half ends.
    """
    rest = [] if limit is None else half[limit:]
    return half[:limit], rest[: limit if selection_limit is None else selection_limit]


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

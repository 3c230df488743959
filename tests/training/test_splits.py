"""What is kept back of the optimisation half."""

from __future__ import annotations

import pytest

from cyqd.training.splits import kept_back

HALF = list("abcdefg")


@pytest.mark.parametrize(
    ("limit", "selection_limit", "expected"),
    [
        (None, None, ("abcdefg", "")),
        (None, 2, ("abcdefg", "")),
        (2, None, ("ab", "cd")),
        (5, None, ("abcde", "fg")),
        (2, 4, ("ab", "cdef")),
        (9, 1, ("abcdefg", "")),
    ],
)
def test_the_selection_split_follows_the_optimisation_split(
    limit: int | None, selection_limit: int | None, expected: tuple[str, str]
) -> None:
    assert kept_back(HALF, limit, selection_limit) == tuple(map(list, expected))

"""Coding: one sentence about a list of numbers, answered by one small Python function."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from itertools import product
from operator import add, gt, lt, mul
from typing import Any

from cyqd.llm.demo.grammar import Grammar, Part, Sentence

_NUMBERS = range(2, 7)
_TESTS = 3


def _divides(n: int, v: int) -> bool:
    return v % n == 0


_ALL = Part("numbers", "", lambda v: True)
_FILTERS = [
    _ALL,
    Part("even numbers", "v % 2 == 0", lambda v: v % 2 == 0),
    Part("odd numbers", "v % 2 == 1", lambda v: v % 2 == 1),
    Part("positive numbers", "v > 0", lambda v: v > 0),
    Part("negative numbers", "v < 0", lambda v: v < 0),
    *(Part(f"numbers above {n}", f"v > {n}", partial(lt, n)) for n in _NUMBERS),
    *(Part(f"numbers below {n}", f"v < {n}", partial(gt, n)) for n in _NUMBERS),
    *(Part(f"multiples of {n}", f"v % {n} == 0", partial(_divides, n)) for n in _NUMBERS if n > 2),
]
_SAME = Part("", "v", lambda v: v)
_MAPS = [
    _SAME,
    Part("squared", "v * v", lambda v: v * v),
    Part("negated", "-v", lambda v: -v),
    Part("made absolute", "abs(v)", abs),
    *(Part(f"plus {n}", f"v + {n}", partial(add, n)) for n in _NUMBERS),
    *(Part(f"minus {n}", f"v - {n}", partial(add, -n)) for n in _NUMBERS),
    *(Part(f"times {n}", f"v * {n}", partial(mul, n)) for n in _NUMBERS),
]
_AGGREGATES = [
    Part("the sum of the", "sum({})", sum),
    Part("the largest of the", "max({})", max),
    Part("the smallest of the", "min({})", min),
    Part("a list of the", "[{}]", list),
    Part("a sorted list of the", "sorted({})", sorted),
    Part("the first of the", "[{}][0]", lambda values: values[0]),
    Part("the last of the", "[{}][-1]", lambda values: values[-1]),
    Part("a reversed list of the", "[{}][::-1]", lambda values: values[::-1]),
    Part("the number of different", "len(set({}))", lambda values: len(set(values))),
]


class CodingGrammar(Grammar):
    """Aggregate × filter × map over a list ``x``; easy: five aggregates, at most one of filter and map."""

    name = "coding"

    def sentences(self) -> Iterator[Sentence]:
        """Yield every sentence once."""
        for aggregate, keep, change in product(_AGGREGATES, _FILTERS, _MAPS):
            each = f", each {change.words}" if change.words else ""
            condition = f" if {keep.code}" if keep.code else ""
            body = aggregate.code.format(f"{change.code} for v in x{condition}")
            yield Sentence(
                prompt=f"Write f(x): {aggregate.words} {keep.words} in x{each}.",
                reply=f"def f(x):\n    return {body}",
                parts=(aggregate, keep, change),
                easy=aggregate in _AGGREGATES[:5] and (keep is _ALL or change is _SAME),
            )

    def world(self, sentence: Sentence, rng: random.Random) -> dict[str, Any] | None:
        """Draw lists whose answers differ from each other and from those with the filter or map left out."""
        aggregate, keep, change = sentence.parts
        lists = [[rng.randint(-9, 12) for _ in range(rng.randint(5, 8))] for _ in range(_TESTS)]
        if not all(any(map(keep.run, values)) for values in lists):
            return None

        def answers(keep: Part, change: Part) -> list[Any]:
            return [aggregate.run([change.run(v) for v in values if keep.run(v)]) for values in lists]

        expected = answers(keep, change)
        shorter = [answers(_ALL, change)] * (keep is not _ALL) + [answers(keep, _SAME)] * (change is not _SAME)
        if expected in shorter or all(answer == expected[0] for answer in expected):
            return None
        return {"tests": [f"assert f({x}) == {y}" for x, y in zip(lists, expected, strict=True)]}

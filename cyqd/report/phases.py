"""Where the seconds of a run went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

EVALUATE = "evaluate"
STEPS = ("breed", "materialise", EVALUATE, "tell")
"""What a model's seconds are made of; any other phase is a part of "evaluate"."""

OTHER = "other evaluation"
"""What is left of "evaluate" beside its parts."""

CLOCK = 0.01
"""Seconds by which parts may exceed the whole without overlapping: clocks are read one after another."""


def split_seconds(models: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Split each model's seconds into phases that add up.

    "evaluate" is told apart into the parts that a domain clocks itself, and :data:`OTHER`. Where parts overlap in
    any model (environments that work while others generate) they are dropped, and "evaluate" stays whole.

    Args:
        models: each model's ``seconds``, as in the history; may be empty.

    Returns:
        By model, seconds by phase; all have the same phases, in the order in which a model goes through them.
    """
    names = dict.fromkeys(name for seconds in models for name in seconds)
    parts = [name for name in names if name not in STEPS]
    inside = [sum(seconds.get(part, 0.0) for part in parts) for seconds in models]
    if any(inner > seconds.get(EVALUATE, 0.0) + CLOCK for inner, seconds in zip(inside, models, strict=True)):
        parts = []
    return [_split(seconds, [step for step in STEPS if step in names], parts) for seconds in models]


def _split(seconds: Mapping[str, float], steps: Sequence[str], parts: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for step in steps:
        if step == EVALUATE and parts:
            found |= {part: seconds.get(part, 0.0) for part in parts}
            found[OTHER] = max(seconds.get(EVALUATE, 0.0) - sum(found[part] for part in parts), 0.0)
        else:
            found[step] = seconds.get(step, 0.0)
    return found

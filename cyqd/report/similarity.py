"""What the similarity of experts says: tables, a reading in plain words, warnings; a check before an evolution."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from torch import Tensor

from cyqd.evolution.comparison import compare
from cyqd.evolution.space import ExpertSpace
from cyqd.report.tables import align

UNEQUAL = 10.0
"""Rule of thumb: task vectors whose lengths differ by such a factor drown one another."""

OPPOSED = -0.1
"""Rule of thumb: a cosine below says that experts undo one another; unrelated task vectors have one near 0."""

ALIGNED = 0.2
"""Rule of thumb: a cosine above says that experts have learned something in common."""

SAME = 1e-6
"""Relative difference up to which two experts count as one and the same."""


def check_similarity(space: ExpertSpace) -> dict[str, Any]:
    """Compare a space's experts before an evolution, in one pass over the weights.

    Singular values are taken from the space's bases; where it has none they are not computed, as that takes long.

    Returns:
        What similarity.json holds: the values of :func:`cyqd.evolution.comparison.compare`, ``reading`` and
        ``warnings``. Empty if there is only one expert.
    """
    if len(space.tasks) < 2:
        return {}
    spectra: dict[str, dict[str, Tensor]] = {task: {} for task in space.tasks}
    for task, bases in zip(space.tasks, space.bases, strict=False):  # there may be none
        spectra[task] = {name: bases[name].sigma for name in bases.names}
    device = "cpu" if space.device.type == "mps" else space.device  # MPS has no float64
    return interpret(compare(space, spectra=spectra, device=device))


def interpret(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add ``reading`` and ``warnings``, sentences, to what :func:`cyqd.evolution.comparison.compare` returns."""
    warnings = [
        f"{name} equals its base: there is nothing to merge." for name, n in values["norms"].items() if n == 0
    ]
    warnings += [text for pair in combinations(values["models"], 2) if (text := _warning(pair, values))]
    return {**values, "reading": _reading(values), "warnings": warnings}


def pair_matrices(models: Sequence[str], pairs: Mapping[str, Mapping[str, float | None]]) -> dict[str, Any]:
    """Arrange pairs' values as symmetric matrices, for tables and charts.

    Args:
        models: the experts' names.
        pairs: ``similarity`` and ``cosine`` by pair "A+B", as in similarity.json; either may be missing.

    Returns:
        ``models``; ``similarity`` and ``cosine``, lists of rows with None on the diagonal and where a value is
        undefined, None themselves where they have no value at all.
    """
    found: dict[str, Any] = {"models": list(models)}
    for kind in ("similarity", "cosine"):
        rows = [[pairs.get(f"{a}+{b}", pairs.get(f"{b}+{a}", {})).get(kind) for b in models] for a in models]
        found[kind] = rows if any(value is not None for row in rows for value in row) else None
    return found


def _warning(pair: tuple[str, str], values: Mapping[str, Any]) -> str:
    """Say what is really wrong with a pair, if anything."""
    cosine = values["pairs"]["+".join(pair)]["cosine"]
    if cosine is None:  # one of them equals the base, which has been said
        return ""
    short, long = sorted(pair, key=values["norms"].__getitem__)
    a, b = values["norms"][short], values["norms"][long]
    if math.hypot(b - a, math.sqrt(2 * a * b * (1 - cosine))) <= SAME * b:  # the law of cosines
        return f"{short} and {long} are the same model."
    if b >= UNEQUAL * a:
        return (
            f"the task vector of {long} is {b / a:.0f} times as long as that of {short}, which it will drown; were "
            "both tuned from this base, at comparable rates?"
        )
    if cosine < OPPOSED:
        return f"{pair[0]} and {pair[1]} pull in opposite directions (cosine {cosine:.2f}): merging undoes both."
    return ""


def _reading(values: Mapping[str, Any]) -> list[str]:
    """Say what to expect from merging, and how little is known about it."""
    lengths = [norm for norm in values["norms"].values() if norm > 0]
    cosines = [pair["cosine"] for pair in values["pairs"].values() if pair["cosine"] is not None]
    similarities = [pair["similarity"] for pair in values["pairs"].values() if pair["similarity"] is not None]
    said = []
    if len(lengths) > 1:
        factor = max(lengths) / min(lengths)
        weight = "so an average weighs the experts about alike" if factor < 2 else "and weigh so in an average"
        said.append(f"The longest task vector is {factor:.2f} times as long as the shortest, {weight}.")
    if cosines:
        if min(cosines) < OPPOSED:
            meaning = "partly opposed: where experts disagree, merging undoes what they learned"
        elif max(cosines) < ALIGNED:
            meaning = (
                "nearly at right angles, as is usual for different skills: what one expert changed, the others"
            )
            meaning += " hardly touch, and an average keeps a share of each"
        else:
            meaning = "partly aligned: the experts have learned something in common, which merging keeps"
        said.append(f"The task vectors' cosines are {_range(cosines, 2)}, {meaning} (rule of thumb).")
    if similarities:
        text = f"The similarity of singular values is {_range(similarities, 3)}."
        if min(similarities) < 0.9:
            text += " Below 0.9 the updates are of different make (rule of thumb): full tuning beside LoRA, say."
        said.append(
            f"{text} In the paper more similar pairs merged better; six pairs in this project's demos were too few "
            "to tell (95 % intervals of the correlation about −0.7 to 0.9). Only scoring the merged models tells."
        )
    return said


def similarity_tables(values: Mapping[str, Any]) -> str:
    """Render pairs, lengths, groups and layers as Markdown tables."""
    pairs = [[_title(p), *map(_text, (v["similarity"], v["cosine"]))] for p, v in values["pairs"].items()]
    lengths = [[model, f"{norm:.4g}"] for model, norm in values["norms"].items()]
    tables = [
        align(["experts", "similarity of singular values", "cosine of task vectors"], pairs),
        align(["expert", "length of its task vector"], lengths),
    ]
    for kind in ("groups", "layers"):
        columns = list(values[kind])
        header = [f"{kind[:-1]}: similarity, cosine", *map(_title, columns)]
        lines = [
            [part, *(f"{_text(v['similarity'])}, {_text(v['cosine'])}" for v in cells)]
            for part, *cells in (
                [part, *(values[kind][p][part] for p in columns)] for part in values[kind][columns[0]]
            )
        ]
        tables.append(align(header, lines))
    return "\n\n".join(tables)


def distinguish(paths: Sequence[Path]) -> list[str]:
    """Return the shortest ends of paths that tell each from the others, "&" for "+", which joins pairs' names.

    Raises:
        ValueError: if two paths are the same place, or differ in nothing else.
    """
    places = [path.resolve() for path in paths]
    for number, place in enumerate(places):
        if place in places[:number]:
            raise ValueError(f"{paths[number]} is named twice; expected different models")
    for depth in range(1, max(len(place.parts) for place in places) + 1):
        names = ["/".join(place.parts[-depth:]).replace("+", "&") for place in places]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"expected names that differ in more than '+' and '&', got {', '.join(map(str, paths))}")


def _title(pair: str) -> str:
    return pair.replace("+", " + ")


def _range(numbers: Sequence[float], digits: int) -> str:
    low, high = f"{min(numbers):.{digits}f}", f"{max(numbers):.{digits}f}"
    return low if low == high else f"{low} to {high}"


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"

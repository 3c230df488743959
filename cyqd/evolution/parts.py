"""Parts of a model: which parameters share a coefficient, told by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, NamedTuple

Granularity = Literal["model", "layer", "group"]
"""What shares one coefficient: the whole model, each layer, or each group of like parameters over all layers."""


def parts_of(name: str) -> tuple[str, str]:
    """Return a parameter's layer and group.

    The layer is its name up to and with its first number ("model.layers.12"), the group what follows without
    ".weight" ("mlp.down_proj"). A name without a number is its own layer and group.
    """
    found = re.fullmatch(r"((?:[^.]+\.)*?\d+)\.(.+)", name)
    return (found[1], found[2].removesuffix(".weight")) if found else (name, name)


class Parts(NamedTuple):
    """The parts of a model.

    Attributes:
        names: the parts, in the order of their first parameters.
        indices: the index of each parameter's part, by the parameter's name.
    """

    names: list[str]
    indices: dict[str, int]


def find_parts(parameters: Iterable[str], granularity: Granularity) -> Parts:
    """Group parameters into parts; "model" has one part, whose name is "model"."""
    if granularity == "model":
        return Parts(["model"], dict.fromkeys(parameters, 0))
    part_by_name = {name: parts_of(name)[granularity == "group"] for name in parameters}
    indices = {part: index for index, part in enumerate(dict.fromkeys(part_by_name.values()))}
    return Parts(list(indices), {name: indices[part] for name, part in part_by_name.items()})


def common_granularity(first: Granularity, second: Granularity) -> Granularity:
    """Return the granularity of a combination: every other one refines "model".

    Raises:
        ValueError: if one is "layer" and the other "group", of which neither refines the other.
    """
    if first == second or second == "model":
        return first
    if first == "model":
        return second
    raise ValueError(f"granularity: expected both {first!r} (or 'model'), got {first!r} and {second!r}")

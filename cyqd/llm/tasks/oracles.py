"""Whether a program's outputs agree with the reference's, as EvalPlus decides it.

The rules are those of EvalPlus 0.3.1 (``evalplus/eval/__init__.py`` and ``_special_oracle.py``), its peculiarities
included, so that scores are comparable.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

SETS = frozenset(
    {
        "similar_elements", "find_char_long", "common_in_nested_lists", "extract_singly", "larg_nnum",
        "intersection_array", "find_dissimilar", "Diff",
    }
)  # fmt: skip
"""MBPP+ functions of whose result only the set of its items counts."""

PRESENCE = frozenset({"check_str", "text_match_three", "text_starta_endb"})
"""MBPP+ functions of whose result only counts whether it is None; a bool stands for itself."""

_FLOAT_ATOL = 1e-6  # where a problem gives none
_RTOL = 1e-7
_BROADCAST = 10**6  # values; arrays of different shapes that would broadcast to more are not compared


def agree(
    name: str,
    inputs: Sequence[Sequence[Any]],
    expected: Sequence[Any],
    outputs: Sequence[Any],
    *,
    atol: float,
) -> bool:
    """Return whether ``outputs`` are what the reference returned.

    Args:
        name: the function's name, by which problems with rules of their own are known.
        inputs: arguments of each call.
        expected: what the reference returned for each.
        outputs: what the program returned; fewer where it did not get to the end.
        atol: absolute tolerance; from the first expected float on, it is at least 1e-6.
    """
    if len(outputs) != len(inputs):
        return False
    for arguments, wanted, output in zip(inputs, expected, outputs, strict=True):
        if atol == 0 and _is_floats(wanted):
            atol = _FLOAT_ATOL
        try:
            if not _agrees(name, arguments, wanted, output, atol):
                return False
        except (TypeError, ValueError, ArithmeticError, RecursionError):  # not even comparable
            return False
    return True


def _agrees(name: str, arguments: Sequence[Any], wanted: Any, output: Any, atol: float) -> bool:
    if name == "find_zero":  # HumanEval/32: any root will do
        (coefficients,) = arguments
        return bool(abs(sum(c * math.pow(output, i) for i, c in enumerate(coefficients))) <= atol)
    if name in PRESENCE:
        wanted = wanted if isinstance(wanted, bool) else wanted is not None
        return bool((output if isinstance(output, bool) else output is not None) == wanted)
    if output == wanted or (name in _ALSO and _ALSO[name](arguments, output, atol)):
        return True
    if atol == 0 or type(output) is not type(wanted):
        return False
    if isinstance(wanted, (list, tuple)) and len(output) != len(wanted):
        return False
    mine, theirs = np.asarray(output), np.asarray(wanted)
    if mine.shape != theirs.shape and mine.size * theirs.size > _BROADCAST:
        return False
    return bool(np.allclose(mine, theirs, rtol=_RTOL, atol=atol))


def _is_floats(value: Any) -> bool:
    if isinstance(value, (list, tuple)) and value:
        return all(isinstance(item, float) for item in value)
    return isinstance(value, float)


def _surface(base: float, height: float) -> int:
    """Return the surface of a square pyramid of this base edge and perpendicular height, rounded."""
    return round(base**2 + 2 * base * math.sqrt((base / 2) ** 2 + height**2))


def _digit_distance(first: int, second: int) -> int:
    """Return the sum of the differences of two numbers' digits, place by place from the right."""
    width = max(len(str(first)), len(str(second)))
    digits = zip(str(first).zfill(width), str(second).zfill(width), strict=True)
    return sum(abs(int(a) - int(b)) for a, b in digits)


_ALSO: dict[str, Callable[[Sequence[Any], Any, float], bool]] = {
    "are_equivalent": lambda arguments, output, atol: True,  # Mbpp/164: EvalPlus takes any answer
    "sum_div": lambda arguments, output, atol: bool(output == 0),  # Mbpp/295
    "digit_distance_nums": lambda arguments, output, atol: bool(output == _digit_distance(*arguments)),  # Mbpp/558
    "surface_Area": lambda arguments, output, atol: bool(abs(output - _surface(*arguments)) <= atol),  # Mbpp/581
}
"""What is right as well, by function."""

"""Call a program's function on many inputs and print what it returns.

This file is the source of a sandboxed job, so it imports the standard library only; the host imports it for
:func:`encode` and :func:`decode`. The job never learns what is expected: comparing is the host's part, and a
program that patches, forges or searches what is in its process gains nothing.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Callable, Set
from pathlib import Path
from signal import ITIMER_PROF, ITIMER_REAL, setitimer
from time import process_time
from typing import Any

PROGRAM, CALLS, TESTS = "cyqd_program.py", "cyqd_calls.json", "cyqd_tests.py"
PATIENCE = 5  # wall-clock seconds for each second of CPU time that a call may take


class Other:
    """Stands for a value of a type that is not told in detail: it differs from all else."""

    def __init__(self, kind: str) -> None:
        self.kind = kind


def encode(value: Any) -> Any:
    """Return ``value`` as JSON types that :func:`decode` reads.

    What Python calls equal stays equal: subclasses become their built-in types, and views of a dict are sets.
    """
    if value is None or isinstance(value, (bool, str, float)):
        return value
    if isinstance(value, int):
        return value if abs(value) < 1 << 63 else {"int": hex(value)}  # decimal digits are limited, these are not
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [encode(item) for item in value]}
    if isinstance(value, Set):
        return {"set": [encode(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in value.items()]}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    return {"other": type(value).__name__}


_KINDS: dict[str, Callable[[Any], Any]] = {
    "int": lambda digits: int(digits, 16),
    "tuple": tuple,
    "set": set,
    "dict": dict,
    "complex": lambda parts: complex(*parts),
    "bytes": bytes.fromhex,
    "other": Other,
}


def decode(text: str) -> Any:
    """Read what was encoded and dumped.

    Raises:
        ValueError, TypeError, KeyError, ArithmeticError, RecursionError: if ``text`` is not that.
    """

    def restore(pairs: list[tuple[str, Any]]) -> Any:
        ((kind, content),) = pairs
        return _KINDS[kind](content)

    return json.loads(text, object_pairs_hook=restore)


def load(program: str) -> dict[str, Any]:
    """Run a program and return its names.

    As EvalPlus's sanitizer does, lines at the end that are no Python (prose, a statement cut off) are dropped, and
    what the program tries out at its top level does not count: an assert or a call there may fail.
    """
    lines = program.split("\n")
    for end in range(len(lines), 0, -1):
        try:
            tree = ast.parse("\n".join(lines[:end]))
        except SyntaxError:
            continue
        break
    ignore = ast.ExceptHandler(ast.Name("Exception", ast.Load()), None, [ast.Pass()])
    tree.body = [
        ast.Try([statement], [ignore], [], [])
        if isinstance(statement, ast.Assert)
        or (isinstance(statement, ast.Expr) and not isinstance(statement.value, ast.Constant))
        else statement
        for statement in tree.body
    ]
    names: dict[str, Any] = {}
    exec(compile(ast.fix_missing_locations(tree), "solution.py", "exec", dont_inherit=True), names)
    return names


def allow(seconds: float) -> None:
    """Let the process end by a signal when it has used so much CPU time, or waited long; 0 lifts the limit."""
    setitimer(ITIMER_PROF, seconds)
    setitimer(ITIMER_REAL, PATIENCE * seconds)


def main() -> None:
    """Run asserts, or print a line ``[returned, CPU seconds]`` per call; end with the first exception or limit.

    The file PROGRAM is Python. TESTS, if it is there, is Python that runs behind it. Else CALLS has ``name`` (of
    the function), ``as_set`` (whether only the set of what it returns counts), ``load_seconds``, and ``groups``:
    pairs of a list of arguments and the seconds that each call may take, 0 for no limit. Each group is called in a
    program loaded anew.
    """
    program = Path(PROGRAM).read_text(encoding="utf-8")
    if Path(TESTS).exists():
        tests = Path(TESTS).read_text(encoding="utf-8")
        exec(compile(tests, TESTS, "exec", dont_inherit=True), load(program))
        return
    job = decode(Path(CALLS).read_text(encoding="ascii"))
    results = os.fdopen(os.dup(1), "w", buffering=1, encoding="ascii")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)  # what the program prints is not part of the results
    os.dup2(null, 2)
    for inputs, seconds in job["groups"]:
        allow(job["load_seconds"])
        function = load(program)[job["name"]]
        for arguments, limit in zip(inputs, seconds):  # noqa: B905 (both come from one list)
            allow(limit)
            start = process_time()
            returned = function(*arguments)
            if job["as_set"]:
                returned = set(returned)
            used = process_time() - start
            allow(0)  # telling what it returned is not the program's time
            print(json.dumps([encode(returned), used]), file=results)


if __name__ == "__main__":
    main()

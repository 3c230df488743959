"""Small faults put into programs, one at a time."""

from __future__ import annotations

import ast
import copy
import random
from collections.abc import Iterator

SWAPS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Add, ast.FloorDiv), ast.Div: (ast.Mult, ast.FloorDiv),
    ast.FloorDiv: (ast.Mult, ast.Div), ast.Mod: (ast.FloorDiv, ast.Add), ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,), ast.BitOr: (ast.BitAnd,), ast.BitXor: (ast.BitOr,),
    ast.LShift: (ast.RShift,), ast.RShift: (ast.LShift,),
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.And: (ast.Or,), ast.Or: (ast.And,),
}  # fmt: skip


def mutants(source: str, count: int, seed: int) -> list[str]:
    """Return up to ``count`` different mutants of a program, drawn by ``seed`` from all that can be made."""
    tree = ast.parse(source)
    sites = [(number, fault) for number, node in enumerate(ast.walk(tree)) for fault in range(len(_faults(node)))]
    random.Random(seed).shuffle(sites)
    untouched = {number for number, node in enumerate(ast.walk(tree)) if id(node) in _inert(tree)}
    original, found = ast.unparse(tree), []
    for number, fault in sites:
        if len(found) == count:
            break
        if number in untouched:
            continue
        changed = copy.deepcopy(tree)
        node = list(ast.walk(changed))[number]
        field, value = _faults(node)[fault]
        setattr(node, field, value)
        text = ast.unparse(ast.fix_missing_locations(changed))
        if text != original and text not in found:
            found.append(text)
    return found


def _faults(node: ast.AST) -> list[tuple[str, object]]:
    """Return (field, new value) for each fault that a node can be given."""
    faults: list[tuple[str, object]] = []
    if isinstance(node, (ast.BinOp, ast.AugAssign, ast.BoolOp)):
        faults += [("op", kind()) for kind in SWAPS.get(type(node.op), ())]
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            faults += [("ops", [*node.ops[:i], kind(), *node.ops[i + 1 :]]) for kind in SWAPS[type(op)]]
    if isinstance(node, ast.Constant):
        faults += [("value", value) for value in _constants(node.value)]
    if isinstance(node, ast.Return) and node.value is not None:
        whole = node.value
        faults += [("value", ast.Constant(None)), ("value", ast.UnaryOp(ast.Not(), whole))]
        faults += [("value", kind([whole, whole], ast.Load())) for kind in (ast.List, ast.Tuple)]
    if isinstance(node, (ast.If, ast.While, ast.IfExp)):
        faults.append(("test", ast.UnaryOp(ast.Not(), node.test)))
    if isinstance(node, ast.Call) and len(node.args) > 1:
        faults.append(("args", [node.args[1], node.args[0], *node.args[2:]]))
    if isinstance(node, ast.comprehension):
        faults.append(("ifs", [ast.UnaryOp(ast.Not(), test) for test in node.ifs] or [ast.Constant(False)]))
    if isinstance(node, ast.For):
        faults.append(("body", [*node.body, ast.Break()]))
    return faults


def _constants(value: object) -> Iterator[object]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, (int, float)):
        yield from (value + 1, value - 1)
    elif isinstance(value, str):
        yield value + "x"


def _inert(tree: ast.AST) -> set[int]:
    """Return the ids of nodes that say nothing to Python at run time: docstrings and annotations."""
    inert: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            inert.add(id(node.value))
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if part is not None:
                inert.update(id(inner) for inner in ast.walk(part))
    return inert

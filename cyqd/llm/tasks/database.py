"""Database: SQL against the problem's own tables."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import Any

from cyqd.llm.environments import Job, Outcome
from cyqd.llm.tasks.base import SandboxTask, Spec, Turn, failure
from cyqd.llm.tasks.problems import Problem, require
from cyqd.llm.tasks.replies import code_or_raw

Row = Sequence[Any]

# Runs in the sandbox: the problem's tables in memory, all statements in turn, the last one's answer as JSON. It is
# not told what is expected.
_PROGRAM = """
import json, sqlite3
spec = json.loads({spec!r})
database = sqlite3.connect(":memory:", isolation_level=None)
try:
    database.executescript(spec["setup"])
except sqlite3.Error as error:
    print(json.dumps({{"fault": f"the problem's setup failed: {{error}}"}}))
    raise SystemExit
for sql in spec["replies"]:
    answer = {{"error": "Error: no SQL statement"}}
    try:
        rows = database.execute(sql).fetchmany(spec["most"])
        if sql:
            answer = {{"rows": rows}}
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        answer = {{"error": f"Error: {{error}}"}}
if "rows" in answer:
    try:
        state = {{t: database.execute(f'SELECT * FROM "{{t}}"').fetchall() for t in spec["tables"]}}
        answer["state"] = state
    except sqlite3.Error as error:  # the statement dropped a table that is asked about
        answer["state"] = {{}}
print(json.dumps(answer, default=bytes.hex))
"""


class Database(SandboxTask):
    """Write SQL (SQLite); it scores 1 if it returns the expected rows or leaves the expected tables.

    SQL that fails is answered by its error, and the model may try again; SQL that runs is final. A problem has
    ``setup``, a script that makes its tables, and either ``expected``, rows (in order only where ``ordered`` is
    true), or ``state``, table name → its rows or their :func:`table_hash`.
    """

    default_name = "database"

    def check_spec(self, spec: Spec) -> None:
        """Check that there are tables and exactly one kind of answer."""
        require(spec, "problem", setup=str)
        if ("expected" in spec) == ("state" in spec):
            raise ValueError("exactly one of the keys 'expected' and 'state' is needed")
        if "state" in spec:
            require(spec, "problem", state=dict)
            tables = list(spec["state"].values())
        else:
            tables = [spec["expected"]]
        for rows in tables:
            if not (isinstance(rows, list) and all(isinstance(row, list) for row in rows)) and not (
                "state" in spec and isinstance(rows, str)
            ):
                raise ValueError(f"rows must be a list of lists of values, got {rows!r:.60}")

    def plan(self, spec: Spec, replies: Sequence[str]) -> Job:
        """Run all replies in turn on fresh tables."""
        asked = {
            "setup": spec["setup"],
            "replies": [code_or_raw(reply, "sql", "sqlite") for reply in replies],
            "tables": list(spec.get("state", ())),
            "most": len(spec.get("expected", ())) + 1,
        }
        return Job(_PROGRAM.format(spec=json.dumps(asked)))

    def judge(self, spec: Spec, outcome: Outcome) -> Turn:
        """Compare rows or tables where the SQL ran, else report its error."""
        if outcome.status != "ok":
            return Turn(done=False, observation=failure(outcome))
        answer = json.loads(outcome.stdout)
        if "fault" in answer:
            return Turn(done=True, fault=answer["fault"])
        if "error" in answer:
            return Turn(done=False, observation=answer["error"])
        if "state" in spec:
            good = all(
                name in answer["state"] and same_table(answer["state"][name], table)
                for name, table in spec["state"].items()
            )
        else:
            good = same_rows(answer["rows"], spec["expected"], ordered=spec.get("ordered", False))
        return Turn(done=True, score=float(good))

    def wrong(self, problem: Problem) -> list[str]:
        """Return a statement that runs and changes nothing."""
        return ["SELECT 987654321"]


def same_rows(rows: Sequence[Row], expected: Sequence[Row], *, ordered: bool = False) -> bool:
    """Return whether the rows are equal: numbers to a relative 1e-6, everything else exactly."""
    if not ordered:
        rows, expected = sorted(rows, key=_order), sorted(expected, key=_order)
    return len(rows) == len(expected) and all(map(_same_row, rows, expected))


def same_table(rows: Sequence[Row], expected: Sequence[Row] | str) -> bool:
    """Return whether a table holds the expected rows, or rows with the expected hash, in any order."""
    return table_hash(rows) == expected if isinstance(expected, str) else same_rows(rows, expected)


def table_hash(rows: Sequence[Row]) -> str:
    """Return SHA-256 of the rows in any order, in hexadecimal; 1 and 1.0 are the same, so are 0.1 + 0.2 and 0.3."""
    lines = sorted(json.dumps([_plain(value) for value in row], ensure_ascii=False) for row in rows)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def _plain(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return int(value) if value.is_integer() else f"{value:.9g}"


def _order(row: Row) -> list[tuple[str, Any]]:
    """Sort key of a row whose values are of several types."""
    return [
        ("number", value) if isinstance(value, (int, float)) else (type(value).__name__, str(value))
        for value in row
    ]


def _same_row(row: Row, expected: Row) -> bool:
    return len(row) == len(expected) and all(map(_same_value, row, expected))


def _same_value(value: Any, expected: Any) -> bool:
    if isinstance(value, float) or isinstance(expected, float):
        numbers = isinstance(value, (int, float)) and isinstance(expected, (int, float))
        return numbers and math.isclose(value, expected, rel_tol=1e-6, abs_tol=1e-9)
    return bool(value == expected)

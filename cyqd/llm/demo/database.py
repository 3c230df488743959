"""Database: a question about one table, answered by one SQL statement."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from cyqd.llm.demo.grammar import Grammar, Sentence

_ROWS = 24
_LIMITS = range(10, 91, 10)
_NAMES = [start + end for start, end in product(["an", "be", "cor", "di", "el", "fa"], ["a", "do", "ne", "ry"])]
Layout = tuple[str, str, tuple[str, ...], tuple[str, str]]
"""A table's columns: names, groups, the groups' values, and two of numbers."""

_TABLES: dict[str, Layout] = {
    "pets": ("name", "kind", ("cat", "dog", "bird", "fish"), ("age", "weight")),
    "books": ("title", "genre", ("crime", "drama", "poems", "travel"), ("pages", "price")),
    "cars": ("model", "color", ("red", "blue", "black", "white"), ("speed", "cost")),
    "towns": ("name", "land", ("peru", "chad", "nepal", "malta"), ("people", "area")),
    "songs": ("title", "style", ("rock", "jazz", "folk", "soul"), ("length", "plays")),
    "teams": ("name", "sport", ("chess", "golf", "rugby", "polo"), ("wins", "points")),
}
_AGGREGATES = {"total": "SUM", "average": "AVG", "largest": "MAX", "smallest": "MIN"}


def _questions(table: str) -> Iterator[tuple[str, str]]:
    """Yield (words, SQL up to the condition, with what comes after it behind ``{}``)."""
    name, group, _, numbers = _TABLES[table]
    yield f"how many {table}", f"SELECT COUNT(*) FROM {table}{{}}"
    yield f"the {name} of {table}", f"SELECT {name} FROM {table}{{}}"
    yield f"the different {group} of {table}", f"SELECT DISTINCT {group} FROM {table}{{}}"
    yield f"delete {table}", f"DELETE FROM {table}{{}}"
    for number in numbers:
        for words, function in _AGGREGATES.items():
            yield f"the {words} {number} of {table}", f"SELECT {function}({number}) FROM {table}{{}}"
        for words, order in ("most", "DESC"), ("least", "ASC"):
            sql = f"SELECT {name} FROM {table}{{}} ORDER BY {number} {order} LIMIT 1"
            yield f"the {name} with the {words} {number} of {table}", sql


def _conditions(table: str) -> Iterator[tuple[tuple[str, str], ...]]:
    """Yield zero, one or two (words, SQL) conditions: on the group column, on a number, on both."""
    _, group, groups, numbers = _TABLES[table]
    on_group = [(f"{group} is {value}", f"{group} = '{value}'") for value in groups]
    on_group += [(f"{group} is not {value}", f"{group} != '{value}'") for value in groups]
    on_number = [
        (f"{number} {words} {limit}", f"{number} {sign} {limit}")
        for number, (words, sign), limit in product(numbers, [("above", ">"), ("below", "<")], _LIMITS)
    ]
    yield ()
    yield from ((condition,) for condition in on_group + on_number)
    yield from product(on_group[: len(groups)], on_number)


class DatabaseGrammar(Grammar):
    """Question × conditions over six tables; easy where at most one condition names a group's value."""

    name = "database"

    def sentences(self) -> Iterator[Sentence]:
        """Yield every sentence once."""
        for table, (name, group, _, numbers) in _TABLES.items():
            for (words, sql), conditions in product(_questions(table), _conditions(table)):
                if sql.startswith("DELETE") and not conditions:
                    continue
                where = " and ".join(words for words, _ in conditions)
                yield Sentence(
                    prompt=f"{table}({', '.join((name, group, *numbers))}): {words}"
                    + (f" where {where}." if where else "."),
                    reply=sql.format(_where(conditions)),
                    parts=(table, sql, conditions),
                    easy=len(conditions) < 2
                    and "ORDER" not in sql
                    and not sql.startswith("DELETE")
                    and all("=" in code for _, code in conditions),
                )

    def world(self, sentence: Sentence, rng: random.Random) -> dict[str, Any] | None:
        """Draw a table in which every condition matters and the answer is none that a guess would hit."""
        table, sql, conditions = sentence.parts
        setup = table_script(table, _TABLES[table], _NAMES, rng)
        database = sqlite3.connect(":memory:")
        database.executescript(setup)

        def run(statement: str) -> list[list[Any]]:
            """Return the statement's rows, or for DELETE those that it leaves."""
            rows = database.execute(statement).fetchall()
            if statement.startswith("DELETE"):
                rows = database.execute(f"SELECT * FROM {table}").fetchall()
                database.rollback()
            return [list(row) for row in rows]

        expected = run(sentence.reply)
        shorter = [run(sql.format(_where(conditions[:i] + conditions[i + 1 :]))) for i in range(len(conditions))]
        untouched = run(f"SELECT * FROM {table}")
        database.close()
        if expected in (*shorter, untouched, [], [[None]], [[0]], [[1]]):
            return None
        if sql.startswith("DELETE"):
            return {"setup": setup, "state": {table: expected}}
        return {"setup": setup, "expected": expected}

    def mistakes(self, sentence: Sentence) -> tuple[str, ...]:
        """Return the reply with a wrong table, a wrong column, and a missing FROM."""
        table, sql, conditions = sentence.parts
        wrong = [sentence.reply.replace(f"FROM {table}", f"FROM {table[:-1]}")]
        if conditions:
            _, code = conditions[-1]
            wrong.append(sentence.reply.replace(code, f"the_{code}"))
        if sql.startswith("SELECT"):
            wrong.append(sentence.reply.replace("FROM ", ""))
        return tuple(wrong)


def _where(conditions: tuple[tuple[str, str], ...]) -> str:
    return " WHERE " + " AND ".join(code for _, code in conditions) if conditions else ""


def table_script(table: str, layout: Layout, names: Sequence[str], rng: random.Random) -> str:
    """Return the SQL script that makes ``table`` with 24 rows; a name or number occurs once in its column."""
    name, group, groups, numbers = layout
    columns = [rng.sample(range(1, 100), _ROWS) for _ in numbers]
    rows = ", ".join(
        f"('{who}', '{rng.choice(groups)}', {first}, {second})"
        for who, first, second in zip(rng.sample(names, _ROWS), *columns, strict=True)
    )
    return (
        f"CREATE TABLE {table} ({name} TEXT, {group} TEXT, {numbers[0]} INTEGER, {numbers[1]} INTEGER);\n"
        f"INSERT INTO {table} VALUES {rows};"
    )

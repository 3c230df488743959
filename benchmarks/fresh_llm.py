"""Three fresh grammars for the demo's tasks, to see whether what was chosen on the demo holds elsewhere.

They were written after the search's preset had been chosen and ask for what the demo does not: functions over a
string of words, SQL that groups, ranks and updates, and shell commands over a directory of files. The data have the
demo's names and layout, so that its configs serve with other paths:

    python -m benchmarks.fresh_llm --out runs/fresh/llm --seed 0
"""

from __future__ import annotations

import argparse
import random
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from itertools import combinations, product
from operator import itemgetter, methodcaller
from pathlib import Path
from typing import Any

from cyqd.llm.demo.database import Layout, table_script
from cyqd.llm.demo.generate import generate
from cyqd.llm.demo.grammar import Grammar, Part, Sentence

_WORDS = """
    able ace age area art aspect assist aunt avocado base beast boat cat data ease east easy edge eel eggs elastic
    else end eraser estate extra face forest gate gates hats idea least lost nest oats pasta pets post roses salt
    sea seat sister south spot state steel summit table tale tea tent theatre tissue toast tomato toes tree twist
    vase waste west yeast zebra
"""

_ALL, _SAME = ("words", ""), ("", "w")
_FILTERS = [
    _ALL,
    *((f"words longer than {n}", f"len(w) > {n}") for n in (3, 4, 5)),
    *((f"words shorter than {n}", f"len(w) < {n}") for n in (4, 5, 6)),
    *((f"words with {letter}", f"'{letter}' in w") for letter in "aeot"),
    *((f"words without {letter}", f"'{letter}' not in w") for letter in "aeot"),
    *((f"words past {letter}", f"w > '{letter}'") for letter in "ept"),
    *((f"words until {letter}", f"w < '{letter}'") for letter in "ept"),
]
_MAPS = [
    _SAME,
    ("in capitals", "w.upper()"),
    ("reversed", "w[::-1]"),
    ("doubled", "w * 2"),
    *((f"cut to {n}", f"w[:{n}]") for n in (1, 2, 3)),
    *((f"cut after {n}", f"w[{n}:]") for n in (1, 2)),
    *((f"behind {letter}", f"'{letter}' + w") for letter in "aeot"),
    *((f"before {letter}", f"w + '{letter}'") for letter in "aeot"),
]
_AGGREGATES = [
    ("the joined", "''.join({})"),
    ("the least of the", "min({})"),
    ("a tuple of the", "tuple({})"),
    ("the numbered", "list(enumerate({}))"),
    ("the sorted unique", "sorted(set({}))"),
    ("the greatest of the", "max({})"),
    ("the second of the", "[{}][1]"),
    ("the first two of the", "[{}][:2]"),
    ("the rest of the", "[{}][1:]"),
]


def _body(aggregate: str, keep: str, change: str) -> str:
    return aggregate.format(f"{change} for w in s.split()" + (f" if {keep}" if keep else ""))


class FreshCoding(Grammar):
    """Aggregate × filter × map over a string ``s`` of words; easy: five aggregates, at most one of the others."""

    name = "coding"

    def sentences(self) -> Iterator[Sentence]:
        """Yield every sentence once."""
        for aggregate, keep, change in product(_AGGREGATES, _FILTERS, _MAPS):
            (gather, aggregate_code), (words, keep_code), (each, change_code) = aggregate, keep, change
            yield Sentence(
                prompt=f"Write g(s): {gather} {words} in s{f', each {each}' if each else ''}.",
                reply=f"def g(s):\n    return {_body(aggregate_code, keep_code, change_code)}",
                parts=(aggregate_code, keep_code, change_code),
                easy=aggregate in _AGGREGATES[:5] and (keep is _ALL or change is _SAME),
            )

    def world(self, sentence: Sentence, rng: random.Random) -> dict[str, Any] | None:
        """Draw three texts whose answers differ from each other and from those without the filter or map."""
        aggregate, keep, change = sentence.parts
        texts = [" ".join(rng.sample(_WORDS.split(), rng.randint(5, 8))) for _ in range(3)]

        def answers(aggregate: str, keep: str, change: str) -> list[Any]:
            function = eval(f"lambda s: {_body(aggregate, keep, change)}")  # this file's own words, no model's
            return [function(text) for text in texts]

        if min(map(len, answers("[{}]", keep, change))) < 2:
            return None
        expected = answers(aggregate, keep, change)
        shorter = [answers(aggregate, "", change)] * (keep != "") + [answers(aggregate, keep, "w")] * (
            change != "w"
        )
        if expected in shorter or all(answer == expected[0] for answer in expected):
            return None
        return {"tests": [f"assert g({x!r}) == {y!r}" for x, y in zip(texts, expected, strict=True)]}


_RANGES = list(combinations((10, 30, 40, 60, 70, 90), 2))
_ENTRIES = [
    start + end for start, end in product(["gor", "hul", "ja", "kem", "lo", "mi"], ["bo", "da", "ri", "za"])
]
_TABLES: dict[str, Layout] = {
    "tools": ("label", "brand", ("acme", "bolt", "core", "duro"), ("stock", "cost")),
    "films": ("title", "mood", ("dark", "fun", "sad", "warm"), ("rank", "votes")),
    "boats": ("name", "port", ("cork", "kiel", "oslo", "riga"), ("crew", "mast")),
    "wines": ("label", "taste", ("dry", "soft", "sour", "sweet"), ("year", "rank")),
    "farms": ("name", "crop", ("corn", "hops", "oats", "rice"), ("cows", "land")),
    "games": ("title", "mode", ("solo", "duel", "team", "race"), ("level", "votes")),
}
_FUNCTIONS = {"total": "SUM", "average": "AVG", "largest": "MAX", "smallest": "MIN"}
_SIGNS = [("", ""), ("not ", "NOT ")]
_CLAUSES = ["GROUP", "HAVING", "ORDER", "LIMIT"]


def _statements(table: str) -> Iterator[tuple[str, str]]:
    """Yield (words, SQL), each with the place of the condition as ``{}``."""
    name, group, _, numbers = _TABLES[table]
    yield (
        f"each {group} with its count in {table}{{}}",
        f"SELECT {group}, COUNT(*) FROM {table}{{}} GROUP BY {group}",
    )
    for number, (words, function) in product(numbers, _FUNCTIONS.items()):
        sql = f"SELECT {group}, {function}({number}) FROM {table}{{}} GROUP BY {group}"
        yield f"each {group} with its {words} {number} in {table}{{}}", sql
    for n in (3, 5):
        sql = f"SELECT {group} FROM {table}{{}} GROUP BY {group} HAVING COUNT(*) > {n}"
        yield f"each {group} in {table}{{}}, having over {n}", sql
    for number, (words, order), n in product(numbers, [("falling", "DESC"), ("rising", "ASC")], (2, 3)):
        sql = f"SELECT {name} FROM {table}{{}} ORDER BY {number} {order} LIMIT {n}"
        yield f"the {name} in {table}{{}}, {number} {words}, only {n}", sql
    for number, n in product(numbers, (5, 8)):
        yield f"in {table} set {number} to {n}{{}}", f"UPDATE {table} SET {number} = {n}{{}}"
        yield f"in {table} raise {number} by {n}{{}}", f"UPDATE {table} SET {number} = {number} + {n}{{}}"


def _conditions(table: str) -> Iterator[tuple[str, str]]:
    """Yield (words, SQL): no condition, then those on the group column, then those on a number."""
    _, group, groups, numbers = _TABLES[table]
    yield "", ""
    for (words, sign), (a, b) in product(_SIGNS, combinations(groups, 2)):
        yield f" where {group} {words}in {a} or {b}", f" WHERE {group} {sign}IN ('{a}', '{b}')"
    for number, (words, sign), (low, high) in product(numbers, _SIGNS, _RANGES):
        yield (
            f" where {number} {words}between {low} and {high}",
            f" WHERE {number} {sign}BETWEEN {low} AND {high}",
        )


class FreshDatabase(Grammar):
    """Statement × condition over six tables; easy: a number for each group, with a choice of groups at most."""

    name = "database"

    def sentences(self) -> Iterator[Sentence]:
        """Yield every sentence once."""
        for table, (name, group, _, numbers) in _TABLES.items():
            for (words, sql), (where, condition) in product(_statements(table), _conditions(table)):
                yield Sentence(
                    prompt=f"{table}({', '.join((name, group, *numbers))}): {words.format(where)}.",
                    reply=sql.format(condition),
                    parts=(table, sql, condition),
                    easy=sql.endswith(f"GROUP BY {group}") and (not condition or f"{group} IN" in condition),
                )

    def world(self, sentence: Sentence, rng: random.Random) -> dict[str, Any] | None:
        """Draw a table in which the condition and every clause matter; the answer is none that a guess hits."""
        table, sql, condition = sentence.parts
        setup = table_script(table, _TABLES[table], _ENTRIES, rng)
        database = sqlite3.connect(":memory:")
        database.executescript(setup)

        def run(statement: str) -> list[list[Any]]:
            """Return the statement's rows, or for UPDATE those of the table after it."""
            rows = database.execute(statement).fetchall()
            if statement.startswith("UPDATE"):
                rows = database.execute(f"SELECT * FROM {table}").fetchall()
                database.rollback()
            return [list(row) for row in rows]

        expected = run(sentence.reply)
        shorter = [sentence.reply.partition(f" {word}")[0] for word in _CLAUSES if word in sentence.reply]
        if condition:
            shorter.append(sql.format(""))
        known = [[], run(f"SELECT * FROM {table}"), *map(run, shorter)]
        database.close()
        if expected in known:
            return None
        if sql.startswith("UPDATE"):
            return {"setup": setup, "state": {table: expected}}
        return {"setup": setup, "expected": expected, "ordered": "ORDER" in sql}

    def mistakes(self, sentence: Sentence) -> tuple[str, ...]:
        """Return the reply with a wrong table, a missing FROM or SET, and a wrong column in the condition."""
        table, _, condition = sentence.parts
        wrong = [
            sentence.reply.replace(f" {table}", f" {table[:-1]}"),
            sentence.reply.replace("SET " if "SET" in sentence.reply else "FROM ", ""),
        ]
        if condition:
            wrong.append(sentence.reply.replace(" WHERE ", " WHERE the_"))
        return tuple(wrong)


_STEMS, _ENDINGS = ["may", "june", "july"], ["csv", "txt", "log"]
_DIRECTORY = [f"{stem}.{ending}" for stem, ending in product(_STEMS, _ENDINGS)]
_SWAPS = [("a", "o"), ("e", "u")]
_GOODS = ["apple", "bean", "cake", "date", "egg", "leek", "meat", "pear", "tea", "bread", "salad", "peach"]
_FILE_LINES = 5

Lines = list[str]
Files = dict[str, Lines]
Change = Callable[[str], str]


def _rows(keep: Callable[[int, str], bool], files: Files) -> Lines:
    """Return the lines of all files for which ``keep``, called with the line's number in its file, is true."""
    return [line for name in sorted(files) for number, line in enumerate(files[name], 1) if keep(number, line)]


def _row(n: int, number: int, line: str) -> bool:
    return number == n


def _other_row(n: int, number: int, line: str) -> bool:
    return number != n


def _above(n: int, number: int, line: str) -> bool:
    return int(line.split()[1]) > n


def _below(n: int, number: int, line: str) -> bool:
    return int(line.split()[1]) < n


def _each(change: Change, lines: Lines) -> Lines:
    return [change(line) for line in lines]


def _field(n: int, line: str) -> str:
    return line.split()[n - 1]


_EVERY = Part("rows", "cat {}", partial(_rows, lambda number, line: True))
_SOURCES = [
    _EVERY,
    *(Part(f"row {n}", f"sed -sn {n}p {{}}", partial(_rows, partial(_row, n))) for n in (2, 3, 4)),
    *(Part(f"all but row {n}", f"sed -s {n}d {{}}", partial(_rows, partial(_other_row, n))) for n in (2, 3, 4)),
    *(Part(f"rows above {n}", f"awk '$2>{n}' {{}}", partial(_rows, partial(_above, n))) for n in (30, 50, 70)),
    *(Part(f"rows below {n}", f"awk '$2<{n}' {{}}", partial(_rows, partial(_below, n))) for n in (30, 50, 70)),
]
_NAMES = Part("names", "ls {}", sorted)
_NO = Part("", "", list)
_FIELDS = [
    _NO,
    *(Part(f"field {n}", f"awk '{{print ${n}}}'", partial(_each, partial(_field, n))) for n in (1, 2, 3)),
]
_CHANGES = [
    _NO,
    Part("backwards", "rev", partial(_each, itemgetter(slice(None, None, -1)))),
    *(Part(f"without {a}", f"tr -d {a}", partial(_each, methodcaller("replace", a, ""))) for a in "ae"),
    *(Part(f"with {a} as {b}", f"tr {a} {b}", partial(_each, methodcaller("replace", a, b))) for a, b in _SWAPS),
]
_ENDS = [
    _NO,
    Part("numbered", "nl", lambda lines: [f"{i:6}\t{line}" for i, line in enumerate(lines, start=1)]),
    Part("joined by commas", "paste -sd ,", lambda lines: [",".join(lines)]),
    Part("greatest width", "wc -L", lambda lines: [str(max(map(len, lines)))]),
    Part("stop at 2", "sed 2q", itemgetter(slice(2))),
    Part("skip 1", "sed 1d", itemgetter(slice(1, None))),
]


class FreshOS(Grammar):
    """Source × field × change × end over six sets of files; easy where one stage follows the source at most."""

    name = "os"

    def sentences(self) -> Iterator[Sentence]:
        """Yield every sentence once; the files' names have no fields."""
        sets = [(stem, f"{stem}*") for stem in _STEMS] + [(ending, f"*.{ending}") for ending in _ENDINGS]
        sources = [*product(_SOURCES, _FIELDS), (_NAMES, _NO)]
        for (kind, glob), (source, field), change, end in product(sets, sources, _CHANGES, _ENDS):
            stages = [stage for stage in (field, change, end) if stage is not _NO]
            words = ", ".join([f"{source.words} of the {kind} files", *(stage.words for stage in stages)])
            yield Sentence(
                prompt=f"Show {words}.",
                reply=" | ".join([source.code.format(glob), *(stage.code for stage in stages)]),
                parts=(kind, source, *stages),
                easy=len(stages) + (source is not _EVERY) < 2,
            )

    def world(self, sentence: Sentence, rng: random.Random) -> dict[str, Any] | None:
        """Draw a directory in which every stage matters: the set's three files and two others."""
        kind, source, *stages = sentence.parts
        chosen = [name for name in _DIRECTORY if kind in name.split(".")]
        others = rng.sample([name for name in _DIRECTORY if name not in chosen], 2)
        files = {name: [_line(rng) for _ in range(_FILE_LINES)] for name in sorted([*chosen, *others])}

        def run(source: Part, stages: list[Part], names: list[str]) -> Lines:
            lines: Lines = source.run({name: files[name] for name in names})
            for stage in stages:
                lines = stage.run(lines) if lines else []
            return lines

        expected = run(source, stages, chosen)
        shorter = [run(source, stages[:i] + stages[i + 1 :], chosen) for i in range(len(stages))]
        if source not in (_EVERY, _NAMES):
            shorter.append(run(_EVERY, stages, chosen))
        if expected in (*shorter, run(source, stages, list(files)), []):
            return None
        texts = {name: "".join(f"{line}\n" for line in lines) for name, lines in files.items()}
        return {"files": texts, "expected": "\n".join(expected)}

    def mistakes(self, sentence: Sentence) -> tuple[str, ...]:
        """Return the reply with its last command misspelt, and with an option that it does not have."""
        *before, last = sentence.reply.split(" | ")
        command, *options = last.split(" ")
        misspelt = " ".join([command + command[-1], *options])
        wrong = [" | ".join([*before, misspelt]), " | ".join([*before, " ".join([command, "-k", *options])])]
        return tuple(wrong[: 1 if command in ("awk", "ls") else 2])


def _line(rng: random.Random) -> str:
    """Return a line with three fields: a word, a number, a word."""
    first, last = rng.sample(_GOODS, 2)
    return f"{first} {rng.randint(10, 99)} {last}"


GRAMMARS: tuple[Grammar, ...] = (FreshCoding(), FreshDatabase(), FreshOS())


def main() -> None:
    """Parse the command line and write the data."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fresh_llm", description="Make data and model of three tasks that the demo lacks."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write to; data/ and init/ appear in it")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything that is drawn (default 0)")
    arguments = parser.parse_args()
    generate(arguments.out, seed=arguments.seed, grammars=GRAMMARS)
    print(f"wrote {arguments.out / 'data'} and {arguments.out / 'init'}")


if __name__ == "__main__":
    main()

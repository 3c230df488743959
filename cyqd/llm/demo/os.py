"""Operating system: a question about the lines of a file, answered by one shell pipeline."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from itertools import product
from operator import itemgetter
from typing import Any

from cyqd.llm.demo.grammar import Grammar, Part, Sentence

_FILES = ["app.log", "web.log", "users.txt", "notes.txt", "todo.md", "stock.csv"]
_SOUGHT = ["red", "blue", "green", "black", "apple", "pear", "plum", "lemon"]
_WORDS = [*_SOUGHT, "cat", "dog", "bird", "fish", "north", "south", "east", "west"]
_LINES, _LINE_WORDS = 12, 3
_NUMBERS = range(2, 6)

Lines = list[str]


def _with(word: str, lines: Lines) -> Lines:
    return [line for line in lines if word in line]


def _without(word: str, lines: Lines) -> Lines:
    return [line for line in lines if word not in line]


def _column(number: int, lines: Lines) -> Lines:
    return [line.split()[number - 1] for line in lines]


_ALL = Part("", "cat {}", list)
_SOURCES = [
    _ALL,
    *(Part(f" with {word}", f"grep {word} {{}}", partial(_with, word)) for word in _SOUGHT),
    *(Part(f" without {word}", f"grep -v {word} {{}}", partial(_without, word)) for word in _SOUGHT),
]
_NO = Part("", "", list)
_COLUMNS = [
    _NO,
    *(Part(f"only word {n}", f"cut -d ' ' -f {n}", partial(_column, n)) for n in range(1, _LINE_WORDS + 1)),
]
_ORDERS = [
    _NO,
    Part("sorted", "sort", sorted),
    Part("sorted backwards", "sort -r", lambda lines: sorted(lines, reverse=True)),
    Part("sorted once each", "sort -u", lambda lines: sorted(set(lines))),
    Part("bottom up", "tac", lambda lines: lines[::-1]),
    Part("in capitals", "tr a-z A-Z", lambda lines: [line.upper() for line in lines]),
]
_ENDS = [
    _NO,
    Part("count them", "wc -l", lambda lines: [str(len(lines))]),
    *(Part(f"the first {n}", f"head -n {n}", itemgetter(slice(n))) for n in _NUMBERS),
    *(Part(f"the last {n}", f"tail -n {n}", itemgetter(slice(-n, None))) for n in _NUMBERS),
]


class OSGrammar(Grammar):
    """Source × column × order × end over six files; easy where one stage follows the source at most."""

    name = "os"

    def sentences(self) -> Iterator[Sentence]:
        """Yield every sentence once, but for those that count lines after stages that keep their number."""
        for file, source, column, order, end in product(_FILES, _SOURCES, _COLUMNS, _ORDERS, _ENDS):
            stages = [stage for stage in (column, order, end) if stage is not _NO]
            if end.code == "wc -l" and order.code != "sort -u" and len(stages) > 1:
                continue
            words = ", ".join([f"lines of {file}{source.words}", *(stage.words for stage in stages)])
            yield Sentence(
                prompt=f"Print {words}.",
                reply=" | ".join([source.code.format(file), *(stage.code for stage in stages)]),
                parts=(file, source, *stages),
                easy=len(stages) + (source is not _ALL) < 2,
            )

    def world(self, sentence: Sentence, rng: random.Random) -> dict[str, Any] | None:
        """Draw files in which every stage matters; the file that is asked about lies among two others."""
        file, *stages = sentence.parts
        others = rng.sample([name for name in _FILES if name != file], 2)
        files = {name: [_line(rng) for _ in range(_LINES)] for name in sorted([file, *others])}
        expected = _run(stages, files[file])
        shorter = [
            _run(stages[:i] + stages[i + 1 :], files[file]) for i in range(len(stages)) if stages[i] is not _ALL
        ]
        if expected in shorter or expected in ([], ["0"], ["1"]):
            return None
        texts = {name: "".join(f"{line}\n" for line in lines) for name, lines in files.items()}
        return {"files": texts, "expected": "\n".join(expected)}

    def mistakes(self, sentence: Sentence) -> tuple[str, ...]:
        """Return the reply with its last command misspelt, and with an option that it does not have."""
        *before, last = sentence.reply.split(" | ")
        command, *options = last.split(" ")
        misspelt = " ".join([command[:-1] + command[-1] * 2, *options])
        wrong = [" | ".join([*before, misspelt]), " | ".join([*before, " ".join([command, "-k", *options])])]
        return tuple(wrong[: 1 if command in ("sort", "cat") else 2])


def _line(rng: random.Random) -> str:
    return " ".join(rng.choices(_WORDS, k=_LINE_WORDS))


def _run(stages: list[Part], lines: Lines) -> Lines:
    for stage in stages:
        lines = stage.run(lines)
    return lines

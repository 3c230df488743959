"""The results table: models × tasks on the test split, with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def results_row(name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a line of a history into a row of the results table.

    The interval of the mean over tasks adds the tasks' one-sided widths in squares, since the tasks' problems
    are independent samples (Zou and Donner 2008).

    Args:
        name: the model's name.
        record: a history line: ``scores``, ``intervals`` and ``n`` by task, and perhaps ``measures``, ``faults``
            and ``retries``.

    Returns:
        ``model``, ``tasks`` (by task: mean, low, high, n), ``mean`` (mean, low, high), and those of ``measures``,
        ``faults`` and ``retries`` that the line has.
    """
    tasks = {
        task: {"mean": mean, "low": low, "high": high, "n": record["n"][task]}
        for (task, mean), (low, high) in zip(record["scores"].items(), record["intervals"].values(), strict=True)
    }
    cells = list(tasks.values())
    mean = math.fsum(cell["mean"] for cell in cells) / len(cells)
    below = math.hypot(*(cell["mean"] - cell["low"] for cell in cells)) / len(cells)
    above = math.hypot(*(cell["high"] - cell["mean"] for cell in cells)) / len(cells)
    return {
        "model": name,
        "tasks": tasks,
        "mean": {"mean": mean, "low": mean - below, "high": mean + above},
        **{key: record[key] for key in ("measures", "faults", "retries") if key in record},
    }


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Render rows of :func:`results_row` as Markdown: a table of scores, and one of the measures if there are any.

    Args:
        rows: at least one row; all with the same tasks.
    """
    header = ["model", *(f"{task} (n = {cell['n']})" for task, cell in rows[0]["tasks"].items()), "mean"]
    text = align(header, [[row["model"], *map(_cell, row["tasks"].values()), _cell(row["mean"])] for row in rows])
    names = [(task, name) for task, means in rows[0].get("measures", {}).items() for name in means]
    if not names:
        return text
    measures = [[row["model"], *(f"{row['measures'][task][name]:.3f}" for task, name in names)] for row in rows]
    return f"{text}\n\n{align(['model', *(f'{task}: {name}' for task, name in names)], measures)}"


def align(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Render a Markdown table whose columns line up.

    Args:
        header: the columns' titles.
        lines: as many cells each.
    """
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header))]

    def render(line: Sequence[str]) -> str:
        return "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([render(header), rule, *map(render, lines)])


def _cell(score: Mapping[str, float]) -> str:
    return f"{score['mean']:.3f} [{score['low']:.3f}, {score['high']:.3f}]"

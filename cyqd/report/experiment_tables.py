"""An experiment's tables, in Markdown, LaTeX and CSV, and its figure."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cyqd.evolution.storage import atomic_path, save_json
from cyqd.report.figures.differences import differences_figure
from cyqd.report.figures.style import save
from cyqd.report.tables import align

LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "Δ": r"$\Delta$",
    "−": "$-$",
    "–": "--",
    "…": r"\ldots{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # else it would be the argument of a line break before it
}


def write_comparison(folder: Path, comparison: Mapping[str, Any]) -> str:
    """Write table.{md,tex,csv}, rules.{md,tex,csv}, differences.{png,svg} and results.json.

    Args:
        folder: where to.
        comparison: what :func:`cyqd.report.experiment.compare_methods` gives.

    Returns:
        table.md.
    """
    notes = _notes(comparison)
    table = _write(folder / "table", *_methods(comparison), notes)
    _write(folder / "rules", *_rules(comparison), notes)
    save_json(folder / "results.json", comparison)
    if any(row["difference"] for row in comparison["rows"] if row["final"]):
        save(differences_figure(comparison), folder / "differences", formats=("png", "svg"))
    return table


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """Render a table and the notes below it as Markdown."""
    lines = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    return "\n\n".join([align(header, lines), *notes]) + "\n"


def latex(header: Sequence[str], lines: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    r"""Render a table and the notes below it for LaTeX; it needs ``\usepackage{booktabs}``."""

    def render(line: Sequence[str]) -> str:
        return "  " + " & ".join(map(escape, line)) + r" \\"

    body = [render(header), r"  \midrule", *map(render, lines)]
    start = [rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"  \toprule"]
    table = [*start, *body, r"  \bottomrule", r"\end{tabular}"]
    return "\n".join([r"% needs \usepackage{booktabs}", *table, *(f"\n{escape(note)}" for note in notes)]) + "\n"


def escape(text: str) -> str:
    """Return a text as LaTeX that prints it."""
    return re.sub("|".join(map(re.escape, LATEX)), lambda found: LATEX[found[0]], text)


def _write(
    path: Path, header: list[str], lines: list[list[str]], numbers: list[dict[str, Any]], notes: list[str]
) -> str:
    """Write one table in three formats; return the Markdown."""
    sheet = io.StringIO()
    writer = csv.DictWriter(sheet, list(numbers[0]) if numbers else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(numbers)
    texts = {"md": markdown(header, lines, notes), "tex": latex(header, lines, notes), "csv": sheet.getvalue()}
    for kind, text in texts.items():
        with atomic_path(path.with_name(f"{path.name}.{kind}")) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return texts["md"]


def _methods(comparison: Mapping[str, Any]) -> tuple[list[str], list[list[str]], list[dict[str, Any]]]:
    """Return header, lines and numbers of the table of methods, each by its final model."""
    header = [
        "model",
        *comparison["problems"],
        "mean",
        f"Δ to {comparison['reference']}",
        "t over seeds",
        "evaluations",
        "seconds",
    ]
    rows = [row for row in comparison["rows"] if row["final"]]
    lines = [
        [
            row["model"],
            *(f"{score['mean']:.3f}" for score in row["tasks"].values()),
            _interval(row["mean"]),
            _interval(row["difference"] and row["difference"]["mean"], "+.3f"),
            "[{:+.3f}, {:+.3f}]".format(*over) if (over := _over_seeds(row)) else "–",
            _evaluations(row),
            "–" if row["seconds"] is None else f"{row['seconds']:.0f}",
        ]
        for row in rows
    ]
    return header, lines, [_numbers(row) for row in rows]


def _rules(comparison: Mapping[str, Any]) -> tuple[list[str], list[list[str]], list[dict[str, Any]]]:
    """Return header, lines and numbers of the table of methods × final rules; a method's own one is marked."""
    rows = [row for row in comparison["rows"] if row["method"] is not None]
    rules = list(dict.fromkeys(row["rule"] for row in rows))
    found = {(row["method"], row["rule"]): row for row in rows}

    def cell(method: str, rule: str) -> str:
        row = found.get((method, rule))
        return "–" if row is None else _interval(row["mean"]) + (" *" if row["final"] else "")

    methods = dict.fromkeys(row["method"] for row in rows)
    lines = [[method, *(cell(method, rule) for rule in rules)] for method in methods]
    return ["model", *rules], lines, [_numbers(row) for row in rows]


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return all numbers of a model, by column of a CSV file."""
    values = {"mean": row["mean"], **row["tasks"]}
    differences = row["difference"] and {"mean": row["difference"]["mean"], **row["difference"]["tasks"]}
    columns: dict[str, Any] = {"model": row["model"], "rule": row["rule"], "final": int(row["final"])}
    columns["seeds"] = len(row["seeds"])
    for kind, found in (("score", values), ("difference", differences)):
        for name in values:
            for key in ("mean", "low", "high"):
                columns[f"{kind} {name} {key}"] = found[name][key] if found else ""
    columns["t over seeds low"], columns["t over seeds high"] = _over_seeds(row) or ("", "")
    return {
        **columns,
        "evaluations": _evaluations(row),
        "seconds": "" if row["seconds"] is None else row["seconds"],
    }


def _notes(comparison: Mapping[str, Any]) -> list[str]:
    """Return what must be said below the tables."""
    seeds, rows = comparison["seeds"], [row for row in comparison["rows"] if row["method"] is not None]
    sizes = ", ".join(f"{task} {'–'.join(map(str, sizes))}" for task, sizes in comparison["problems"].items())
    over, of_these = "over seeds, and over the problems of each drawn seed", ""
    if comparison["shared"]:
        of_these = " on these very problems: what other problems would change is not in it"
        over = "over seeds and over their problems, which all seeds share"
    if len(seeds) == 1:
        over = "over problems alone, as there is one seed: how much seeds differ is not in them"
    notes = [
        f"Seeds: {', '.join(map(str, seeds))}; test problems of a seed: {sizes}. Intervals: 95 %, percentiles of "
        f"{comparison['draws']} bootstrap draws {over}. Δ is paired: both models on the same seeds and problems. "
        f"Beside it is Student's t interval of the seeds' mean differences{of_these}. Evaluations are those of "
        "children; seconds are those of the search, mean over seeds. In the table of rules, * marks the one that a "
        "method is judged by."
    ]
    if comparison["missing"]:
        notes.append(f"Missing: {'; '.join(comparison['missing'])}.")
    finals = {row["method"]: row for row in rows if row["final"]}
    uneven = [
        f"{method} ({_evaluations(row)})"
        for method, row in finals.items()
        for children, rescored in zip(row["children"].values(), row["rescored"].values(), strict=True)
        if children is not None and children + rescored != comparison["budget"]
    ]
    if uneven:
        notes.append(f"Not the budget of {comparison['budget']} evaluations: {'; '.join(dict.fromkeys(uneven))}.")
    faults = {method: sum(row["faults"].values()) for method, row in finals.items()}
    if broke := [f"{method} {count}" for method, count in faults.items() if count]:
        notes.append(f"Test problems that broke, and count 0: {'; '.join(broke)}.")
    return notes


def _over_seeds(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return Student's t interval of the difference over seeds, if there is one."""
    found: tuple[float, float] | None = row["difference"] and row["difference"]["seeds"]
    return found


def _interval(value: Mapping[str, float] | None, form: str = ".3f") -> str:
    return "–" if value is None else f"{value['mean']:{form}} [{value['low']:{form}}, {value['high']:{form}}]"


def _evaluations(row: Mapping[str, Any]) -> str:
    """Return how many children were evaluated, and how many models once more for the choice among them."""
    pairs = dict.fromkeys(zip(row["children"].values(), row["rescored"].values(), strict=True))
    return ", ".join(f"{'–' if c is None else c}{f' + {r}' if r else ''}" for c, r in pairs) or "–"

"""Methods compared: what pairs with what, what is flagged, and how the tables are written."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cyqd.report.experiment import CellRecord, compare_methods
from cyqd.report.experiment_tables import escape, latex, write_comparison

TASKS = ("red", "blue")


def cell(method: str, seed: int, better: float = 0.0, *, problems: int = 20, **other: Any) -> CellRecord:
    """A search whose own rules score ``better`` than the base on every problem of the seed."""
    rng = np.random.default_rng(seed)
    base = {task: {str(n): float(rng.random()) for n in range(problems)} for task in TASKS}
    own = {task: {n: score + better for n, score in scores.items()} for task, scores in base.items()}
    values = {
        "final": "first",
        "own": {"first": own, "second": base},
        "beside": {"base": base},
        "children": 7,
        "rescored": 0,
        "seconds": 2.0,
        "faults": 0,
        "splits": {"red": {"sha256": [str(seed)]}},
    }
    return CellRecord(method=method, seed=seed, **{**values, **other})


def rows(comparison: dict[str, Any]) -> dict[tuple[str | None, str], dict[str, Any]]:
    return {(row["method"], row["rule"]): row for row in comparison["rows"]}


def compare(*cells: CellRecord, **options: Any) -> dict[str, Any]:
    return compare_methods(cells, "A", budget=7, draws=200, **options)


def test_a_difference_is_taken_problem_by_problem() -> None:
    found = rows(compare(*(cell(m, s, better) for s in range(3) for m, better in (("A", 0.1), ("B", 0.3)))))
    difference = found["B", "first"]["difference"]["mean"]
    assert [difference[key] for key in ("mean", "low", "high")] == pytest.approx([0.2] * 3)
    assert found["B", "first"]["difference"]["seeds"] == pytest.approx((0.2, 0.2))
    assert found[None, "base"]["difference"]["tasks"]["blue"]["low"] == pytest.approx(-0.1)
    assert found["A", "first"]["difference"] is None
    assert found["A", "second"]["difference"]["mean"]["mean"] == pytest.approx(-0.1)


def test_what_stands_beside_the_methods_comes_first_and_once() -> None:
    found = compare(*(cell(m, s) for s in range(2) for m in "BA"))
    assert [(row["method"], row["rule"]) for row in found["rows"]] == [
        (None, "base"),
        *((method, rule) for method in "BA" for rule in ("first", "second")),
    ]


def test_a_method_that_misses_a_seed_is_compared_on_the_others() -> None:
    found = compare(cell("A", 0), cell("A", 1), cell("B", 1, 0.1), missing=["B, seed 0"])
    row = rows(found)["B", "first"]
    assert row["seeds"] == [1]
    assert row["difference"]["mean"]["mean"] == pytest.approx(0.1)
    assert rows(found)["A", "first"]["seeds"] == [0, 1]


def test_without_the_reference_there_are_scores_and_no_differences() -> None:
    found = compare(cell("B", 0))
    assert all(row["difference"] is None for row in found["rows"])
    assert rows(found)["B", "first"]["mean"]["mean"] > 0


def test_methods_of_a_seed_need_the_same_problems() -> None:
    with pytest.raises(ValueError, match="seed 0: B was not tested on the problems of A"):
        compare(cell("A", 0), cell("B", 0, problems=21))


def test_problems_are_shared_by_seeds_if_their_contents_are_the_same() -> None:
    assert not compare(cell("A", 0), cell("A", 1))["shared"]
    same = {"red": {"sha256": ["x"]}}
    assert compare(cell("A", 0, splits=same), cell("A", 1, splits=same))["shared"]


def test_methods_with_other_splits_have_the_same_test_problems() -> None:
    few, many = {"red": {"sha256": ["few"]}}, {"red": {"sha256": ["many"]}}
    cells = [cell(method, seed, splits=own) for seed in range(2) for method, own in (("A", few), ("B", many))]
    assert compare(*cells)["shared"]


def test_problems_that_seeds_share_are_said_to_limit_the_interval_over_seeds(tmp_path: Path) -> None:
    said = "what other problems would change is not in it"
    apart = [cell(method, seed) for method in "AB" for seed in range(2)]
    assert said not in write_comparison(tmp_path, compare(*apart))
    shared = [cell(method, seed, splits={}) for method in "AB" for seed in range(2)]
    assert said in write_comparison(tmp_path, compare(*shared))


def test_tables_say_what_is_uneven_missing_or_broke(tmp_path: Path) -> None:
    cells = [
        cell("A", 0, rescored=5),
        cell("B", 0, children=6, faults=2),
        cell("C", 0, children=None, seconds=None),
    ]
    text = write_comparison(tmp_path, compare(*cells, missing=["A, seed 1"]))
    assert "Missing: A, seed 1." in text
    assert "Not the budget of 7 evaluations: A (7 + 5); B (6)." in text
    assert "count 0: B 2." in text
    assert "there is one seed" in text
    line = next(line for line in text.splitlines() if line.startswith("| A "))
    assert line.split("|")[-3:-1] == [" 7 + 5       ", " 2       "]


def test_tables_are_written_in_three_formats_with_a_figure(tmp_path: Path) -> None:
    write_comparison(tmp_path, compare(*(cell(m, s, 0.1 * s) for s in range(2) for m in "AB")))
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"{name}.{kind}" for name in ("table", "rules") for kind in ("md", "tex", "csv")),
        "differences.png",
        "differences.svg",
        "results.json",
    }
    numbers = list(csv.DictReader(io.StringIO((tmp_path / "rules.csv").read_text())))
    assert [(row["model"], row["rule"], row["final"]) for row in numbers] == [
        (method, rule, str(int(rule == "first"))) for method in "AB" for rule in ("first", "second")
    ]
    assert float(numbers[2]["difference mean low"]) == 0
    assert (tmp_path / "rules.md").read_text().count("] *") == 2
    assert "minus that of A" in (tmp_path / "differences.svg").read_text()


def test_latex_prints_every_character_of_a_name() -> None:
    assert escape(r"a_b & 50% #1 {x} ~ ^ \ $") == (
        r"a\_b \& 50\% \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} \$"
    )
    text = latex(["model", "Δ"], [["[odd]", "–"]], [])
    assert r"  {[}odd] & -- \\" in text
    assert r"  model & $\Delta$ \\" in text
    assert r"\begin{tabular}{lr}" in text

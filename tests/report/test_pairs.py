"""Pairs of experts: normalised scores, their correlation with similarity, the table and the scatter plot."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from scipy import stats

from cyqd.report.pairs import correlation, pair_row, pairs_table, write_pairs


def results(a: str, b: str, merged: tuple[float, float]) -> dict[str, Any]:
    """The results of a pair's run; each expert scores 0.8 on its own task and 0.2 on the other."""
    scores = {"base": (0.1, 0.1), f"expert {a}": (0.8, 0.2), f"expert {b}": (0.2, 0.8), "CycleQD aggregate": merged}
    rows = [
        {"model": model, "tasks": {task: {"mean": s} for task, s in zip((a, b), score, strict=True)}}
        for model, score in scores.items()
    ]
    return {"final": "CycleQD aggregate", "rows": rows}


def measured(pair: tuple[str, str], similarity: float | None) -> dict[str, Any]:
    """What similarity.json of a pair's run says."""
    return {"models": list(pair), "pairs": {"+".join(pair): {"similarity": similarity, "cosine": 0.0}}}


def write_runs(folder: Path, *, known: bool) -> None:
    """Write what every pair's run leaves; with similarities, or without."""
    for pair, (merged, similarity) in PAIRS.items():
        run = folder / "+".join(pair)
        run.mkdir()
        (run / "results.json").write_text(json.dumps(results(*pair, merged)))
        (run / "similarity.json").write_text(json.dumps(measured(pair, similarity if known else None)))


PAIRS = {
    ("x", "y"): ((0.4, 0.6), 0.90),
    ("x", "z"): ((0.6, 0.8), 0.93),
    ("y", "z"): ((0.6, 0.4), 0.91),
    ("w", "z"): ((0.8, 0.8), 0.95),
}


def rows() -> list[dict[str, Any]]:
    return [pair_row(pair, results(*pair, merged), measured(pair, s)) for pair, (merged, s) in PAIRS.items()]


def test_scores_are_divided_by_those_of_each_tasks_own_expert() -> None:
    row = rows()[0]
    assert row["merged"] == {"CycleQD aggregate": pytest.approx({"x": 0.5, "y": 0.75, "mean": 0.625})}
    assert (row["pair"], row["similarity"], row["final"]) == (["x", "y"], 0.90, "CycleQD aggregate")


def test_an_expert_that_scores_nothing_leaves_no_ratio() -> None:
    run = results("x", "y", (0.4, 0.6))
    run["rows"][1]["tasks"]["x"]["mean"] = 0.0
    row = pair_row(("x", "y"), run, measured(("x", "y"), 0.9))
    assert row["merged"]["CycleQD aggregate"] == {"x": None, "y": pytest.approx(0.75), "mean": None}
    assert "| x + y   | x –" in pairs_table([row])


def test_the_correlation_is_pearsons() -> None:
    found = correlation(rows(), "CycleQD aggregate")
    similarity = [s for _, s in PAIRS.values()]
    reference = stats.pearsonr(similarity, [(a + b) / 1.6 for (a, b), _ in PAIRS.values()])
    interval = reference.confidence_interval(0.95)
    assert [found[key] for key in ("r", "low", "high")] == pytest.approx([reference.statistic, *interval])
    assert found["n"] == 4


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_what_is_undefined_is_not_made_up(count: int) -> None:
    few = rows()[:count]
    found = correlation(few, "CycleQD aggregate")
    assert (found["r"] is None, found["low"] is None) == (count < 3, count < 4)
    same = [{**row, "similarity": 0.9} for row in rows()]
    assert correlation(same, "CycleQD aggregate")["r"] is None


def test_a_strategy_without_similarity_still_gets_its_table(tmp_path: Path) -> None:
    write_runs(tmp_path, known=False)
    table = write_pairs(tmp_path, PAIRS)
    assert table.count("| –") >= len(PAIRS) + 1
    assert json.loads((tmp_path / "pairs.json").read_text())["correlation"]["CycleQD aggregate"]["n"] == 0


def test_table_json_and_scatter_plot_are_written(tmp_path: Path) -> None:
    write_runs(tmp_path, known=True)
    table = write_pairs(tmp_path, PAIRS)
    assert (tmp_path / "pairs.md").read_text() == table + "\n"
    assert "| w + z   | w 1.000" in table
    saved = json.loads((tmp_path / "pairs.json").read_text())
    assert math.isclose(
        saved["correlation"]["CycleQD aggregate"]["r"], correlation(rows(), "CycleQD aggregate")["r"]
    )
    picture = imread(tmp_path / "pairs.png")
    assert (picture[..., :3].std(axis=(0, 1)) > 0.01).all()

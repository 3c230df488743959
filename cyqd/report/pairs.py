"""Pairs of experts compared: how much of the experts' scores a merged model keeps, and their similarity.

The paper's Table 4 (section 4.2.3) and the correlation that it is about.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from cyqd.evolution.storage import atomic_path, load_json, save_json
from cyqd.report.figures import scatter
from cyqd.report.tables import align


def pair_row(pair: Sequence[str], results: Mapping[str, Any], similarity: Mapping[str, Any]) -> dict[str, Any]:
    """Compare a pair's merged models with its experts.

    Args:
        pair: the two tasks.
        results: what results.json of their evolution holds.
        similarity: what similarity.json holds.

    Returns:
        ``pair``, ``similarity`` of the experts (None if it is not known), ``final`` (the model that the run
        chose) and ``merged``: by model, its test score on each task divided by that of the task's own expert, and
        the ``mean`` of both; None where that expert scores 0.
    """
    scores = {row["model"]: {task: cell["mean"] for task, cell in row["tasks"].items()} for row in results["rows"]}
    experts = {f"expert {task}": task for task in pair}
    merged = {}
    for model, score in scores.items():
        if model not in experts and model != "base":
            kept = {task: _ratio(score[task], scores[expert][task]) for expert, task in experts.items()}
            merged[model] = {**kept, "mean": _mean(kept.values())}
    return {
        "pair": list(pair),
        "similarity": similarity["pairs"]["+".join(pair)]["similarity"],
        "final": results["final"],
        "merged": merged,
    }


def correlation(rows: Sequence[Mapping[str, Any]], model: str) -> dict[str, float | int | None]:
    """Correlate the pairs' similarity with the mean normalised score of one kind of merged model.

    Args:
        rows: of :func:`pair_row`.
        model: which of ``merged``.

    Returns:
        Pearson's ``r`` with its 95 % interval by Fisher's transformation (``low``, ``high``), and the number of
        pairs ``n``; None where too few pairs, or pairs that do not differ, leave a value undefined.
    """
    points = _points(rows, model)
    found: dict[str, float | int | None] = {"r": None, "low": None, "high": None, "n": len(points)}
    x, y = np.array([point[:2] for point in points.values()], dtype=float).reshape(-1, 2).T
    if len(points) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return found
    r = float(np.corrcoef(x, y)[0, 1])
    found["r"] = r
    if len(points) > 3 and abs(r) < 1:
        half = 1.959963984540054 / math.sqrt(len(points) - 3)
        found["low"], found["high"] = math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)
    return found


def pairs_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Render the pairs and, for every kind of merged model, its mean and its correlation, as Markdown."""
    lines = []
    for row in rows:
        kept = row["merged"][row["final"]]
        first, second = (f"{task} {_text(kept[task])}" for task in row["pair"])
        lines.append([" + ".join(row["pair"]), first, second, _text(kept["mean"]), _text(row["similarity"], 4)])
    header = ["experts", "score / first expert's", "score / second expert's", "mean", "similarity of the experts"]
    models = []
    for model in rows[0]["merged"]:
        mean = _mean(row["merged"][model]["mean"] for row in rows)
        fit = correlation(rows, model)
        interval = "" if fit["low"] is None else f" [{fit['low']:.2f}, {fit['high']:.2f}]"
        models.append([model, _text(mean), f"{_text(fit['r'], 2)}{interval}", str(fit["n"])])
    columns = ["merged by", "mean over pairs", "correlation with similarity [95 %]", "pairs"]
    return f"Merged by {rows[0]['final']}:\n\n{align(header, lines)}\n\n{align(columns, models)}"


def write_pairs(folder: Path, pairs: Iterable[Sequence[str]]) -> str:
    """Compare the pairs whose runs lie in ``folder``/A+B; write pairs.json, pairs.md and pairs.png beside them.

    Returns:
        The tables.
    """
    runs = {tuple(pair): folder / "+".join(pair) for pair in pairs}
    files = ("results.json", "similarity.json")
    rows = [pair_row(pair, *(load_json(run / file) for file in files)) for pair, run in runs.items()]
    correlations = {model: correlation(rows, model) for model in rows[0]["merged"]}
    save_json(folder / "pairs.json", {"pairs": rows, "correlation": correlations})
    table = pairs_table(rows)
    with atomic_path(folder / "pairs.md") as temporary:
        temporary.write_text(table + "\n", encoding="utf-8")
    points = {" + ".join(pair): point for pair, point in _points(rows, rows[0]["final"]).items()}
    scatter(
        points,
        folder / "pairs.png",
        x="similarity of the experts",
        y="score of the merged model / the experts'",
        title=f"{rows[0]['final']}, r = {_text(correlations[rows[0]['final']]['r'], 2)}",
    )
    return table


def _points(rows: Sequence[Mapping[str, Any]], model: str) -> dict[tuple[str, ...], tuple[float, float]]:
    """Return (similarity, mean normalised score) of the pairs that have both."""
    points = {tuple(row["pair"]): (row["similarity"], row["merged"][model]["mean"]) for row in rows}
    return {pair: point for pair, point in points.items() if None not in point and not np.isnan(point).any()}


def _ratio(score: float, expert: float) -> float | None:
    return score / expert if expert > 0 else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else fmean(known)  # type: ignore[arg-type] # None was ruled out


def _text(value: float | None, digits: int = 3) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"

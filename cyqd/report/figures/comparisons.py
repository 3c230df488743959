"""Models side by side as figures: results with their intervals, and the experts' similarity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cyqd.report.figures.style import COLOURS, COLUMN, EMPTY, colour, legend, styled, wrap
from cyqd.report.record import RunRecord


@styled
def results_figure(run: RunRecord) -> Figure:
    """Draw every model's score on each task and its mean, with 95 % intervals.

    Raises:
        ValueError: if the run has no results yet.
    """
    rows = run.results.get("rows")
    if not rows:
        raise ValueError(
            f"results_figure: {run.folder / 'results.json'} is not there yet; it comes with the run's end"
        )
    series = [(f"{task} (n = {cell['n']})", colour(k)) for k, (task, cell) in enumerate(rows[0]["tasks"].items())]
    series.append(("mean", "black"))
    height = max(0.09 * len(series), 0.22) * len(rows)
    figure = Figure(figsize=(COLUMN, height + 0.8), layout="constrained")
    axes = figure.add_subplot()
    offsets = np.linspace(-0.32, 0.32, len(series))
    for number, (label, shade) in enumerate(series):
        cells = [[*row["tasks"].values(), row["mean"]][number] for row in rows]
        means, lows, highs = np.array([[cell[key] for key in ("mean", "low", "high")] for cell in cells]).T
        axes.errorbar(
            means,
            np.arange(len(rows)) + offsets[number],
            xerr=np.maximum([means - lows, highs - means], 0),
            fmt="D" if label == "mean" else "o",
            color=shade,
            ms=2.5,
            lw=0.7,
            label=label,
        )
    for row in range(0, len(rows), 2):
        axes.axhspan(row - 0.5, row + 0.5, color="#f4f4f4", lw=0, zorder=0)
    axes.set_yticks(range(len(rows)), [row["model"] for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel="score on the test split, 95 % intervals", ylim=(len(rows) - 0.5, -0.5))
    axes.grid(axis="x", lw=0.3, alpha=0.6)
    legend(figure, axes.get_legend_handles_labels()[0])
    return figure


@styled
def similarity_figure(data: Mapping[str, Any]) -> Figure:
    """Draw the models' similarity and their task vectors' cosines as matrices with their values.

    Args:
        data: what :func:`cyqd.report.similarity.pair_matrices` gives; a measure that no pair has is left out.
    """
    models = data["models"]
    kinds = {"similarity": "similarity of singular values", "cosine": "cosine of task vectors"}
    values = {key: np.array(data[key], dtype=float) for key in kinds if data[key]}
    values = values or {"cosine": np.full((len(models), len(models)), np.nan)}
    side = min(COLUMN / 2, 0.3 * len(models) + 0.75) if len(models) < 6 else 0.3 * len(models) + 0.75
    figure = Figure(figsize=(side * len(values) + 0.1, side + 0.15), layout="constrained")
    for axes, (key, matrix) in zip(figure.subplots(1, len(values), squeeze=False)[0], values.items(), strict=True):
        _heat_map(axes, matrix, models, key)
        axes.set_title(wrap(kinds[key], 18), pad=4)
        if axes is not figure.axes[0]:
            axes.set_yticklabels([])
    return figure


@styled
def kept_figure(points: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw what the final model keeps of each pair's scores against the similarity of the two experts.

    Args:
        points: ``pair``, ``similarity`` and ``kept``, of :func:`cyqd.report.page_data.similarity_data`.
    """
    figure = Figure(figsize=(COLUMN, 1.6 + 0.14 * len(points)), layout="constrained")
    axes = figure.add_subplot()
    for number, point in enumerate(points):
        shape, label = "osD^v"[number // len(COLOURS) % 5], " + ".join(point["pair"])
        axes.plot(point["similarity"], point["kept"], shape, color=colour(number), ms=4, label=label)
    axes.axhline(1, color="#777777", lw=0.5, ls="--", zorder=0)
    axes.margins(0.1)
    axes.ticklabel_format(useOffset=False)
    axes.locator_params(nbins=5)
    axes.set(xlabel="similarity of the experts", ylabel="mean score / the experts'")
    axes.grid(lw=0.3, alpha=0.6)
    legend(figure, axes.get_legend_handles_labels()[0])
    return figure


def _heat_map(axes: Axes, matrix: NDArray[np.float64], models: Sequence[str], key: str) -> None:
    """Draw a matrix; cosines run from −1 to 1 around white, similarities over what there is."""
    known = matrix[np.isfinite(matrix)]
    low = min(float(known.min()), 0.9) if known.size and key == "similarity" else 0.0
    limits, shades = ((low, 1.0), "Blues") if key == "similarity" else ((-1.0, 1.0), "PuOr")
    axes.set_facecolor(EMPTY)
    axes.imshow(matrix, cmap=shades, vmin=limits[0], vmax=limits[1], aspect="auto")
    for (row, column), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            dark = (value - limits[0]) / (limits[1] - limits[0])
            shade = "white" if dark > 0.65 or (key == "cosine" and dark < 0.2) else "black"
            text = f"{value:.3f}" if key == "similarity" else f"{value:.2f}"
            axes.text(column, row, text, ha="center", va="center", color=shade, fontsize=6)
    axes.set_xticks(range(len(models)), models, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(models)), models)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


@styled
def parts_figure(similarity: Mapping[str, Any], parts: str = "layers") -> Figure:
    """Draw similarity and cosine of every pair in every part of the model that has one.

    Args:
        similarity: what similarity.json holds.
        parts: "layers" or "groups".

    Raises:
        ValueError: if no part has a value.
    """
    cells = similarity[parts]
    names = [
        name
        for name in next(iter(cells.values()))
        if any(value is not None for pair in cells.values() for value in pair[name].values())
    ]
    keys = [
        key for key in ("similarity", "cosine") if any(p[n][key] is not None for p in cells.values() for n in names)
    ]
    if not names:
        raise ValueError(
            "parts_figure: no part of the model differs between base and experts; there is nothing to draw"
        )
    margin = max(0.04 * (max(map(len, names)) - 24), 0)  # inches that long names take more than short ones
    figure = Figure(figsize=(COLUMN + margin, max(0.09 * len(names) + 0.9, 1.4)), layout="constrained")
    for axes, key in zip(figure.subplots(1, len(keys), sharey=True, squeeze=False)[0], keys, strict=True):
        for number, (pair, values) in enumerate(cells.items()):
            line = [np.nan if values[name][key] is None else values[name][key] for name in names]
            axes.plot(line, range(len(names)), ".-", color=colour(number), lw=0.4, ms=2.5, label=pair)
        axes.set(xlabel=key, ylim=(len(names) - 0.5, -0.5))
        axes.set_yticks(range(len(names)), names, fontsize=5)
        axes.locator_params(axis="x", nbins=4)
        axes.grid(lw=0.3, alpha=0.6)
    legend(figure, figure.axes[0].get_legend_handles_labels()[0])
    return figure

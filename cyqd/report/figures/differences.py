"""Methods against one of them: paired differences as a forest plot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cyqd.report.figures.style import COLUMN, colour, styled, wrap


@styled
def differences_figure(comparison: Mapping[str, Any]) -> Figure:
    """Draw the difference of every method's final model from the reference's, with 95 % intervals.

    Args:
        comparison: what :func:`cyqd.report.experiment.compare_methods` gives.

    Raises:
        ValueError: if there is nothing beside the reference.
    """
    rows = [row for row in comparison["rows"] if row["final"] and row["difference"]]
    if not rows:
        raise ValueError(f"differences_figure: there is nothing to compare with {comparison['reference']} yet")
    values = [row["difference"]["mean"] for row in rows]
    means, lows, highs = np.array([[value[key] for key in ("mean", "low", "high")] for value in values]).T
    figure = Figure(figsize=(COLUMN, 0.2 * len(rows) + 0.7), layout="constrained")
    axes = figure.add_subplot()
    for number, row in enumerate(rows):
        axes.errorbar(
            means[number],
            number,
            xerr=[[max(means[number] - lows[number], 0)], [max(highs[number] - means[number], 0)]],
            fmt="o",
            color="grey" if row["method"] is None else colour(0),
            ms=3,
            lw=0.9,
        )
    axes.axvline(0, color="black", lw=0.5)
    axes.set_yticks(range(len(rows)), [wrap(row["model"], 32) for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", lw=0.3, alpha=0.6)
    axes.set(ylim=(len(rows) - 0.5, -0.5))
    text = wrap(f"mean score minus that of {comparison['reference']}, paired 95 % intervals", 48)
    figure.supxlabel(text, fontsize=axes.xaxis.label.get_fontsize())
    return figure

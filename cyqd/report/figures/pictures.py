"""Scatter plots, and grids of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cyqd.report.figures.style import save


def scatter(points: Mapping[str, tuple[float, float]], path: Path, *, x: str, y: str, title: str) -> None:
    """Draw labelled points.

    Args:
        points: (x, y) by label.
        path: PNG file to write.
        x: the horizontal axis' label.
        y: the vertical axis' label.
        title: above the plot.
    """
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    for label, point in points.items():
        axes.plot(*point, "o", color="tab:blue")
        axes.annotate(label, point, xytext=(0, 6), textcoords="offset points", ha="center", fontsize=9)
    axes.margins(x=0.2, y=0.15)  # room for the labels
    axes.grid(alpha=0.3)
    axes.set(xlabel=x, ylabel=y, title=title)
    axes.ticklabel_format(useOffset=False)
    save(figure, path, dpi=120)


def picture_grid(
    rows: Sequence[Mapping[str, tuple[NDArray[np.generic], str]]], path: Path, *, titles: Sequence[str]
) -> None:
    """Draw rows of pictures, each column under its key.

    Args:
        rows: by column a picture (uint8 [H, W, 3], RGB, or a mask, bool [H, W]) and what is written below it; all
            rows have the same columns.
        path: PNG file to write.
        titles: what is said of each row, at its left.
    """
    columns = list(rows[0])
    shapes = [row[columns[0]][0].shape for row in rows]
    heights = [min(height / width, 2.0) for height, width, *_ in shapes]
    size = (1.9 * len(columns) + 0.5, 1.9 * sum(heights) + 0.35 * len(rows) + 0.4)  # inches
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False, height_ratios=heights)
    for axes, row, title in zip(grid, rows, titles, strict=True):
        for cell, column in zip(axes, columns, strict=True):
            picture, caption = row[column]
            cell.imshow(picture, cmap="gray", vmin=0, vmax=1)
            cell.set_xlabel(caption, fontsize=8)
            cell.set_xticks([])
            cell.set_yticks([])
            if cell in grid[0]:
                cell.set_title(column, fontsize=10)
        axes[0].set_ylabel(title, fontsize=8)
    save(figure, path, dpi=120)

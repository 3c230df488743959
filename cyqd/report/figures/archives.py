"""Archives as figures: bars for two tasks, grids for three, projections onto two axes for more."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from cyqd.evolution.archive import Archive, Elite
from cyqd.report.figures.style import COLUMN, EMPTY, QUALITY, colour, legend, styled, wrap


def projection(archive: Archive, x: int, y: int) -> NDArray[np.float64]:
    """Return the highest quality over an archive's cells that share two coordinates.

    Args:
        archive: an archive of at least three tasks.
        x: the task whose score is the column.
        y: the task whose score is the row.

    Returns:
        [bins of y, bins of x], lowest scores first; NaN where no cell holds a model.
    """
    axes = [task for task in range(len(archive.edges)) if task != archive.task]
    column, row = axes.index(x), axes.index(y)
    grid = np.full((archive.shape[row], archive.shape[column]), np.nan)
    for cell, elite in archive.cells.items():
        place = cell[row], cell[column]
        grid[place] = np.fmax(grid[place], archive.quality(elite))
    return grid


def quality_limits(archives: Sequence[Archive]) -> tuple[float, float]:
    """Return the qualities that the ends of the colour scale stand for.

    The behaviour axes' range, which stays the same over a run so that its figures compare, at most 1; wider where
    a model lies outside.
    """
    edges = [edge for axis in archives[0].edges for edge in axis]
    qualities = [archive.quality(elite) for archive in archives for elite in archive]
    return min([*edges, *qualities]), max([min(max(edges), 1.0), *qualities])


@styled
def archive_figure(
    archives: Sequence[Archive],
    tasks: Sequence[str],
    experts: Sequence[Elite] = (),
    *,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Draw archives: each cell's quality, empty cells in grey, the experts' cells outlined in their task's colour.

    Args:
        archives: one or more archives of the same run: two tasks are drawn as bars, three as a grid each, more as
            the highest quality over every pair of behaviour axes, one row per archive.
        tasks: the names of all tasks, in the order of the scores.
        experts: the models of generation 0, one per task, whether or not they still hold their cells.
        limits: lowest and highest quality of the scale; :func:`quality_limits` by default.

    Raises:
        ValueError: if there is no archive, or names and archives do not fit.
    """
    if not archives or any(len(archive.edges) != len(tasks) for archive in archives):
        raise ValueError(
            f"archive_figure: expected archives of the {len(tasks)} tasks {', '.join(tasks)}, got "
            f"{[len(archive.edges) for archive in archives]} axes; before all experts are scored there are none"
        )
    scale = Normalize(*(limits or quality_limits(archives)))
    names = [(tasks[k], elite) for k, elite in enumerate(experts)]
    draw = _bars if len(tasks) == 2 else _grids
    return draw(archives, tasks, names, scale)


def _bars(
    archives: Sequence[Archive], tasks: Sequence[str], experts: Sequence[tuple[str, Elite]], scale: Normalize
) -> Figure:
    """Draw archives of one behaviour axis, one below the other."""
    figure = Figure(figsize=(COLUMN, 1.35 * len(archives) + 0.25), layout="constrained")
    for archive, axes in zip(archives, figure.subplots(len(archives), squeeze=False).flat, strict=True):
        axis = 1 - archive.task
        edges = np.asarray(archive.edges[axis])
        widths, top = np.diff(edges), 1.08 * max(scale.vmax or 0, 1e-3)
        for (cell,) in np.ndindex(archive.shape):
            if (cell,) not in archive.cells:
                axes.axvspan(edges[cell], edges[cell + 1], color=EMPTY, lw=0, zorder=0)
        held = sorted(archive.cells)
        places = [cell for (cell,) in held]
        heights = [archive.quality(archive.cells[cell]) for cell in held]
        centres = edges[places] + widths[places] / 2
        shades = colormaps[QUALITY](scale(heights))
        axes.bar(edges[places], heights, widths[places], align="edge", color=shades, edgecolor="white", lw=0.4)
        axes.plot(centres, heights, "_", color="black", ms=4, mew=1, clip_on=False)  # a quality of 0 has no bar
        for place, members in _cells(archive, experts).items():
            height = archive.quality(archive.cells[place]) if place in archive.cells else 0.0
            _outline(axes, edges[place[0]], 0, widths[place[0]], max(height, 0.01 * top), members, tasks)
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0, top))
        axes.set(xlabel=f"score on {tasks[axis]}", ylabel=wrap(f"quality: {tasks[archive.task]}", 20))
        axes.locator_params(nbins=6)
    _legend(figure, tasks, experts)
    return figure


def _grids(
    archives: Sequence[Archive], tasks: Sequence[str], experts: Sequence[tuple[str, Elite]], scale: Normalize
) -> Figure:
    """Draw every pair of behaviour axes of every archive."""
    panels = [
        (archive, x, y)
        for archive in archives
        for x, y in combinations([task for task in range(len(tasks)) if task != archive.task], 2)
    ]
    columns = 2 if len(tasks) == 3 and len(panels) > 1 else len(panels) // len(archives)
    rows = -(-len(panels) // columns)
    small = columns > 2
    width, height, letters, prefix, line = (1.15, 1.35, 13, "", 0.8) if small else (1.7, 1.55, 20, "score on ", 1.1)
    figure = Figure(figsize=(width * columns + 0.1, height * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (archive, x, y) in zip(grid.flat, panels, strict=False):
        _grid(axes, archive, x, y, scale, ticks=2 if small else 4)
        for place, members in _cells(archive, experts, x, y).items():
            corners = [archive.edges[task][bin : bin + 2] for task, bin in zip((x, y), place, strict=True)]
            (left, right), (low, high) = corners
            _outline(axes, left, low, right - left, high - low, members, tasks, line=line)
        name = f"quality: {tasks[archive.task]}"
        if not small:
            axes.set_title(wrap(name, 24), pad=3)
        elif axes in grid[:, 0]:  # once for the row, over its panels
            axes.set_title(" ", pad=3)  # keeps the room
            axes.text(0, 1.08, name, transform=axes.transAxes, weight="bold", in_layout=False)
        font: dict[str, Any] = {"labelpad": 1.5, "fontsize": 6 if small else 7}
        axes.set_xlabel(wrap(f"{prefix}{tasks[x]}", letters), **font)
        axes.set_ylabel(wrap(f"{prefix}{tasks[y]}", letters), **font)
    spare = list(grid.flat[len(panels) :])
    for axes in spare:
        axes.set_axis_off()
    mappable = ScalarMappable(scale, QUALITY)
    if spare:
        bar = figure.colorbar(mappable, cax=spare[0].inset_axes((0, 0.2, 0.85, 0.05)), orientation="horizontal")
    else:
        bar = figure.colorbar(mappable, ax=grid, location="bottom", shrink=0.5, aspect=30, pad=0.02)
    bar.set_label("quality")
    bar.outline.set_visible(False)
    _legend(figure, tasks, experts, axes=spare[0] if spare else None)
    return figure


def _grid(axes: Axes, archive: Archive, x: int, y: int, scale: Normalize, *, ticks: int) -> None:
    quality = projection(archive, x, y)
    axes.set_facecolor(EMPTY)
    axes.pcolormesh(
        archive.edges[x], archive.edges[y], quality, cmap=QUALITY, norm=scale, edgecolors="white", linewidth=0.15
    )
    axes.set_box_aspect(1)
    axes.spines[:].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(ticks))
    axes.yaxis.set_major_locator(MaxNLocator(ticks))


def _cells(archive: Archive, experts: Sequence[tuple[str, Elite]], *axes: int) -> dict[tuple[int, ...], list[str]]:
    """Return which experts fall into which cell, on some of the axes; on all by default."""
    others = [task for task in range(len(archive.edges)) if task != archive.task]
    found: dict[tuple[int, ...], list[str]] = {}
    for name, elite in experts:
        cell = archive.cell_of(elite.scores)
        found.setdefault(tuple(cell[others.index(axis)] for axis in axes or others), []).append(name)
    return found


def _outline(
    axes: Axes,
    left: float,
    low: float,
    width: float,
    height: float,
    names: Sequence[str],
    tasks: Sequence[str],
    *,
    line: float = 1.1,
) -> None:
    """Outline a cell once for each of its experts: white below, so that it stands out from any colour."""
    place: dict[str, Any] = {"xy": (left, low), "width": width, "height": height, "fill": False, "clip_on": False}
    axes.add_patch(Rectangle(**place, ec="white", lw=1.8 * line, zorder=4))
    for number, name in enumerate(names):  # those that share a cell share its outline, dash by dash
        dashes = (3 * number, (3, 3 * len(names) - 3)) if number else "solid"
        ec, gid = colour(tasks.index(name)), f"expert {name}"
        axes.add_patch(Rectangle(**place, ec=ec, lw=line, ls=dashes, zorder=5 + number, gid=gid))


def _legend(
    figure: Figure, tasks: Sequence[str], experts: Sequence[tuple[str, Elite]], *, axes: Axes | None = None
) -> None:
    """Name the outlines and the grey: in axes that are free, else above the figure."""
    handles = [Patch(fill=False, ec=colour(tasks.index(n)), lw=1.1, label=f"expert {n}") for n, _ in experts]
    handles.append(Patch(fc=EMPTY, label="empty"))
    if axes:
        axes.legend(handles=handles, loc="upper left", borderaxespad=0, handlelength=1.0, handleheight=1.0)
    else:
        legend(figure, handles)

"""How all figures look, and how they are written: one column wide, vector text, colours that all can tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import Container
from matplotlib.figure import Figure

from cyqd.evolution.storage import atomic_path

COLUMN = 3.4
"""Width of one column of a two-column paper, inches; figures are drawn at the size at which they are printed."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
"""One colour per task: the palette of Okabe and Ito (2008), safe for colour-blind readers; then from the start."""

QUALITY = "viridis"
"""Colour map of scores, perceptually uniform; what is empty is :data:`EMPTY`, a colour that it does not have."""

EMPTY = "#e9e9e9"

STYLE: Any = {  # matplotlib's type of it differs between versions
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 6,
    "ytick.labelsize": 6,
    "legend.fontsize": 6,
    "legend.frameon": False,
    "axes.linewidth": 0.5,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "cyqd",  # the same figure gives the same bytes
    "savefig.dpi": 300,
}

styled = rc_context(STYLE)
"""Decorator of a function that draws."""


def colour(index: int) -> str:
    """Return the colour of a task or pair by its index."""
    return COLOURS[index % len(COLOURS)]


def wrap(text: str, width: int) -> str:
    """Break a text into lines of so many characters at most; an underscore counts as the end of a word."""
    return fill(text.replace("_", "_ "), width).replace("_ ", "_")


def legend(figure: Figure, handles: Sequence[Artist | Container]) -> None:
    """Place a legend above a figure, in as many columns as its width has room for."""
    room = 0.35 + 0.045 * max((len(str(handle.get_label())) for handle in handles), default=0)  # inches
    columns = max(min(int(figure.get_figwidth() / room), 3, len(handles)), 1)
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, handlelength=1.2, columnspacing=1.0)


def save(figure: Figure, path: Path, *, formats: Sequence[str] = (), dpi: int = 300) -> list[Path]:
    """Write a figure.

    Args:
        figure: what to write.
        path: the file; with ``formats``, its suffix is replaced by each of them.
        formats: "png", "svg", "pdf", …; by default that of ``path``.
        dpi: resolution of formats made of pixels.

    Returns:
        The files.
    """
    files = [path.with_name(f"{path.name}.{kind}") for kind in formats] or [path]
    for file in files:
        kind = file.suffix.removeprefix(".")
        with rc_context(STYLE), atomic_path(file) as temporary:
            FigureCanvasAgg(figure)
            metadata = {"Date": None} if kind == "svg" else None
            figure.savefig(temporary, format=kind, dpi=dpi, metadata=metadata)
    return files

"""Figures: what a run's page shows, for papers."""

from cyqd.report.figures.archives import archive_figure, projection, quality_limits
from cyqd.report.figures.comparisons import parts_figure, results_figure, similarity_figure
from cyqd.report.figures.history import cost_figure, curve_figure, lineage_figure, phases
from cyqd.report.figures.pictures import picture_grid, scatter
from cyqd.report.figures.run import draw_figures
from cyqd.report.figures.style import save

__all__ = [
    "archive_figure",
    "cost_figure",
    "curve_figure",
    "draw_figures",
    "lineage_figure",
    "parts_figure",
    "phases",
    "picture_grid",
    "projection",
    "quality_limits",
    "results_figure",
    "save",
    "scatter",
    "similarity_figure",
]

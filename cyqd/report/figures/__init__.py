"""Figures: what a run's page shows, for papers."""

from cyqd.report.figures.archives import archive_figure, projection, quality_limits
from cyqd.report.figures.comparisons import kept_figure, parts_figure, results_figure, similarity_figure
from cyqd.report.figures.differences import differences_figure
from cyqd.report.figures.history import cost_figure, curve_figure, lineage_figure
from cyqd.report.figures.pictures import picture_grid, scatter
from cyqd.report.figures.style import save

__all__ = [
    "archive_figure",
    "cost_figure",
    "curve_figure",
    "differences_figure",
    "kept_figure",
    "lineage_figure",
    "parts_figure",
    "picture_grid",
    "projection",
    "quality_limits",
    "results_figure",
    "save",
    "scatter",
    "similarity_figure",
]

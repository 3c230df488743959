"""All figures of a run, written as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from cyqd.evolution.aggregation import best_mean_elite
from cyqd.report.figures.archives import archive_figure
from cyqd.report.figures.comparisons import results_figure, similarity_figure
from cyqd.report.figures.history import cost_figure, curve_figure, lineage_figure
from cyqd.report.figures.style import save
from cyqd.report.record import RunRecord


def run_figures(run: RunRecord) -> dict[str, Figure]:
    """Draw what the run has so far, by file name without its suffix."""
    found = {}
    archives = run.archives()
    if archives:
        experts = [run.elites[evaluation] for evaluation in run.experts.values()]
        found["archives"] = archive_figure(archives, run.tasks, experts)
        found["lineage"] = lineage_figure(run, best_mean_elite(archives).id)
    if run.evaluations:
        found["curve"] = curve_figure(run)
        found["cost"] = cost_figure(run)
    if run.results.get("rows"):
        found["results"] = results_figure(run)
    if run.similarity:
        found["similarity"] = similarity_figure(run.similarity)
    return found


def draw_figures(run: RunRecord, out: Path, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Write the figures of a run, finished or not.

    Args:
        run: what :func:`cyqd.report.record.read_run` gives.
        out: folder to write to.
        formats: "png", "svg", "pdf", …

    Returns:
        The files, one per figure and format.
    """
    return [file for name, figure in run_figures(run).items() for file in save(figure, out / name, formats=formats)]

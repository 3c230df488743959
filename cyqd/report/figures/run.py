"""All figures of a run."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from cyqd.evolution.aggregation import best_mean_elite
from cyqd.report.figures.archives import archive_figure, quality_limits
from cyqd.report.figures.comparisons import kept_figure, results_figure, similarity_figure
from cyqd.report.figures.history import cost_figure, curve_figure, lineage_figure
from cyqd.report.page_data import similarity_data
from cyqd.report.record import RunRecord


def run_figures(run: RunRecord, *, generations: Sequence[int] = (), model: int | None = None) -> dict[str, Figure]:
    """Draw what the run, finished or not, has so far, by file name without its suffix.

    Args:
        run: what :func:`cyqd.report.record.read_run` gives; with at least one model scored.
        generations: draw the archives as they were after each of these, too.
        model: draw the lineage of this evaluation; of the elite of best mean score by default.

    Raises:
        ValueError: if the run has not come to one of the generations, or knows no parents of the model.
    """
    found = {}
    archives = run.archives()
    experts = [run.elites[evaluation] for evaluation in run.experts.values()]
    moments = {f"archives-{n}": run.archives(_evaluations(run, n)) for n in generations}
    if archives:
        limits = quality_limits([archive for moment in (archives, *moments.values()) for archive in moment])
        for name, moment in {"archives": archives, **moments}.items():
            found[name] = archive_figure(moment, run.tasks, experts, limits=limits)
    if model is not None:
        found[f"lineage-{model}"] = lineage_figure(run, model)
    elif archives:
        found["lineage"] = lineage_figure(run, best_mean_elite(archives).id)
    found["curve"] = curve_figure(run)
    found["cost"] = cost_figure(run)
    if run.results.get("rows"):
        found["results"] = results_figure(run)
    similarity = similarity_data(run)
    if similarity:
        found["similarity"] = similarity_figure(similarity)
        if similarity["points"]:
            found["kept"] = kept_figure(similarity["points"])
    return found


def _evaluations(run: RunRecord, generation: int) -> int:
    """Count the models up to a generation's end."""
    last = run.evaluations[-1]["generation"]
    if not 0 <= generation <= last:
        raise ValueError(f"generations: expected 0 to {last}, which {run.folder} has come to, got {generation}")
    return sum(line["generation"] <= generation for line in run.evaluations)

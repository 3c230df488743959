"""A run's course as figures: scores over generations, a model's ancestors, seconds."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cyqd.report.figures.style import COLUMN, colour, legend, styled
from cyqd.report.phases import split_seconds
from cyqd.report.record import RunRecord

BINS = 60
"""Bars of :func:`cost_figure` at most; each is the mean over the generations that fall into it."""


@styled
def curve_figure(run: RunRecord) -> Figure:
    """Draw every child's mean score, the best so far, and the best so far on each task.

    Scores are those on the optimisation split, of models picked by these very scores: the best rises with luck too.
    """
    figure = Figure(figsize=(COLUMN, 2.1), layout="constrained")
    axes = figure.add_subplot()
    generations = [line["generation"] for line in run.evaluations]
    means = [elite.mean for elite in run.elites]
    axes.plot(generations, means, ".", color="#9a9a9a", ms=2, mew=0, label="mean of the tasks, each model")
    first = max(generations.count(0) - 1, 0)  # the experts come at once
    curves = [(f"best on {task}", [e.scores[k] for e in run.elites]) for k, task in enumerate(run.tasks)]
    for number, (label, scores) in enumerate([*curves, ("best mean of the tasks", means)]):
        style = ("black", 1.4) if scores is means else (colour(number), 0.9)
        best = list(accumulate(scores, max))[first:]
        axes.step(generations[first:], best, where="post", color=style[0], lw=style[1], label=label)
    axes.set(xlabel="generation", ylabel="score, optimisation split")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", lw=0.3, alpha=0.6)
    legend(figure, axes.get_legend_handles_labels()[0])
    return figure


@styled
def lineage_figure(run: RunRecord, evaluation: int) -> Figure:
    """Draw a model's ancestors back to the experts, each where it was born and how well it scored.

    Each has the colour of the expert of which it holds most (α); grey where that is not known.

    Args:
        run: of a strategy that tells parents.
        evaluation: the model.

    Raises:
        ValueError: if there is no such model, or it has no known parents.
    """
    known = 0 <= evaluation < len(run.evaluations)
    if not known or not (run.shares[evaluation] or "parents" in run.evaluations[evaluation]):
        raise ValueError(f"lineage_figure: {run.folder} knows no parents of model {evaluation}")
    figure = Figure(figsize=(COLUMN, 2.3), layout="constrained")
    axes = figure.add_subplot()
    models = run.ancestors(evaluation)
    place = {model: (run.evaluations[model]["generation"], run.elites[model].mean) for model in models}
    links = [(parent, child) for child in models for parent in run.evaluations[child].get("parents", [])]
    faint = min(0.8, 40 / (len(links) + 1) + 0.12)
    for parent, child in links:
        axes.plot(*zip(place[parent], place[child], strict=True), color="#777777", lw=0.5, alpha=faint, zorder=1)
    style: dict[str, Any] = {"ls": "", "mec": "white", "mew": 0.3}
    most = {model: int(np.argmax(run.shares[model])) for model in models if run.shares[model]}
    unknown = [place[model] for model in models if model not in most]
    axes.plot(*np.reshape(unknown, (-1, 2)).T, "o", color="#8a94a0", ms=3, **style)
    for task, name in enumerate(run.tasks):
        bred = [place[model] for model in models if most.get(model) == task]
        axes.plot(*np.reshape(bred, (-1, 2)).T, "o", color=colour(task), ms=3, **style)
        if (expert := run.experts.get(name)) in place:
            x, y = place[expert]
            share = f", α = {run.shares[evaluation][task]:.2f}" if run.shares[evaluation] else ""
            label = f"expert {name}{share}"
            axes.plot([x], [y], "s", color=colour(task), ms=6, label=label, **style)
    x, y = place[evaluation]
    axes.plot([x], [y], "*", color="black", ms=9, mec="white", mew=0.4, zorder=5, label=f"model {evaluation}")
    axes.plot([], [], "o", color="#777777", ms=3, label="ancestor, by the expert it holds most of")
    axes.set(xlabel="generation", ylabel="mean score, optimisation split")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", lw=0.3, alpha=0.6)
    legend(figure, axes.get_legend_handles_labels()[0])
    return figure


@styled
def cost_figure(run: RunRecord) -> Figure:
    """Draw the seconds of each evaluation, by phase, stacked; the legend adds up the whole run."""
    figure = Figure(figsize=(COLUMN, 1.9), layout="constrained")
    axes = figure.add_subplot()
    lines = split_seconds([line.get("seconds", {}) for line in run.evaluations])
    names = list(lines[0]) if lines else []
    edges = np.unique(np.linspace(0, len(lines), min(BINS, len(lines)) + 1).astype(int))
    bottom = np.zeros(len(edges) - 1)
    for number, name in enumerate(names):
        values = np.array([line[name] for line in lines])
        means = np.array([values[a:b].mean() for a, b in pairwise(edges)])
        label = f"{name}, {_duration(float(values.sum()))}"
        axes.bar(edges[:-1], means, np.diff(edges), bottom, align="edge", color=colour(number), lw=0, label=label)
        bottom += means
    axes.set(xlabel="evaluation", ylabel="seconds per evaluation", xlim=(0, max(len(lines), 1)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    legend(figure, axes.get_legend_handles_labels()[0])
    return figure


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds:.3g} s"

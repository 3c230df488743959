"""A run's course as figures: scores over generations, a model's ancestors, seconds."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cyqd.report.figures.style import COLUMN, colour, styled
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
    figure.legend(loc="outside upper center", ncols=2, handlelength=1.4, columnspacing=1.0)
    return figure


@styled
def lineage_figure(run: RunRecord, evaluation: int) -> Figure:
    """Draw a model's ancestors back to the experts, each where it was born and how well it scored.

    Args:
        run: of a strategy that tells parents.
        evaluation: the model.

    Raises:
        ValueError: if there is no such model, or it has no known parents.
    """
    if not 0 <= evaluation < len(run.evaluations) or not run.shares[evaluation]:
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
    for task, name in enumerate(run.tasks):
        bred = [place[model] for model in models if run.evaluations[model].get("active") == name]
        axes.plot(*np.reshape(bred, (-1, 2)).T, "o", color=colour(task), ms=3, **style)
        if name in run.experts:
            share = run.shares[evaluation][task]
            x, y = place.get(run.experts[name], (np.nan, np.nan))
            label = f"expert {name}, α = {share:.2f}"
            axes.plot([x], [y], "s", color=colour(task), ms=6, label=label, **style)
    x, y = place[evaluation]
    axes.plot([x], [y], "*", color="black", ms=9, mec="white", mew=0.4, zorder=5, label=f"model {evaluation}")
    axes.plot([], [], "o", color="#777777", ms=3, label="ancestor, by active task")
    axes.set(xlabel="generation", ylabel="mean score, optimisation split")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", lw=0.3, alpha=0.6)
    figure.legend(loc="outside upper center", ncols=2, handlelength=1.2, columnspacing=1.0)
    return figure


def phases(seconds: dict[str, float]) -> dict[str, float]:
    """Split a generation's seconds into parts that add up.

    ``evaluate`` holds the parts that a domain clocks itself (generation, environments, …); what is left of it is
    "other evaluation". Parts that ran side by side are scaled down to what they took together.
    """
    outer = ("breed", "materialise", "tell")
    inner = {part: value for part, value in seconds.items() if part not in (*outer, "evaluate")}
    evaluate, inside = seconds.get("evaluate", 0.0), sum(inner.values())
    factor = min(1.0, evaluate / inside) if inside else 1.0
    found = {part: seconds[part] for part in outer[:2] if part in seconds}
    found |= {part: value * factor for part, value in inner.items()}
    found["other evaluation" if inner else "evaluate"] = max(evaluate - inside, 0.0)
    return found | {part: seconds[part] for part in outer[2:] if part in seconds}


@styled
def cost_figure(run: RunRecord) -> Figure:
    """Draw the seconds of each evaluation, by phase, stacked; the legend adds up the whole run."""
    figure = Figure(figsize=(COLUMN, 1.9), layout="constrained")
    axes = figure.add_subplot()
    lines = [phases(line.get("seconds", {})) for line in run.evaluations]
    names = list(dict.fromkeys(name for line in lines for name in line))
    edges = np.unique(np.linspace(0, len(lines), min(BINS, len(lines)) + 1).astype(int))
    bottom = np.zeros(len(edges) - 1)
    for number, name in enumerate(names):
        values = np.array([line.get(name, 0.0) for line in lines])
        means = np.array([values[a:b].mean() for a, b in pairwise(edges)])
        label = f"{name}, {_duration(float(values.sum()))}"
        axes.bar(edges[:-1], means, np.diff(edges), bottom, align="edge", color=colour(number), lw=0, label=label)
        bottom += means
    axes.set(xlabel="evaluation", ylabel="seconds per evaluation", xlim=(0, max(len(lines), 1)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper center", ncols=3, handlelength=1.0, columnspacing=1.0)
    return figure


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds:.3g} s"

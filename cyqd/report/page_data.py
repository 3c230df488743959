"""What the report page needs of a run, as JSON-ready builtins; its scripts replay the archives from it."""

from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Any

from matplotlib import colormaps
from matplotlib.colors import to_hex

from cyqd.evolution.archive import Archive
from cyqd.report.figures.style import COLOURS, EMPTY, QUALITY
from cyqd.report.pairs import pair_row
from cyqd.report.phases import STEPS, split_seconds
from cyqd.report.record import RunRecord
from cyqd.report.similarity import pair_matrices

SHADES = 10
"""Colours of the scale of scores that the page is given; it mixes those between."""


def page_data(run: RunRecord) -> dict[str, Any]:
    """Gather what the page's charts show.

    Returns:
        Lists with one entry per model, by its number: ``generation``, ``scores`` (in the order of ``tasks``),
        ``parents`` (None of models without), ``coefficients`` (None of models that are no weighted sum of parents)
        and ``shares`` (α by expert). Further ``experts`` (the number of each task's expert, None before it is
        scored), ``edges`` of the behaviour axes, ``changes`` (model, archive and cell of everything that entered),
        ``expert_cells`` (by archive, the cell of each expert), ``phases`` (see :func:`phase_seconds`), ``rows`` of
        the results table, ``final`` (the model that the run chose), ``similarity`` (see :func:`similarity_data`)
        and ``palette``.
    """
    lines = run.evaluations
    archives = [Archive(task, run.edges) for task in range(len(run.tasks))] if run.edges else []
    experts = [run.experts.get(task) for task in run.tasks]
    return {
        "tasks": run.tasks,
        "generation": [line["generation"] for line in lines],
        "scores": [elite.scores for elite in run.elites],
        "parents": [line.get("parents") for line in lines],
        "coefficients": [line.get("coefficients") for line in lines],
        "shares": run.shares,
        "experts": experts,
        "edges": run.edges,
        "changes": [(change.evaluation, change.archive, change.cell) for change in run.changes],
        "expert_cells": [
            [archive.cell_of(run.elites[expert].scores) for expert in experts if expert is not None]
            for archive in archives
        ],
        "phases": phase_seconds(run),
        "rows": run.results.get("rows", []),
        "final": run.results.get("final"),
        "similarity": similarity_data(run),
        "palette": palette(),
    }


def phase_seconds(run: RunRecord) -> dict[str, Any]:
    """Add up each phase's seconds.

    Returns:
        ``generations``; ``stack``, by phase and generation the mean seconds of its models, which add up to all that
        they took; ``total``, seconds by phase, parts of "evaluate" included; ``parts``, the names of these.
    """
    clocked: list[dict[str, float]] = [line.get("seconds", {}) for line in run.evaluations]
    names = dict.fromkeys(name for seconds in clocked for name in seconds)
    models = Counter(line["generation"] for line in run.evaluations)
    generations = sorted(models)
    place = {generation: position for position, generation in enumerate(generations)}
    stack: dict[str, list[float]] = {}
    for line, seconds in zip(run.evaluations, split_seconds(clocked), strict=True):
        for name, value in seconds.items():
            means = stack.setdefault(name, [0.0] * len(generations))
            means[place[line["generation"]]] += value / models[line["generation"]]
    total = {name: sum(seconds.get(name, 0.0) for seconds in clocked) for name in names}
    parts = [name for name in names if name not in STEPS]
    return {"generations": generations, "stack": stack, "total": total, "parts": parts}


def palette() -> dict[str, Any]:
    """Return the figures' colours: those of ``tasks`` and phases, the ``scale`` of scores, and ``empty`` cells."""
    colours = colormaps[QUALITY]
    scale = [to_hex(colours(shade / (SHADES - 1))) for shade in range(SHADES)]
    return {"tasks": COLOURS, "scale": scale, "empty": EMPTY}


def similarity_data(run: RunRecord) -> dict[str, Any]:
    """Arrange the experts' similarity as symmetric matrices, and against what merging kept of their scores.

    Returns:
        Empty where nothing is known. Else what :func:`cyqd.report.similarity.pair_matrices` gives, and ``points``:
        by pair, its similarity and the final model's mean score as a share of the two experts' own.
    """
    if not run.similarity:
        return {}
    found = {**pair_matrices(run.similarity["models"], run.similarity["pairs"]), "points": []}
    if "final" in run.results:
        for pair in combinations(run.tasks, 2):
            row = pair_row(pair, run.results, run.similarity)
            kept = row["merged"].get(row["final"], {}).get("mean")
            if row["similarity"] is not None and kept is not None:
                found["points"].append({"pair": pair, "similarity": row["similarity"], "kept": kept})
    return found

"""What the report page needs of a run, as JSON-ready builtins; its scripts replay the archives from it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from cyqd.evolution.archive import Archive
from cyqd.report.pairs import pair_row
from cyqd.report.record import RunRecord

EVALUATE = "evaluate"
STEPS = ("breed", "materialise", EVALUATE, "tell")
"""What a generation's seconds are made of; any other phase is a part of "evaluate"."""


def page_data(run: RunRecord) -> dict[str, Any]:
    """Gather what the page's charts show.

    Returns:
        Lists with one entry per model, by its number: ``generation``, ``scores`` (in the order of ``tasks``),
        ``parents`` and ``coefficients`` (None of models without parents) and ``shares`` (α by expert). Further
        ``experts`` (the number of each task's expert, None before it is scored), ``edges`` of the behaviour axes,
        ``changes`` (model, archive and cell of everything that entered), ``expert_cells`` (by archive, the cell of
        each expert), ``phases`` (see :func:`phase_seconds`), ``rows`` of the results table, ``final`` (the model
        that the run chose) and ``similarity`` (see :func:`similarity_data`).
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
    }


def phase_seconds(run: RunRecord) -> dict[str, Any]:
    """Add up each phase's seconds, generation by generation, so that no second is counted twice.

    Parts of "evaluate" are told apart where they fit into it; where they overlap (environments that work while
    models generate) they stay in the table only.

    Returns:
        ``generations``; ``stack``, seconds by phase and generation that add up to the whole; ``total``, seconds by
        phase, parts of "evaluate" included; ``parts``, the names of these.
    """
    generations = sorted({line["generation"] for line in run.evaluations})
    names = list(dict.fromkeys(name for line in run.evaluations for name in line.get("seconds", {})))
    order = {generation: position for position, generation in enumerate(generations)}
    seconds = {name: [0.0] * len(generations) for name in names}
    for line in run.evaluations:
        for name, value in line.get("seconds", {}).items():
            seconds[name][order[line["generation"]]] += value
    total = {name: sum(values) for name, values in seconds.items()}
    parts = [name for name in names if name not in STEPS]
    stack = {name: values for name, values in seconds.items() if name in STEPS}
    if parts and sum(total[part] for part in parts) <= total.get(EVALUATE, 0.0):
        columns = zip(seconds[EVALUATE], *(seconds[part] for part in parts), strict=True)
        rest = [max(whole - sum(inner), 0.0) for whole, *inner in columns]
        split = {part: seconds[part] for part in parts} | {f"rest of {EVALUATE}": rest}
        stack = {
            label: values
            for name in stack
            for label, values in (split if name == EVALUATE else {name: stack[name]}).items()
        }
    return {"generations": generations, "stack": stack, "total": total, "parts": parts}


def similarity_data(run: RunRecord) -> dict[str, Any]:
    """Arrange the experts' similarity as symmetric matrices, and against what merging kept of their scores.

    Returns:
        Empty where nothing is known. Else ``models``; ``similarity`` and ``cosine``, matrices with None on the
        diagonal and where a value is undefined, None themselves where they have no value at all; ``points``: by
        pair, its similarity and the final model's mean score as a share of the two experts' own.
    """
    pairs: dict[str, Mapping[str, float | None]] = run.similarity.get("pairs", {}) or {
        pair: {"similarity": value} for pair, value in run.results.get("similarity", {}).items()
    }
    if not pairs:
        return {}
    models = run.similarity.get("models", run.tasks)
    found: dict[str, Any] = {"models": models, "points": []}
    for kind in ("similarity", "cosine"):
        matrix = [[_pair(pairs, a, b).get(kind) for b in models] for a in models]
        found[kind] = matrix if any(value is not None for row in matrix for value in row) else None
    if "final" in run.results:
        known = {**run.results, "similarity": {pair: values.get("similarity") for pair, values in pairs.items()}}
        for pair in combinations(run.tasks, 2):
            row = pair_row(pair, known)
            kept = row["merged"].get(row["final"], {}).get("mean")
            if row["similarity"] is not None and kept is not None:
                found["points"].append({"pair": pair, "similarity": row["similarity"], "kept": kept})
    return found


def _pair(pairs: Mapping[str, Mapping[str, float | None]], a: str, b: str) -> Mapping[str, float | None]:
    return pairs.get(f"{a}+{b}", pairs.get(f"{b}+{a}", {}))

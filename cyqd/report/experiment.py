"""Methods compared over seeds: what an experiment's cells came to, with paired intervals.

Every method is scored on the same test problems of the same seeds, so a difference between two methods is taken
problem by problem, which leaves out how hard the problems of a seed happen to be.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cyqd.evolution.storage import load_json
from cyqd.report.statistics import DRAWS, Array, bootstrap_means, interval, means, student_interval

SHARED_ROWS = ("base", "task-vector average")
"""Models that every search scores beside its own; so it does each "expert TASK"."""

Outcomes = Mapping[str, Mapping[str, float]]
"""Scores by task and problem."""


@dataclass(frozen=True)
class CellRecord:
    """What one method came to with one seed.

    Attributes:
        method: its name.
        seed: its seed.
        final: the rule, or the model, that the method stands for.
        own: test scores of the method's own models, by the rule that made them.
        beside: test scores of the base, the experts and their average, by name; empty where models are only tested.
        children: evaluations of children; None if nothing was searched.
        rescored: further evaluations, by which a final model was chosen.
        seconds: of all evaluations of the search; None if nothing was searched.
        faults: problems that broke in the test of the final model, and count 0.
        splits: what tells the test problems of one seed from those of another; empty if unknown.
    """

    method: str
    seed: int
    final: str
    own: Mapping[str, Outcomes]
    beside: Mapping[str, Outcomes]
    children: int | None
    rescored: int
    seconds: float | None
    faults: int
    splits: Mapping[str, Any]


def read_cell(method: str, seed: int, folder: Path, models: Sequence[str] = ()) -> CellRecord:
    """Read a finished cell.

    Args:
        method: the method's name.
        seed: its seed.
        folder: the run's folder, or that of a test.
        models: of a test, the models' names in the order in which they were given; the first is the final one.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, or the run has been tested with several sets of final rules.
    """
    if models:
        lines = _lines(folder / "scores" / "history.jsonl")
        own = {name: _by_task(line) for name, line in zip(models, lines, strict=True)}
        return CellRecord(method, seed, models[0], own, {}, None, 0, None, len(lines[0].get("faults", {})), {})
    results = load_json(folder / "results.json")
    test = _test_folder(folder, results["evaluations"])
    tested = {line["model"]: line for line in _lines(test / "history.jsonl")}
    scores = {model: _by_task(line) for model, line in tested.items()}
    beside = {model: of for model, of in scores.items() if model in SHARED_ROWS or model.startswith("expert ")}
    final = results["final"]
    own = {_rule(model): of for model, of in scores.items() if model not in beside or model == final}
    search = _lines(folder / "history.jsonl")
    choice = test.with_name(test.name.replace("test", "selection", 1)) / "history.jsonl"
    spent = [*search, *(_lines(choice) if choice.exists() else [])]
    children = sum(line.get("generation", 0) >= 1 for line in search)
    parts = ("breed", "materialise", "evaluate", "tell")
    return CellRecord(
        method=method,
        seed=seed,
        final=_rule(final),
        own=own,
        beside=beside,
        children=children or None,
        rescored=results.get("rescored", 0),
        seconds=sum(line["seconds"].get(part, 0.0) for line in spent for part in parts),
        faults=len(tested[final].get("faults", {})),
        splits=load_json(folder / "splits.json") if (folder / "splits.json").exists() else {},
    )


def compare_methods(
    cells: Sequence[CellRecord], reference: str, *, budget: int, missing: Iterable[str] = (), draws: int = DRAWS
) -> dict[str, Any]:
    """Compare methods with one of them.

    Args:
        cells: what there is; methods come in the order of their first cells.
        reference: the method that the others are compared with; if it has no cell, there are no differences.
        budget: evaluations that each search was to have, of children and of models judged once more.
        missing: names of the cells that are not there yet.
        draws: of the bootstrap.

    Returns:
        As JSON-ready builtins ``reference``, ``budget``, ``seeds``, ``draws``, ``shared`` (whether all seeds have
        the same test problems), ``problems`` (by task, how many a seed has), ``missing``, and ``rows``, one per
        model: ``model``, ``method`` (None of what is scored beside the reference), ``rule``, ``final`` (whether
        the method is judged by it), ``seeds``, ``scores`` (mean over tasks by seed), ``tasks`` (by task) and
        ``mean`` (of them), each with mean, low, high, ``difference`` (``tasks`` and ``mean`` minus those of the
        reference's final model, on the seeds that both have, and ``seeds``, Student's t interval of their
        differences, if there are several; None for this model itself), ``children``, ``rescored`` and ``faults``
        by seed, and ``seconds`` (mean over seeds).

    Raises:
        ValueError: if methods were scored on different problems, or there is no cell.
    """
    if not cells:
        raise ValueError("no cell has finished yet, so there is nothing to compare")
    models = _models(cells, reference)
    tasks, problems = _problems(cells)
    arrays = {
        key: {seed: _array(outcomes, problems[seed]) for seed, outcomes in found.items()}
        for key, found in models.items()
    }
    scores = {
        key: {seed: float(np.mean([found[task].mean() for task in tasks])) for seed, found in by_seed.items()}
        for key, by_seed in arrays.items()
    }
    shared = _same_problems(cells, problems)
    drawn: dict[tuple[int, ...], tuple[dict[Any, int], Array, Array]] = {}

    def means_and_draws(seeds: Iterable[int], key: Any) -> tuple[Array, Array]:
        """Return the means [tasks] of one model and their replicates [draws, tasks]."""
        chosen = tuple(sorted(seeds))
        if chosen not in drawn:
            keys = {key: number for number, key in enumerate(k for k in arrays if {*chosen} <= {*arrays[k]})}
            stacked = [[np.stack([arrays[k][seed][task] for k in keys]) for task in tasks] for seed in chosen]
            drawn[chosen] = keys, means(stacked), bootstrap_means(stacked, draws=draws, shared=shared)
        keys, at, replicates = drawn[chosen]
        return at[keys[key]], replicates[:, keys[key]]

    anchor = next(((c.method, c.final) for c in cells if c.method == reference), None)
    rows = []
    for method, rule in models:
        key, seeds = (method, rule), [*arrays[method, rule]]
        of_method = {cell.seed: cell for cell in cells if cell.method == method}
        common = [seed for seed in seeds if anchor and key != anchor and seed in arrays[anchor]]
        at, replicates = means_and_draws(seeds, key)
        difference = None
        if anchor and common:
            (own, own_draws), (other, other_draws) = (means_and_draws(common, k) for k in (key, anchor))
            by_seed = [scores[key][seed] - scores[anchor][seed] for seed in common]
            difference = {
                **_summary(tasks, own - other, own_draws - other_draws),
                "seeds": student_interval(by_seed),
            }
        seconds = [cell.seconds for cell in of_method.values() if cell.seconds is not None]
        rows.append(
            {
                "model": rule if method is None else method,
                "method": method,
                "rule": rule,
                "final": method is None or rule == next(iter(of_method.values())).final,
                "seeds": seeds,
                "scores": scores[key],
                **_summary(tasks, at, replicates),
                "difference": difference,
                "children": {seed: cell.children for seed, cell in of_method.items()},
                "rescored": {seed: cell.rescored for seed, cell in of_method.items()},
                "faults": {seed: cell.faults for seed, cell in of_method.items()},
                "seconds": float(np.mean(seconds)) if seconds else None,
            }
        )
    return {
        "reference": reference,
        "budget": budget,
        "seeds": sorted(problems),
        "draws": draws,
        "shared": shared,
        "problems": {task: sorted({len(ids[task]) for ids in problems.values()}) for task in tasks},
        "missing": list(missing),
        "rows": rows,
    }


def _models(cells: Sequence[CellRecord], reference: str) -> dict[tuple[str | None, str], dict[int, Outcomes]]:
    """Return every model's test scores by seed: what is scored beside the reference, then the methods' own."""
    found: dict[tuple[str | None, str], dict[int, Outcomes]] = {}
    for cell in cells:
        if cell.method == reference:
            for name, outcomes in cell.beside.items():
                found.setdefault((None, name), {})[cell.seed] = outcomes
    for cell in cells:
        for rule, outcomes in cell.own.items():
            found.setdefault((cell.method, rule), {})[cell.seed] = outcomes
    return found


def _problems(cells: Sequence[CellRecord]) -> tuple[list[str], dict[int, dict[str, list[str]]]]:
    """Return the tasks, and by seed and task the problems' names, which are the same for all methods."""
    found: dict[int, tuple[str, dict[str, list[str]]]] = {}
    for cell in cells:
        for outcomes in [*cell.own.values(), *cell.beside.values()]:
            ids = {task: sorted(scores) for task, scores in outcomes.items()}
            method, others = found.setdefault(cell.seed, (cell.method, ids))
            if ids != others:
                raise ValueError(
                    f"seed {cell.seed}: {cell.method} was not tested on the problems of {method}; "
                    "give all methods the same data"
                )
    tasks = {tuple(ids) for _, ids in found.values()}
    if len(tasks) > 1:
        raise ValueError(f"expected the same tasks with every seed, got {sorted(tasks)}")
    return list(next(iter(tasks))), {seed: ids for seed, (_, ids) in found.items()}


def _same_problems(cells: Sequence[CellRecord], problems: Mapping[int, Any]) -> bool:
    """Tell whether all seeds have the same test problems: by name, and by content where the data tells it.

    Contents are those of all splits, in which methods may differ, so each method's are compared over its own seeds.
    """
    contents: dict[str, Mapping[str, Any]] = {}
    ids = list(problems.values())
    return all(found == ids[0] for found in ids) and all(
        cell.splits == contents.setdefault(cell.method, cell.splits) for cell in cells if cell.splits
    )


def _array(outcomes: Outcomes, ids: Mapping[str, Sequence[str]]) -> dict[str, Array]:
    return {task: np.array([outcomes[task][name] for name in names]) for task, names in ids.items()}


def _summary(tasks: Sequence[str], at: Array, replicates: Array) -> dict[str, Any]:
    """Return value and interval of every task and of their mean."""

    def value(mean: float, drawn: Array) -> dict[str, float]:
        low, high = interval(drawn)
        return {"mean": float(mean), "low": low, "high": high}

    of_tasks = {task: value(at[k], replicates[:, k]) for k, task in enumerate(tasks)}
    return {"tasks": of_tasks, "mean": value(at.mean(), replicates.mean(axis=1))}


def _by_task(line: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the scores by task, in the data's order, and problem."""
    found: dict[str, dict[str, float]] = {task: {} for task in line["scores"]}
    for problem, score in line["outcomes"].items():
        task, _, name = problem.partition("/")
        found[task][name] = score
    return found


def _test_folder(run: Path, evaluations: int) -> Path:
    """Return where a run's test lies; a run with further final rules adds a tag of these to the name."""
    name = f"test-{evaluations:06d}"
    found = [path for pattern in (name, f"{name}-*") for path in (run / "evolution").glob(pattern)]
    if len(found) != 1:
        raise ValueError(f"{run / 'evolution'}: expected one folder {name} or {name}-…, got {len(found)}")
    return found[0]


def _rule(model: str) -> str:
    """Return the rule in the name of a search's model, as in "CycleQD aggregate"."""
    return model if model in SHARED_ROWS else model.partition(" ")[2] or model


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

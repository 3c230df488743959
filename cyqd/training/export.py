"""Export: an individual of a run, or what came out of it, as a model in its ecosystem's format."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyqd.evolution import Archive, CompactGenome, Genome, Strategy, materialise
from cyqd.evolution.aggregation import best_quality_elite, largest_gamma_elite, softmax_weights
from cyqd.evolution.storage import atomic_path
from cyqd.report.card import licence_files, model_card, public_name
from cyqd.report.recipe import merge_recipe, recipe_text
from cyqd.report.record import RunRecord
from cyqd.report.tables import results_row
from cyqd.training.final import RESCORED, SCALED
from cyqd.training.module import EvolvableModule

LISTED = 40  # cells or models that an error names at most


@dataclass(frozen=True)
class Individual:
    """A model of a run that is to be written.

    Attributes:
        label: what it is called.
        genome: the model.
        parts: weight and evaluation of the individuals that it is the sum of; one of weight 1 is the model itself.
        budget: how many evaluations its search has in all.
        rule: the rule that summed them, if any.
    """

    label: str
    genome: Genome
    parts: list[tuple[float, int]]
    budget: int
    rule: str | None = None


def find_elite(run: RunRecord, wanted: str) -> int:
    """Return the evaluation that ``TASK:best``, ``TASK:gamma`` or its own number names.

    Raises:
        ValueError: if there is none such, saying what there is.
    """
    task, _, which = wanted.rpartition(":")
    if task:
        alphas = {key: run.settings[key] for key in ("alpha_low", "alpha_high") if key in run.settings}
        kinds: dict[str, Callable[[Archive], Any]] = {
            "best": best_quality_elite,
            "gamma": lambda archive: largest_gamma_elite(archive, **alphas),
        }
        archive = _archive(run, task, "elite")
        if which not in kinds:
            raise ValueError(f"elite: expected {task}:best or {task}:gamma, got {wanted!r}")
        return int(kinds[which](archive).id)
    held = {*run.experts.values(), *(elite.id for archive in run.archives() for elite in archive)}
    if not run.edges:  # learned coefficients are told by the history, all of them
        held |= {line["evaluation"] for line in run.evaluations if "alpha" in line}
    if not wanted.isdecimal():
        raise ValueError(
            f"elite: expected TASK:best, TASK:gamma (tasks: {', '.join(run.tasks)}) or a number, got {wanted!r}"
        )
    if int(wanted) not in held:
        listed = ", ".join(map(str, sorted(held)[:LISTED])) + (", …" if len(held) > LISTED else "")
        raise ValueError(f"elite: evaluation {wanted} is not held; experts and elites are: {listed or 'none'}")
    return int(wanted)


def find_cell(run: RunRecord, wanted: str) -> int:
    """Return the evaluation in a cell of an archive, given as ``TASK:3,7``: its bins on the other tasks, from 0.

    Raises:
        ValueError: if there is no such cell, or nothing in it, saying what there is.
    """
    task, _, bins = wanted.rpartition(":")
    archive = _archive(run, task, "cell")
    others = [other for other in run.tasks if other != task]
    numbers = bins.split(",")
    if len(numbers) != len(others) or not all(number.strip().isdecimal() for number in numbers):
        example = ",".join(["3", "7", *"0" * len(others)][: len(others)])
        bins = "the bin of" if len(others) == 1 else "one bin for each of"
        raise ValueError(f"cell: expected {bins} {', '.join(others)}, as in {task}:{example}, got {wanted!r}")
    cell = tuple(map(int, numbers))
    if cell not in archive.cells:
        best = sorted(archive.cells, key=lambda filled: -archive.quality(archive.cells[filled]))
        filled = "  ".join(",".join(map(str, cell)) for cell in best[:LISTED])
        more = f" (and {len(best) - LISTED} more)" if len(best) > LISTED else ""
        raise ValueError(
            f"cell: nothing is in {wanted} of {' × '.join(map(str, archive.shape))} cells (bins of "
            f"{', '.join(others)}, from 0); filled are, best first: {filled}{more}"
        )
    return archive.cells[cell].id


def _archive(run: RunRecord, task: str, key: str) -> Archive:
    if task not in run.tasks:
        raise ValueError(f"{key}: there is no task {task!r}; there are {', '.join(run.tasks)}")
    archives = run.archives()
    if not archives:
        raise ValueError(
            f"{key}: {run.folder} has no archives: its experts are not scored yet, or {run.settings['strategy']} "
            "keeps none; --aggregate takes what the run came to"
        )
    return archives[run.tasks.index(task)]


def individual(strategy: Strategy, evaluation: int, label: str) -> Individual:
    """Return a model that was evaluated and is still held; the strategy must be set up.

    Raises:
        FileNotFoundError: if it is no longer held.
    """
    return Individual(label, strategy.individual(evaluation), [(1.0, evaluation)], strategy.budget)


def chosen_on_fresh_problems(run: RunRecord) -> dict[str, Any]:
    """Return what the further final rules chose, by rule; empty where there are none, or the run has gone on."""
    return dict(run.results.get("selection", {}).get("chosen", {})) if run.results_current else {}


def final_model(strategy: Strategy, rule: str, results: Mapping[str, Genome], run: RunRecord) -> Individual:
    """Return one of a run's results.

    Args:
        strategy: set up, and with its state.
        rule: which.
        results: all of them, by rule.
        run: what the further rules chose, once it has ended.

    Raises:
        ValueError: if there is none yet.
    """
    if rule not in results:
        raise ValueError(f"aggregate: there is no {rule!r} model yet: what it chooses among is not scored")
    chosen = chosen_on_fresh_problems(run)
    factor = chosen[SCALED] if rule == SCALED else 1.0
    elites = strategy.chosen().get(strategy.rules[0] if rule == SCALED else rule, ())
    weights = softmax_weights([elite.scores[task] for task, elite in enumerate(elites)]) if elites else []
    parts = [(factor * weight, elite.id) for weight, elite in zip(weights, elites, strict=True)]
    if rule == RESCORED:
        parts = [(1.0, chosen[RESCORED])]
    return Individual(rule, results[rule], parts, strategy.budget, rule)


def write_model(
    model: EvolvableModule, chosen: Individual, run: RunRecord, out: Path, *, made: str, base: str = ""
) -> None:
    """Write a run's model: its ecosystem's files, model card, ``merge_recipe.json`` and the base's licence files.

    Args:
        model: the live module; its weights are overwritten.
        chosen: the model.
        run: the run that it is of.
        out: the folder.
        made: the commands that make it.
        base: the base's name on the hub; known by itself where the hub's client downloaded it. Of a model that has
            none, only the last part of its path is written: a folder may be pushed.
    """
    base = base or public_name(model.base)
    genome = chosen.genome
    shares: list[dict[str, float]] = []
    if isinstance(genome, CompactGenome):
        names = genome.space.part_names(genome.granularity)
        shares = [dict(zip(names, alpha, strict=True)) for alpha in genome.alpha.tolist()]
    origin: dict[str, Any] = {"base": base, "budget": chosen.budget, "rule": chosen.rule}
    recipe = merge_recipe(run, chosen.label, chosen.parts, shares, **origin)
    experts = [expert["model"] for expert in recipe["experts"].values()]
    scores = _scores(run, chosen)
    about: dict[str, Any] = {"experts": experts, "licensed": model.base, "hub": model.hub(), "made": made}
    card = model_card(base, recipe_text(recipe), **about, **scores)
    materialise(genome, model.evolved_parameters())
    model.save_model(out, card)
    for file in licence_files(model.base):
        shutil.copyfile(file, out / file.name)
    with atomic_path(out / "merge_recipe.json") as temporary:
        temporary.write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")


def _scores(run: RunRecord, chosen: Individual) -> dict[str, Any]:
    """Return what was measured of a model: the results table if it is in it, else its own line of the history."""
    if chosen.rule is None:
        line: Mapping[str, Any] = run.evaluations[chosen.parts[0][1]]
        return {"rows": [results_row(chosen.label, line)], "scored": chosen.label, "split": "optimisation"}
    if not run.results_current:
        return {}  # the run has gone on since, or has not ended
    names = (chosen.rule, f"{run.settings['strategy']} {chosen.rule}")
    rows = run.results["rows"]
    return {"rows": rows, "scored": next((row["model"] for row in rows if row["model"] in names), None)}

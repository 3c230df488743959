"""What a merged model consists of: as data for ``merge_recipe.json``, and as the text of its card."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import cyqd
from cyqd.evolution.archive import Elite
from cyqd.report.card import public_name
from cyqd.report.record import RunRecord
from cyqd.report.tables import align

LINEAGE = ("evaluation", "generation", "expert", "active", "parents", "coefficients", "crossover", "alpha")

SUM = "θ = θ_base + Σ α_k τ_k, where τ_k is what expert k learned:"

STRETCHED = (
    "θ = θ_base + Σ (α_k τ_k + U_k diag(ω_k ∘ σ_k) V_kᵀ), where τ_k is what expert k learned, a matrix of it "
    "U_k diag(σ_k) V_kᵀ, and ω_k came from mutation:"
)

ORTHOGONAL_SUM = (
    "θ = θ_base + Σ (α_k τ_k + α′_k τ′_k), where τ_k is what expert k learned, and τ′_k the same with its matrices "
    "made orthogonal to the other experts' (TSV-Merge):"
)

ORTHOGONAL_STRETCHED = (
    "θ = θ_base + Σ (α_k τ_k + α′_k τ′_k + U′_k diag(ω_k ∘ σ′_k) V′_kᵀ), where τ_k is what expert k learned, τ′_k "
    "the same with its matrices made orthogonal to the other experts' (TSV-Merge), a matrix of it "
    "U′_k diag(σ′_k) V′_kᵀ, and ω_k came from mutation:"
)

BRED = (
    "θ = θ_base + τ, where τ was bred: in every generation {} of two parents' task vectors{}. α is every expert's "
    "share before mutation, where it is known:"
)

DENSE = {
    "child": ", whose singular values mutation then stretched",
    "literal": ", whose singular values mutation then multiplied by random factors",
    "gaussian": ", to which mutation then added noise",
}
"""What the mutations do whose models are no sums of the experts."""

COMPACT = {"expert": ", which mutation then stretched", "lognormal": ", which mutation then made longer or shorter"}
"""What the other mutations do to such models."""

CROSSED = ("ties", "dare")
"""The crossovers whose models are none."""


def merge_recipe(
    run: RunRecord,
    label: str,
    parts: Sequence[tuple[float, int]],
    shares: Sequence[Mapping[str, float]],
    *,
    base: str,
    budget: int,
    rule: str | None = None,
) -> dict[str, Any]:
    """Collect how a run's model follows from base and experts.

    Args:
        run: the run.
        label: what the model is called.
        parts: weight and evaluation of each individual that it is the sum of; one of weight 1 is the model itself.
        shares: α of every expert before mutation, by layer or group where it differs, then likewise of their
            orthogonal task vectors, if the run mixes these; empty to sum up those of the individuals.
        base: name of the base.
        budget: how many evaluations the search has in all.
        rule: the rule that summed the parts, if any.

    Returns:
        JSON-ready: ``model``, ``rule``, ``strategy`` (its settings), ``evaluations`` (done so far), ``budget``,
        ``base`` and ``experts`` (name, fingerprint, ``share``, the expert's α before mutation or None if it is not
        known, and where it differs by part of the model, ``shares``, of which it is the mean; likewise
        ``orthogonal_share`` and ``orthogonal_shares`` where orthogonal task vectors are mixed), ``parts``
        (weight, origin, scores on the optimisation split, and the cells that they hold) and ``lineage`` (every
        ancestor, newest first).
    """
    fingerprint, *fingerprints = run.settings["models"].split()
    hyper = {key: value for key, value in run.settings.items() if key not in ("tasks", "models")}
    own, orthogonal = shares[: len(run.tasks)], shares[len(run.tasks) :]
    known = [fmean(by_part.values()) for by_part in own] or _summed_shares(run, parts)
    experts: dict[str, dict[str, Any]] = {
        task: {"model": public_name(run.config["experts"][task]), "share": share, "fingerprint": own}
        for task, share, own in zip(run.tasks, known, fingerprints, strict=True)
    }
    for expert, by_part in zip(experts.values(), own, strict=False):  # of a whole task vector there are none
        if len(by_part) > 1:
            expert["shares"] = dict(by_part)
    for expert, by_part in zip(experts.values(), orthogonal, strict=False):
        expert["orthogonal_share"] = fmean(by_part.values())
        if len(by_part) > 1:
            expert["orthogonal_shares"] = dict(by_part)
    ancestors = {model for _, number in parts for model in run.ancestors(number)}
    return {
        "cyqd": cyqd.__version__,
        "model": label,
        "rule": rule,
        "strategy": hyper,
        "evaluations": len(run.evaluations),
        "budget": budget,
        "base": {"model": base, "fingerprint": fingerprint},
        "experts": experts,
        "parts": [_part(run, weight, run.elites[number]) for weight, number in parts],
        "lineage": [_origin(run, number) for number in sorted(ancestors, reverse=True)],
    }


def _summed_shares(run: RunRecord, parts: Sequence[tuple[float, int]]) -> list[float] | list[None]:
    if not all(run.shares[number] for _, number in parts):
        return [None] * len(run.tasks)
    return [math.fsum(weight * run.shares[number][k] for weight, number in parts) for k in range(len(run.tasks))]


def _part(run: RunRecord, weight: float, elite: Elite) -> dict[str, Any]:
    cells = {
        run.tasks[archive.task]: list(cell)
        for archive in run.archives()
        for cell, holder in archive.cells.items()
        if holder.id == elite.id
    }
    scores = dict(zip(run.tasks, elite.scores, strict=True))
    return {"weight": weight, **_origin(run, elite.id), "scores": scores, "cells": cells}


def _origin(run: RunRecord, evaluation: int) -> dict[str, Any]:
    line = run.evaluations[evaluation]
    return {key: line[key] for key in LINEAGE if key in line}


def recipe_text(recipe: dict[str, Any]) -> str:
    """Render a recipe as Markdown, for the model's card."""
    strategy = recipe["strategy"]
    rule = f", by the rule `{recipe['rule']}`," if recipe["rule"] else ""
    lines = [
        f"# {' + '.join(recipe['experts'])}, merged by {strategy['strategy']}: {recipe['model']}",
        f"A merge of {len(recipe['experts'])} experts that were fine-tuned from {recipe['base']['model']}, found "
        f"by {strategy['strategy']} (seed {strategy['seed']}){rule} in {recipe['evaluations']} of "
        f"{recipe['budget']} evaluations with cyqd, which implements [CycleQD](https://arxiv.org/abs/2410.14735). "
        "`merge_recipe.json` has all of this, and the lineage back to the experts.",
        "## Merge recipe",
        _formula(recipe),
        _experts_table(recipe["experts"]),
        f"The base's fingerprint is `{recipe['base']['fingerprint']}`.",
        _parts_title(recipe),
        _parts_table(recipe),
        "<details><summary>Settings of the search</summary>\n\n```json\n"
        f"{json.dumps(strategy, indent=2)}\n```\n\n</details>",
    ]
    return "\n\n".join(line for line in lines if line)


def _experts_table(experts: Mapping[str, dict[str, Any]]) -> str:
    mixed = {"share": "α", "orthogonal_share": "α′"}
    columns = {key: title for key, title in mixed.items() if any(key in expert for expert in experts.values())}
    rows = [
        [task, *(_share(expert, key) for key in columns), f"`{expert['model']}`", f"`{expert['fingerprint']}`"]
        for task, expert in experts.items()
    ]
    return align(["expert", *columns.values(), "model", "fingerprint"], rows)


def _share(expert: dict[str, Any], key: str) -> str:
    if expert[key] is None:
        return "–"
    parts = expert.get(f"{key}s")
    return f"{expert[key]:.4f}" + (f", mean of {len(parts)} parts" if parts else "")


def _formula(recipe: dict[str, Any]) -> str:
    bred = any("parents" in model for model in recipe["lineage"])
    mutation = recipe["strategy"].get("mutation", "none") if bred else "none"
    crossover = recipe["strategy"].get("crossover", "linear") if bred else "linear"
    if mutation in DENSE or crossover in CROSSED:
        way = f"a {crossover.upper()} merge" if crossover in CROSSED else "a weighted sum"
        return BRED.format(way, {**DENSE, **COMPACT}.get(mutation, ""))
    stretched = mutation == "expert"
    if any("orthogonal_share" in expert for expert in recipe["experts"].values()):
        return ORTHOGONAL_STRETCHED if stretched else ORTHOGONAL_SUM
    return STRETCHED if stretched else SUM


def _parts_title(recipe: dict[str, Any]) -> str:
    if not recipe["parts"]:
        return ""
    if recipe["rule"]:
        return "The model is the weighted sum of these individuals; scores are those on the optimisation split:"
    return "The individual, with its scores on the optimisation split:"


def _parts_table(recipe: dict[str, Any]) -> str:
    if not recipe["parts"]:
        return ""
    header = ["weight", "evaluation", "bred from", "holds cells", *recipe["experts"]]
    rows = []
    for part in recipe["parts"]:
        cells = "; ".join(f"{task}:{','.join(map(str, cell))}" for task, cell in part["cells"].items())
        scores = [f"{score:.3f}" for score in part["scores"].values()]
        rows.append([f"{part['weight']:.4f}", str(part["evaluation"]), _bred_from(part), cells, *scores])
    return align(header, rows)


def _bred_from(part: dict[str, Any]) -> str:
    if "expert" in part:
        return f"expert {part['expert']}"
    parents = part.get("parents", ())
    terms = " and ".join(map(str, parents)) or "learned coefficients"
    if "coefficients" in part:
        pairs = zip(part["coefficients"], parents, strict=True)
        terms = " + ".join(f"{coefficient:.3f} · {parent}" for coefficient, parent in pairs)
    return f"{terms} (generation {part['generation']})"

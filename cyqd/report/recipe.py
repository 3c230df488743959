"""What a merged model consists of: as data for ``merge_recipe.json``, and as the text of its card."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import cyqd
from cyqd.evolution.archive import Elite
from cyqd.report.card import public_name
from cyqd.report.record import RunRecord
from cyqd.report.tables import align

LINEAGE = ("evaluation", "generation", "expert", "active", "parents", "coefficients")

SUM = "θ = θ_base + Σ α_k τ_k, where τ_k is what expert k learned:"

STRETCHED = (
    "θ = θ_base + Σ (α_k τ_k + U_k diag(ω_k ∘ σ_k) V_kᵀ), where τ_k is what expert k learned, a matrix of it "
    "U_k diag(σ_k) V_kᵀ, and ω_k came from mutation:"
)

BRED = (
    "θ = θ_base + τ, where τ was bred: in every generation a weighted sum of two parents' task vectors, {}. α is "
    "every expert's share before mutation:"
)

DENSE = {
    "child": "whose singular values mutation then stretched",
    "literal": "whose singular values mutation then multiplied by random factors",
    "gaussian": "to which mutation then added noise",
}
"""What the mutations do whose models are no sums of the experts."""


def merge_recipe(
    run: RunRecord,
    label: str,
    parts: Sequence[tuple[float, int]],
    shares: Sequence[float],
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
        shares: α of every expert, before mutation; empty to sum up those of the parts.
        base: name of the base.
        budget: how many evaluations the search has in all.
        rule: the rule that summed the parts, if any.

    Returns:
        JSON-ready: ``model``, ``rule``, ``strategy`` (its settings), ``evaluations`` (done so far), ``budget``,
        ``base`` and ``experts`` (name, fingerprint, and ``share``, the expert's α before mutation), ``parts``
        (weight, origin, scores on the optimisation split, and the cells that they hold) and ``lineage`` (every
        ancestor, newest first).
    """
    fingerprint, *fingerprints = run.settings["models"].split()
    hyper = {key: value for key, value in run.settings.items() if key not in ("tasks", "models")}
    shares = shares or [
        math.fsum(weight * run.shares[number][k] for weight, number in parts) for k in range(len(run.tasks))
    ]
    experts = {
        task: {"model": public_name(run.config["experts"][task]), "share": share, "fingerprint": own}
        for task, share, own in zip(run.tasks, shares, fingerprints, strict=True)
    }
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
        align(
            ["expert", "α", "model", "fingerprint"],
            [
                [task, f"{expert['share']:.4f}", f"`{expert['model']}`", f"`{expert['fingerprint']}`"]
                for task, expert in recipe["experts"].items()
            ],
        ),
        f"The base's fingerprint is `{recipe['base']['fingerprint']}`.",
        _parts_title(recipe),
        _parts_table(recipe),
        "<details><summary>Settings of the search</summary>\n\n```json\n"
        f"{json.dumps(strategy, indent=2)}\n```\n\n</details>",
    ]
    return "\n\n".join(line for line in lines if line)


def _formula(recipe: dict[str, Any]) -> str:
    bred = any("parents" in model for model in recipe["lineage"])
    mutation = recipe["strategy"].get("mutation", "none") if bred else "none"
    if mutation in DENSE:
        return BRED.format(DENSE[mutation])
    return SUM if mutation == "none" else STRETCHED


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
    pairs = zip(part.get("coefficients", ()), part.get("parents", ()), strict=True)
    terms = " + ".join(f"{coefficient:.3f} · {parent}" for coefficient, parent in pairs)
    return f"{terms} (generation {part['generation']})"

"""Aggregation: one final model from the archives (the paper's rule, and two more beside it)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cyqd.evolution.archive import Archive, Elite
from cyqd.evolution.genome import Genome
from cyqd.evolution.selection import elite_gamma


def best_quality_elite(archive: Archive) -> Elite:
    """Return the archive's elite of highest quality; ties go to the most recent."""
    return max(archive.elites, key=lambda elite: (archive.quality(elite), elite.id))


def largest_gamma_elite(archive: Archive, *, alpha_low: float = 0.5, alpha_high: float = 0.8) -> Elite:
    """Return the elite that elite sampling likes most; ties go to the most recent."""
    elites = archive.elites
    scores = torch.tensor([elite.scores for elite in elites], dtype=torch.float64)
    gamma = elite_gamma(scores, alpha_low=alpha_low, alpha_high=alpha_high).tolist()
    return max(zip(gamma, elites, strict=True), key=lambda pair: (pair[0], pair[1].id))[1]


def best_mean_elite(archives: Sequence[Archive]) -> Elite:
    """Return the single elite of best mean score over all archives; ties go to the most recent."""
    return max((elite for archive in archives for elite in archive), key=lambda elite: (elite.mean, elite.id))


def final_elites(archives: Sequence[Archive], *, alpha_low: float, alpha_high: float) -> dict[str, list[Elite]]:
    """Return, by rule, the elites that the final model is made of: the paper's first, then two beside it.

    "aggregate" takes each archive's best elite by quality, "gamma" by γ, "best_mean" the one elite of best mean.
    """
    if not archives:
        return {}
    return {
        "aggregate": [best_quality_elite(archive) for archive in archives],
        "gamma": [largest_gamma_elite(a, alpha_low=alpha_low, alpha_high=alpha_high) for a in archives],
        "best_mean": [best_mean_elite(archives)],
    }


def softmax_weights(qualities: Sequence[float]) -> list[float]:
    """Return β = softmax(f_1 … f_K)."""
    return torch.softmax(torch.tensor(qualities, dtype=torch.float64), dim=0).tolist()


def aggregate(genomes: Sequence[Genome], qualities: Sequence[float]) -> Genome:
    """Mix one genome per archive: θ_b + Σ_k β_k τ_k with β = softmax of their qualities."""
    mixed = [weight * genome for weight, genome in zip(softmax_weights(qualities), genomes, strict=True)]
    total = mixed[0]
    for genome in mixed[1:]:
        total = total + genome
    return total


def best_rescored(finalists: Sequence[Elite], fresh: Sequence[float]) -> Elite:
    """Return the individual that is best on the problems that drove the search and on fresh ones together.

    That an individual is a finalist may be luck, so its first score alone is too high; but it still tells it from
    other finalists. Where both scores are equally noisy, their mean is the best guess of which is truly best.

    Args:
        finalists: individuals.
        fresh: the mean score of each on problems that did not drive the search; ties go to the better one there,
            then to the most recent.
    """
    pairs = zip(fresh, finalists, strict=True)
    return max(pairs, key=lambda pair: (pair[0] + pair[1].mean, pair[0], pair[1].id))[1]


def best_scale(scales: Sequence[float], fresh: Sequence[float]) -> float:
    """Return the factor whose model is best on fresh problems; ties go to the one nearest 1, then to the first.

    Args:
        scales: factors of a task vector.
        fresh: the mean score of each model.
    """
    return max(zip(fresh, scales, strict=True), key=lambda pair: (pair[0], -abs(pair[1] - 1)))[1]

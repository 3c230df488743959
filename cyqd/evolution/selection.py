"""Selection: which two models of the active archive become parents (paper, elite sampling)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Generator, Tensor

from cyqd.evolution.archive import Elite

Selection = Literal["elite", "random"]


def elite_gamma(scores: Tensor, *, alpha_low: float = 0.5, alpha_high: float = 0.8) -> Tensor:
    """Weigh models by how well they do on all tasks (paper, elite sampling).

    γ_j = Π_i [α_low + (f_ji − min_n f_ni) / (max_n f_ni − min_n f_ni) · (α_high − α_low)], over all tasks i,
    with minima and maxima over the given models. A factor whose maximum equals its minimum is 1.

    Args:
        scores: float64 tensor [models, tasks].
        alpha_low: the factor of the worst model on a task.
        alpha_high: the factor of the best.

    Returns:
        γ, float64 tensor [models].
    """
    low, high = scores.amin(dim=0), scores.amax(dim=0)
    width = high - low
    position = (scores - low) / torch.where(width > 0, width, 1.0)
    factors = torch.where(width > 0, alpha_low + position * (alpha_high - alpha_low), 1.0)
    return factors.prod(dim=1)


def sample_pair(weights: Tensor, generator: Generator) -> tuple[int, int]:
    """Draw two distinct models with probabilities in proportion to ``weights``; of one model, that one twice.

    Args:
        weights: positive tensor [models].
        generator: source of randomness.
    """
    if len(weights) == 1:
        return 0, 0
    first, second = torch.multinomial(weights, 2, replacement=False, generator=generator).tolist()
    return first, second


def select_parents(
    elites: Sequence[Elite], generator: Generator, *, rule: Selection, alpha_low: float, alpha_high: float
) -> tuple[Elite, Elite]:
    """Choose two parents from an archive's elites, by ``rule`` "elite" (γ) or "random" (uniform).

    Raises:
        ValueError: if there is no such rule.
    """
    if rule == "elite":
        scores = torch.tensor([elite.scores for elite in elites], dtype=torch.float64)
        weights = elite_gamma(scores, alpha_low=alpha_low, alpha_high=alpha_high)
    elif rule == "random":
        weights = torch.ones(len(elites), dtype=torch.float64)
    else:
        raise ValueError(f"selection: expected 'elite' or 'random', got '{rule}'")
    first, second = sample_pair(weights, generator)
    return elites[first], elites[second]

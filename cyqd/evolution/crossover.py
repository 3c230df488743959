"""Crossover: a child is a weighted mean of its parents' task vectors (paper, model merging-based crossover)."""

from __future__ import annotations

import torch
from torch import Generator

MIN_SUM = 0.1
"""Mixing weights whose sum is nearer to zero than this are drawn again: their quotients would explode."""


def crossover_coefficients(generator: Generator, *, mu: float = 1.0, sigma: float = 0.03) -> tuple[float, float]:
    """Draw ω₁, ω₂ ~ N(μ, σ²) and return ω₁/(ω₁+ω₂), ω₂/(ω₁+ω₂); either may be negative.

    Args:
        generator: source of randomness.
        mu: mean of the mixing weights.
        sigma: their standard deviation.

    Raises:
        ValueError: if no usable pair comes in 1000 draws.
    """
    for _ in range(1000):
        first, second = (mu + sigma * torch.randn(2, dtype=torch.float64, generator=generator)).tolist()
        if abs(first + second) >= MIN_SUM:
            return first / (first + second), second / (first + second)
    raise ValueError(
        f"mixing weights from N({mu}, {sigma}²) keep summing to nearly zero; choose another mu or sigma"
    )

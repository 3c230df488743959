"""Crossover: a child mixes its parents' task vectors (paper, model merging-based crossover; and three others)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Generator, Tensor

from cyqd.evolution.genome import DenseGenome, Genome
from cyqd.evolution.parts import Granularity

Crossover = Literal["linear", "ties", "dare", "split"]

DENSE_CROSSOVERS = ("ties", "dare")
"""Variants whose children are whole task vectors."""

MIN_SUM = 0.1
"""Mixing weights whose sum is nearer to zero than this are drawn again: their quotients would explode."""


def crossover(
    first: Genome,
    second: Genome,
    generator: Generator,
    *,
    variant: Crossover = "linear",
    granularity: Granularity = "model",
    mu: float = 1.0,
    sigma: float = 0.03,
    stretch: float = 1.0,
    density: float = 0.5,
) -> tuple[Genome, dict[str, Any]]:
    """Breed a child from two parents.

    - ``linear``: the parents' weighted mean (the paper).
    - ``ties``: the weighted mean after trimming and sign election; see :func:`ties`.
    - ``dare``: the weighted mean after dropping entries at random; see :func:`dare`.
    - ``split``: two weighted means, one before and one after a split point; see :func:`split`.

    Args:
        first: a parent.
        second: the other.
        generator: source of randomness, on the CPU.
        variant: which crossover.
        granularity: what has mixing weights of its own: the model (the paper), each layer or each group.
        mu: mean of the mixing weights, see :func:`crossover_coefficients`; "split" draws others.
        sigma: their standard deviation.
        stretch: the child's task vector is multiplied by a factor from 1 to this, uniform in its logarithm. A mean
            is no longer than the longer parent, but a model of several skills is.
        density: share of a task vector's entries that "ties" and "dare" keep, in (0, 1].

    Returns:
        The child, and what was drawn, as JSON-ready builtins: ``coefficients`` where the child is one weighted mean
        of its parents, else ``crossover``.

    Raises:
        ValueError: if there is no such variant, or no usable mixing weights come.
    """
    if variant not in get_args(Crossover):
        raise ValueError(f"crossover: expected one of {get_args(Crossover)}, got {variant!r}")
    options: dict[str, Any] = {"granularity": granularity, "mu": mu, "sigma": sigma, "density": density}
    child, drawn = _mix(first, second, generator, variant, **options)
    if stretch == 1:
        return child, drawn
    factor = stretch ** torch.rand((), dtype=torch.float64, generator=generator).item()
    if "coefficients" in drawn:
        return factor * child, {"coefficients": [factor * weight for weight in drawn["coefficients"]]}
    return factor * child, {"crossover": {**drawn["crossover"], "stretch": factor}}


def _mix(
    first: Genome,
    second: Genome,
    generator: Generator,
    variant: Crossover,
    *,
    granularity: Granularity,
    mu: float,
    sigma: float,
    density: float,
) -> tuple[Genome, dict[str, Any]]:
    if variant == "split":
        return split(first, second, generator, granularity=granularity)

    parts = len(first.space.part_names(granularity))
    drawn = [crossover_coefficients(generator, mu=mu, sigma=sigma) for _ in range(parts)]
    weights = torch.tensor(drawn, dtype=torch.float64).T
    if variant == "linear":
        child = first.scaled(weights[0], granularity) + second.scaled(weights[1], granularity)
        if granularity == "model":
            return child, {"coefficients": list(drawn[0])}
        return child, {"crossover": {"variant": variant, "granularity": granularity, "weights": drawn}}
    record = {"variant": variant, "granularity": granularity, "weights": drawn, "density": density}
    if variant == "ties":
        return ties([first, second], weights, granularity=granularity, density=density), {"crossover": record}
    return dare([first, second], weights, generator, granularity=granularity, density=density), {
        "crossover": record
    }


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


def ties(parents: Sequence[Genome], weights: Tensor, *, granularity: Granularity, density: float) -> DenseGenome:
    """Mix parents by TIES merging (Yadav et al. 2023, section 4): trim, elect a sign, average what agrees with it.

    Args:
        parents: the models to mix.
        weights: mixing weights, float64 [parents, G].
        granularity: what the G parts are.
        density: share of each parameter's entries that trimming leaves, the largest by magnitude.
    """
    space = parents[0].space
    deltas = {}
    for name, part in space.parts(granularity).items():
        trimmed = [trim(parent.task_vector(name), density) for parent in parents]
        deltas[name] = elected_mean(trimmed, weights[:, part].tolist())
    return DenseGenome(space, deltas)


def trim(tau: Tensor, density: float) -> Tensor:
    """Set all but the largest entries by magnitude to zero; entries as large as the smallest one kept stay too.

    Args:
        tau: task vector of one parameter.
        density: share of the entries to keep; at least one stays.
    """
    size = tau.numel()
    kept = max(round(density * size), 1)
    if kept >= size:
        return tau
    magnitudes = tau.abs()
    return torch.where(magnitudes >= magnitudes.flatten().kthvalue(size - kept + 1).values, tau, 0.0)


def elected_mean(taus: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Average entry by entry the task vectors whose weighted entry has the sign of the weighted sum; else 0.

    Args:
        taus: task vectors of one parameter, of one shape.
        weights: one for each; by its magnitude it counts in the average, by its sign it turns the task vector.
    """
    weighted = [weight * tau for weight, tau in zip(weights, taus, strict=True)]
    elected = torch.stack(weighted).sum(dim=0).sign()
    total, mass = torch.zeros_like(elected), torch.zeros_like(elected)
    for weight, tau in zip(weights, weighted, strict=True):
        agrees = tau * elected > 0
        total += torch.where(agrees, tau, 0.0)
        mass += abs(weight) * agrees
    return torch.where(mass > 0, total / mass, 0.0)


def dare(
    parents: Sequence[Genome], weights: Tensor, generator: Generator, *, granularity: Granularity, density: float
) -> DenseGenome:
    """Mix parents whose entries are dropped at random and the rest rescaled (DARE, Yu et al. 2024, section 3).

    Every entry of a parent's task vector is dropped with probability 1 − density, independently, and else divided
    by density, so that its expectation stays.

    Args:
        parents: the models to mix.
        weights: mixing weights, float64 [parents, G].
        generator: source of randomness, on the CPU.
        granularity: what the G parts are.
        density: share of the entries to keep.
    """
    space = parents[0].space
    deltas = {}
    for name, part in space.parts(granularity).items():
        total = torch.zeros(space.base[name].shape, device=space.device)
        for parent, weight in zip(parents, weights[:, part].tolist(), strict=True):
            kept = (torch.rand(total.shape, generator=generator) < density).to(space.device)
            total += torch.where(kept, parent.task_vector(name) * (weight / density), 0.0)
        deltas[name] = total
    return DenseGenome(space, deltas)


def split(
    first: Genome, second: Genome, generator: Generator, *, granularity: Granularity
) -> tuple[Genome, dict[str, Any]]:
    """Mix parents by t : 1 − t before a split point and by 1 − t : t after it (M2N2, Abrantes et al. 2025).

    t is uniform in [0, 1], the split point uniform over the parts in order; a point of 0 is before all of them.
    The mean is linear in the task vectors, where M2N2 interpolates the weights on a sphere (SLERP): a genome stays
    a weighted sum.

    Args:
        first: a parent.
        second: the other.
        generator: source of randomness, on the CPU.
        granularity: what the parts are; layers for "model".

    Returns:
        The child, and what was drawn, as :func:`crossover` does.
    """
    pieces: Granularity = "layer" if granularity == "model" else granularity
    parts = len(first.space.part_names(pieces))
    point = int(torch.randint(parts, (), generator=generator))
    mix = torch.rand((), dtype=torch.float64, generator=generator).item()
    shares = torch.full((parts,), 1 - mix, dtype=torch.float64)
    shares[:point] = mix
    child = first.scaled(shares, pieces) + second.scaled(1 - shares, pieces)
    return child, {"crossover": {"variant": "split", "granularity": pieces, "point": point, "mix": mix}}

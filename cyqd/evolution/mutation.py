"""Mutation: stretch a child along singular directions of a task vector (paper, SVD-based mutation).

The paper's formula and its published code differ, hence the variants; see docs/method.md.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from cyqd.evolution.genome import CompactGenome, DenseGenome, Genome
from cyqd.evolution.spectrum import as_matrix, singular_basis, stretch

Variant = Literal["expert", "child", "literal", "gaussian", "lognormal", "none"]


def mutate(
    genome: Genome,
    active: int,
    generator: Generator,
    *,
    variant: Variant = "expert",
    w_max: float = 0.3,
    sigma: float = 0.01,
) -> Genome:
    """Mutate a child.

    Per matrix, while vectors (norms, biases) pass through, with w ∈ ℝ^r uniform on [0, w_max]:

    - ``expert``: τ + U diag(w ∘ σ) Vᵀ with the singular basis of the active task's expert.
    - ``child``: U diag((1 + w) ∘ σ) Vᵀ with the child's own basis.
    - ``literal``: U diag(w ∘ σ) Vᵀ with the child's own basis, the formula as printed.
    - ``gaussian``: τ + N(0, sigma²), independently in every entry.
    - ``none``: τ.

    ``lognormal`` acts on the genome instead: every coefficient α_i times e^z, z ~ N(0, sigma²), so it shortens as
    often as it lengthens; ω stays. A genome that holds its task vector whole has one coefficient, 1.

    Args:
        genome: the child after crossover.
        active: index of the active task.
        generator: source of randomness, on the CPU.
        variant: which mutation.
        w_max: largest stretch of a singular value.
        sigma: standard deviation of "gaussian" in weights, of "lognormal" in the logarithm of a coefficient.

    Raises:
        ValueError: if there is no such variant.
    """
    if variant not in get_args(Variant):
        raise ValueError(f"mutation: expected one of {get_args(Variant)}, got '{variant}'")
    if variant == "none":
        return genome
    space = genome.space
    if variant == "lognormal":
        return _rescaled(genome, sigma, generator)
    if variant == "expert":
        omega: list[Tensor | None] = [None] * space.ingredients
        mutated = space.ingredients - len(space.experts) + active  # its orthogonal task vector, if it has one
        omega[mutated] = w_max * torch.rand(space.bases[mutated].size, generator=generator)
        return genome + CompactGenome(space, [0.0] * len(space.experts), omega)

    matrices = space.matrices()
    deltas = {}
    for name in space.names:
        delta = genome.task_vector(name)
        if name in matrices and variant == "gaussian":
            noise = torch.randn(delta.shape, generator=generator).to(delta.device)
            delta = delta + sigma * noise
        elif name in matrices:
            matrix = as_matrix(delta)
            basis = singular_basis(matrix)
            weights = w_max * torch.rand(len(basis.sigma), generator=generator).to(delta.device)
            kept = 0.0 if variant == "literal" else 1.0
            delta = stretch(matrix, basis, weights, alpha=kept).reshape(delta.shape)
        deltas[name] = delta
    return DenseGenome(space, deltas)


def _rescaled(genome: Genome, sigma: float, generator: Generator) -> Genome:
    shape = genome.alpha.shape if isinstance(genome, CompactGenome) else (1,)
    factors = torch.exp(sigma * torch.randn(shape, dtype=torch.float64, generator=generator))
    if isinstance(genome, CompactGenome):
        return CompactGenome(genome.space, genome.alpha * factors, genome.omega, granularity=genome.granularity)
    return genome.scaled(factors, "model")

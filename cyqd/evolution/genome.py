"""Genomes: models as coordinates between a base and its experts, made into weights on demand.

With the ``expert`` mutation every individual of CycleQD is exactly

    θ_l(g) = θ_b,l + Σ_k τ_k,l (α_k I + V_k,l diag(ω_k,l) V_k,lᵀ)

so a genome (α, ω) of a few megabytes stands for an 8B model, and crossover and mutation are sums of genomes. α_k is
one number for the whole model, or one for each of its parts: layers, or groups of like parameters. Operators that
leave this space give a dense genome, a whole task vector, behind the same operations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cyqd.evolution.parts import Granularity, common_granularity
from cyqd.evolution.spectrum import SingularBasis, as_matrix, stretch

if TYPE_CHECKING:
    from cyqd.evolution.space import ExpertSpace


class Genome(ABC):
    """A model as a task vector over an :class:`ExpertSpace`: a vector space with ``+`` and ``*``."""

    space: ExpertSpace

    @abstractmethod
    def task_vector(self, name: str) -> Tensor:
        """Return τ(g) of one parameter: float32, the parameter's shape, on the space's device."""

    @abstractmethod
    def scaled(self, factors: Tensor, granularity: Granularity) -> Genome:
        """Return the genome whose task vector is multiplied part by part.

        Args:
            factors: float64 [G], one per part.
            granularity: what the parts are.

        Raises:
            ValueError: if there is not one factor per part, or the genome's own parts are of another granularity.
        """

    def orthogonal(self) -> Genome:
        """Return the genome with the experts' orthogonal task vectors in place of their own, if there are any.

        A genome that holds its task vector whole stays as it is.
        """
        return self

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return what must be saved to rebuild the genome, by name."""

    def __mul__(self, factor: float) -> Genome:
        return self.scaled(torch.tensor([factor], dtype=torch.float64), "model")

    def __rmul__(self, factor: float) -> Genome:
        return self * factor

    def __add__(self, other: Genome) -> Genome:
        names = self.space.names
        return DenseGenome(self.space, {name: self.task_vector(name) + other.task_vector(name) for name in names})

    def weight(self, name: str) -> Tensor:
        """Return θ(g) of one parameter, accumulated in float32."""
        return self.space.base[name].to(self.space.device).float() + self.task_vector(name)


class CompactGenome(Genome):
    """θ_b + Σ_k τ_k (α_k I + V_k diag(ω_k) V_kᵀ), where α_k may differ from part to part.

    Args:
        space: the base and its experts.
        alpha: α, one coefficient per ingredient of the space, or [I, G], one per ingredient and part; or of the K
            experts alone, then the orthogonal task vectors that there may be count as 0.
        omega: likewise a float32 vector [R_k] over its singular directions, all matrices end to end, or None for
            all zero; None for all by default.
        granularity: what the parts are.

    Attributes:
        alpha: α, float64 [I, G].

    Raises:
        ValueError: if α has neither of these shapes.
    """

    def __init__(
        self,
        space: ExpertSpace,
        alpha: Sequence[float] | Tensor,
        omega: Sequence[Tensor | None] | None = None,
        *,
        granularity: Granularity = "model",
    ) -> None:
        self.space = space
        self.granularity: Granularity = granularity
        given = torch.as_tensor(alpha, dtype=torch.float64, device="cpu")
        experts, parts = len(space.experts), len(space.part_names(granularity))
        rows = space.ingredients if given.shape[:1] == (space.ingredients,) else experts
        if given.shape not in {(rows,), (rows, parts)}:
            expected = f"shape [{experts}] or [{experts}, {parts}] (experts, parts of granularity '{granularity}')"
            raise ValueError(f"alpha: expected {expected}, got {list(given.shape)}")
        self.alpha = torch.zeros(space.ingredients, parts, dtype=torch.float64)
        self.alpha[:rows] = given if given.ndim == 2 else given[:, None]
        known = tuple(omega or ())
        self.omega = known + (None,) * (space.ingredients - len(known))

    def _coefficients(self, name: str) -> list[float]:
        column: list[float] = self.alpha[:, self.space.parts(self.granularity)[name]].tolist()
        return column

    def task_vector(self, name: str) -> Tensor:
        """Return τ(g) of one parameter; see :class:`Genome`."""
        total = torch.zeros(self.space.base[name].shape, device=self.space.device)
        for k, (alpha, omega) in enumerate(zip(self._coefficients(name), self.omega, strict=True)):
            if alpha == 0 and omega is None:
                continue
            tau = self.space.task_vector(k, name)
            part = self.space.bases[k].slices.get(name) if omega is not None else None
            if omega is None or part is None:
                total.add_(tau, alpha=alpha)
                continue
            basis = SingularBasis(*(t.to(tau.device) for t in self.space.bases[k][name]))
            stretched = stretch(as_matrix(tau), basis, omega[part].to(tau.device), alpha=alpha)
            total.add_(stretched.reshape(tau.shape))
        return total

    def weight(self, name: str) -> Tensor:
        """Return θ(g) of one parameter; of the base and of an expert, their own tensor, bit for bit."""
        if all(omega is None for omega in self.omega):
            alpha = self._coefficients(name)
            mixed = [k for k, coefficient in enumerate(alpha) if coefficient != 0]
            if not mixed:
                return self.space.base[name]
            if len(mixed) == 1 and mixed[0] < len(self.space.experts) and alpha[mixed[0]] == 1:
                return self.space.experts[mixed[0]][name]
        return super().weight(name)

    def orthogonal(self) -> CompactGenome:
        """Return the genome with α moved to the orthogonal task vectors; see :class:`Genome`.

        Raises:
            ValueError: if it stretches singular directions of an expert's own task vector, which the orthogonal one
                does not have.
        """
        if self.space.orthogonal is None:
            return self
        experts = len(self.space.experts)
        if any(omega is not None for omega in self.omega[:experts]):
            raise ValueError("this genome was mutated along its experts' own singular directions")
        alpha = torch.zeros_like(self.alpha)
        alpha[experts:] = self.alpha[:experts] + self.alpha[experts:]
        return CompactGenome(self.space, alpha, self.omega, granularity=self.granularity)

    def scaled(self, factors: Tensor, granularity: Granularity) -> CompactGenome:
        """Return the genome multiplied part by part, α and ω alike; see :class:`Genome`."""
        common = common_granularity(self.granularity, granularity)
        alpha = self.alpha * _check_factors(self.space, factors, granularity)
        omega = [
            None if omega is None else omega * self._by_direction(k, factors, granularity)
            for k, omega in enumerate(self.omega)
        ]
        return CompactGenome(self.space, alpha, omega, granularity=common)

    def _by_direction(self, expert: int, factors: Tensor, granularity: Granularity) -> Tensor | float:
        """Spread factors [G] over the singular directions of an expert's matrices, float32 [R_k]."""
        if len(factors) == 1:
            return factors.item()
        parts, slices = self.space.parts(granularity), self.space.bases[expert].slices
        indices = torch.tensor([parts[name] for name in slices])
        return factors.float()[indices].repeat_interleave(torch.tensor([s.stop - s.start for s in slices.values()]))

    def __add__(self, other: Genome) -> Genome:
        if not isinstance(other, CompactGenome):
            return super().__add__(other)
        granularity = common_granularity(self.granularity, other.granularity)
        omega = [
            b if a is None else a if b is None else a + b for a, b in zip(self.omega, other.omega, strict=True)
        ]
        return CompactGenome(self.space, self.alpha + other.alpha, omega, granularity=granularity)

    def tensors(self) -> dict[str, Tensor]:
        """Return α, float64, and the ω_k that are not all zero; see :class:`Genome`.

        α is "alpha" [K] of the whole model, "alpha.layer" or "alpha.group" [K, G] of its parts; [2K] and [2K, G]
        where it mixes orthogonal task vectors.
        """
        own = len(self.space.experts)
        mixed = self.alpha if self.alpha[own:].any() else self.alpha[:own]
        alpha = {"alpha": mixed[:, 0]} if self.granularity == "model" else {f"alpha.{self.granularity}": mixed}
        return {**alpha, **{f"omega.{k}": w for k, w in enumerate(self.omega) if w is not None}}


class DenseGenome(Genome):
    """A task vector held whole, for operators that leave the compact space.

    Args:
        space: the base and its experts.
        deltas: float32 task vector of every evolving parameter.
    """

    def __init__(self, space: ExpertSpace, deltas: Mapping[str, Tensor]) -> None:
        self.space = space
        self.deltas = deltas

    def task_vector(self, name: str) -> Tensor:
        """Return τ(g) of one parameter; see :class:`Genome`."""
        return self.deltas[name].to(self.space.device)

    def scaled(self, factors: Tensor, granularity: Granularity) -> DenseGenome:
        """Return the task vector multiplied part by part; see :class:`Genome`."""
        parts, values = self.space.parts(granularity), _check_factors(self.space, factors, granularity).tolist()
        return DenseGenome(self.space, {name: delta * values[parts[name]] for name, delta in self.deltas.items()})

    def tensors(self) -> dict[str, Tensor]:
        """Return the task vector under ``delta.NAME``; see :class:`Genome`."""
        return {f"delta.{name}": delta for name, delta in self.deltas.items()}


def _check_factors(space: ExpertSpace, factors: Tensor, granularity: Granularity) -> Tensor:
    parts = len(space.part_names(granularity))
    if factors.shape != (parts,):
        raise ValueError(
            f"factors: expected [{parts}], one per part of granularity '{granularity}', got {list(factors.shape)}"
        )
    return factors


@torch.no_grad()
def materialise(genome: Genome, parameters: Mapping[str, torch.nn.Parameter]) -> None:
    """Write θ(g) into live parameters, in place: one parameter at a time, cast once.

    Args:
        genome: the model to write.
        parameters: the live parameters that evolve, by name.

    Raises:
        ValueError: if a live parameter shares its memory with the base, which would be overwritten.
    """
    for name, parameter in parameters.items():
        if parameter.data_ptr() == genome.space.base[name].data_ptr():
            raise ValueError(f"the live parameter '{name}' and the base share memory; read the base from its files")
        parameter.copy_(genome.weight(name))

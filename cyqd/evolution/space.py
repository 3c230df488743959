"""The space that genomes live in: a base model, its experts, and what is computed from these once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import get_args

import torch
from torch import Tensor

from cyqd.evolution.genome import CompactGenome, Genome
from cyqd.evolution.orthogonal import OrthogonalVectors
from cyqd.evolution.parts import Granularity, Parts, find_parts
from cyqd.evolution.spectrum import SingularBases, is_matrix, similarity

Weights = Mapping[str, Tensor]
"""A model's weights by parameter name, read-only."""


class ExpertSpace:
    """A base model and its experts: the space that genomes live in. Nothing here is ever written to.

    Args:
        base: the base's weights.
        experts: each expert's weights, in the tasks' order.
        tasks: the tasks' names, one per expert.
        names: the parameters that evolve; all of the base's by default.
        rank: keep at most this many singular directions of each matrix; all by default.

    Attributes:
        identity: fingerprints of the base and of each expert, separated by spaces; empty if not yet taken.
        orthogonal: the experts' orthogonal task vectors, where a strategy mixes these.
        bases: the ingredients' singular bases, where a strategy needs them.

    Raises:
        ValueError: if there is no expert, or an expert does not fit the base (names, shapes).
    """

    def __init__(
        self,
        base: Weights,
        experts: Sequence[Weights],
        tasks: Sequence[str],
        *,
        names: Iterable[str] | None = None,
        rank: int | None = None,
    ) -> None:
        self.base: Weights = base
        self.experts = list(experts)
        self.tasks = list(tasks)
        self.names = list(base) if names is None else list(names)
        self.rank = rank
        self.identity = ""
        self.device = torch.device("cpu")
        self.orthogonal: OrthogonalVectors | None = None
        self.bases: list[SingularBases] = []
        self._parts = {g: find_parts(self.names, g) for g in get_args(Granularity)}
        if len(self.experts) != len(self.tasks) or not self.experts:
            raise ValueError(f"expected one expert per task, got {len(self.experts)} for tasks {self.tasks}")
        for label, weights in [("base", base), *zip(self.tasks, self.experts, strict=True)]:
            _check_fit(label, weights, base, self.names)

    def fingerprint(self, weights: Weights, *, label: str, progress: Callable[[int], object] | None = None) -> str:
        """Hash a model's evolving weights and check that they are finite, in one pass.

        Args:
            weights: the base's or an expert's weights.
            label: what to call the model in an error.
            progress: called with the bytes read after each tensor.

        Raises:
            ValueError: if a weight is NaN or infinite, naming the tensor.
        """
        digest = hashlib.blake2b(digest_size=16)
        for name in self.names:
            tensor = weights[name].detach().contiguous()
            if not bool(torch.isfinite(tensor).all()):
                raise ValueError(
                    f"{label}: tensor '{name}' holds NaN or infinite values; mend or replace this model"
                )
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
            if progress:
                progress(tensor.nbytes)
        return digest.hexdigest()

    def matrices(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the parameters that SVD mutation acts on."""
        return {
            name: tuple(self.base[name].shape) for name in self.names if is_matrix(tuple(self.base[name].shape))
        }

    def parts(self, granularity: Granularity) -> Mapping[str, int]:
        """Return the index of the part that each evolving parameter belongs to, by the parameter's name.

        Raises:
            ValueError: if there is no such granularity.
        """
        return self._parts_at(granularity).indices

    def part_names(self, granularity: Granularity) -> list[str]:
        """Return the parts, in the order of their first parameters; "model" has one part.

        Raises:
            ValueError: if there is no such granularity.
        """
        return self._parts_at(granularity).names

    def _parts_at(self, granularity: Granularity) -> Parts:
        if granularity not in self._parts:
            raise ValueError(f"granularity: expected one of {get_args(Granularity)}, got {granularity!r}")
        return self._parts[granularity]

    def to(self, device: torch.device, *, resident: bool = False) -> None:
        """Compute on a device; with ``resident``, also hold base, experts and singular bases there."""
        self.device = device
        if resident:
            self.base = {name: self.base[name].to(device) for name in self.names}
            self.experts = [{name: expert[name].to(device) for name in self.names} for expert in self.experts]
            for bases in self.bases:
                bases.to(device)
            if self.orthogonal is not None:
                self.orthogonal.to(device, len(self.experts))

    @property
    def ingredients(self) -> int:
        """How many task vectors a genome mixes: the K experts' own, and their orthogonal ones if there are any."""
        return len(self.experts) * (1 if self.orthogonal is None else 2)

    def task_vector(self, ingredient: int, name: str) -> Tensor:
        """Return τ of one parameter, in float32 on the space's device.

        Args:
            ingredient: k for expert k's own, K + k for its orthogonal one; these are the same where ``name`` is no
                matrix.
            name: the parameter.
        """
        expert = ingredient % len(self.experts)
        if ingredient != expert:
            assert self.orthogonal is not None
            if (tau := self.orthogonal.get(expert, name)) is not None:
                return tau.to(self.device)
        return self.experts[expert][name].to(self.device).float() - self.base[name].to(self.device).float()

    def similarity(self, first: int, second: int) -> float:
        """Return the similarity of two experts, from their singular bases."""
        a, b = (
            {name: bases[name].sigma for name in bases.names} for bases in (self.bases[first], self.bases[second])
        )
        return similarity(a, b)

    def expert(self, index: int) -> Genome:
        """Return the genome of one expert."""
        return CompactGenome(self, [float(k == index) for k in range(len(self.experts))])

    def origin(self) -> Genome:
        """Return the genome of the base."""
        return CompactGenome(self, [0.0] * len(self.experts))

    def mean(self) -> Genome:
        """Return the task-vector average, θ_b + (1/K) Σ_k τ_k."""
        return CompactGenome(self, [1 / len(self.experts)] * len(self.experts))


def _check_fit(label: str, weights: Weights, base: Weights, names: Sequence[str]) -> None:
    problems = [f"tensor '{name}' is missing" for name in names if name not in weights]
    problems += [f"tensor '{name}' is not in the base" for name in weights if name not in base]
    problems += [
        f"tensor '{name}' has shape {tuple(weights[name].shape)}, the base has {tuple(base[name].shape)}"
        for name in names
        if name in weights and name in base and weights[name].shape != base[name].shape
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ValueError(f"{label} does not fit the base: {'; '.join(problems[:3])}{more}")

"""Orthogonal task vectors: experts whose strongest directions no longer get in each other's way.

Source: TSV-Merge; Gargiulo et al., "Task Singular Vectors: Reducing Task Interference in Model Merging", CVPR 2025.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors import safe_open
from torch import Tensor

from cyqd.evolution.spectrum import as_matrix, gram_eigen
from cyqd.evolution.storage import save_tensors

TaskVectors = Literal["plain", "orthogonal", "both"]
"""What a search mixes: the experts' own task vectors, their orthogonal ones, or first the ones, then the others."""


def sums(factors: Sequence[float], task_vectors: TaskVectors, experts: int) -> list[list[float]]:
    """Return α of the sum of all K experts' task vectors, times each factor; of both kinds, of each by itself.

    Args:
        factors: of the sums.
        task_vectors: what is mixed.
        experts: K.
    """
    if task_vectors != "both":
        return [[factor] * experts for factor in factors]
    halves = [([factor] * experts, [0.0] * experts) for factor in factors]
    return [alpha for own, none in halves for alpha in (own + none, none + own)]


def orthogonalise(task_vectors: Sequence[Tensor]) -> list[Tensor]:
    """Make the K experts' task vectors of one matrix orthogonal to each other, on both sides.

    Of each τ_k = U_k Σ_k V_kᵀ, [m, n], the ⌊min(m, n) / K⌋ strongest directions are kept (at least one, though with
    more experts than directions there is no room for all). [U_1 … U_K] and [V_1 … V_K] are replaced by the nearest
    matrices with orthonormal columns, their polar factors, whose blocks give τ'_k = U'_k Σ_k V'_kᵀ: no expert reads
    or writes along a direction of another. What experts have in common to within rounding, they share.

    Args:
        task_vectors: of one shape with two or more dimensions; decomposed in float64, flattened to [out, −1].

    Returns:
        τ'_1 … τ'_K, float32, of the same shape.
    """
    shape = task_vectors[0].shape
    room = max(min(as_matrix(task_vectors[0]).shape) // len(task_vectors), 1)
    parts = [_strongest(as_matrix(tau).double(), room) for tau in task_vectors]
    ranks = [len(sigma) for _, sigma, _ in parts]
    left = torch.split(_polar_factor(torch.cat([u for u, _, _ in parts], dim=1)), ranks, dim=1)
    right = torch.split(_polar_factor(torch.cat([v for _, _, v in parts], dim=1)), ranks, dim=1)
    found = zip(left, [sigma for _, sigma, _ in parts], right, strict=True)
    return [((u * sigma) @ v.T).float().reshape(shape) for u, sigma, v in found]


def _strongest(matrix: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return U [m, r], σ [r] and V [n, r] of the strongest directions, at most ``count``, float64."""
    values, vectors = gram_eigen(matrix)
    rank = min(_rank(values, matrix), count)
    sigma, vectors = values[:rank].sqrt(), vectors[:, :rank]
    if matrix.shape[0] >= matrix.shape[1]:
        return matrix @ vectors / sigma, sigma, vectors
    return vectors, sigma, matrix.T @ vectors / sigma


def _polar_factor(matrix: Tensor) -> Tensor:
    """Return C (CᵀC)^(−1/2), the nearest matrix to C with orthonormal columns; directions that C lacks stay out."""
    values, vectors = torch.linalg.eigh(matrix.T @ matrix)
    values, vectors = values.flip(0), vectors.flip(1)
    rank = _rank(values, matrix)
    values, vectors = values[:rank], vectors[:, :rank]
    nearest: Tensor = matrix @ (vectors / values.sqrt()) @ vectors.T
    return nearest


def _rank(values: Tensor, matrix: Tensor) -> int:
    """Count a Gram matrix' eigenvalues, descending, that are more than the rounding of float32 task vectors."""
    floor = values[:1].clamp(min=0) * (max(matrix.shape) * torch.finfo(torch.float32).eps) ** 2
    return int((values > floor).sum())


class OrthogonalVectors:
    """The orthogonal task vectors of a base's experts, one safetensors file per matrix, memory-mapped on demand.

    Args:
        folder: where the files lie; its name carries the fingerprints of base and experts.
        names: the matrices.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.names = list(names)
        self._resident: dict[tuple[int, str], Tensor] = {}

    def missing(self) -> list[str]:
        """Return the matrices that have not been computed yet."""
        return [name for name in self.names if not self._path(name).exists()]

    def compute(self, name: str, task_vectors: Sequence[Tensor]) -> None:
        """Compute one matrix's and write them, atomically."""
        found = orthogonalise(task_vectors)
        save_tensors(self._path(name), {str(k): tau.cpu() for k, tau in enumerate(found)})

    def get(self, expert: int, name: str) -> Tensor | None:
        """Return an expert's τ' of a matrix, float32; None of what is no matrix.

        Raises:
            FileNotFoundError: if it has not been computed.
        """
        if name not in self.names:
            return None
        if (held := self._resident.get((expert, name))) is not None:
            return held
        with safe_open(self._path(name), framework="pt") as file:
            tau: Tensor = file.get_tensor(str(expert))
        return tau

    def to(self, device: torch.device, experts: int) -> None:
        """Hold all of them on a device."""
        for name in self.names:
            for k in range(experts):
                tau = self.get(k, name)
                assert tau is not None
                self._resident[k, name] = tau.to(device)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

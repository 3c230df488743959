"""Singular bases of task vectors: what SVD mutation stretches and similarity compares."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from cyqd.evolution.storage import save_tensors


def is_matrix(shape: tuple[int, ...]) -> bool:
    """Tell whether a parameter counts as a matrix: both sides longer than 1 after flattening to [out, −1]."""
    return len(shape) >= 2 and shape[0] > 1 and any(side > 1 for side in shape[1:]) and 0 not in shape


def as_matrix(tensor: Tensor) -> Tensor:
    """Flatten a parameter of two or more dimensions (a convolution kernel, say) to [out, −1]."""
    return tensor.reshape(tensor.shape[0], -1)


class SingularBasis(NamedTuple):
    """The singular values of a matrix [m, n] and its singular vectors on the shorter side.

    One side is enough, since U diag(w ∘ σ) Vᵀ = τ V diag(w) Vᵀ = U diag(w) Uᵀ τ.

    Attributes:
        sigma: float32 [r], descending, all positive to within rounding.
        vectors: float32; V, [n, r], where m ≥ n, else U, [m, r].
    """

    sigma: Tensor
    vectors: Tensor


def singular_basis(matrix: Tensor, *, rank: int | None = None) -> SingularBasis:
    """Decompose a matrix through the float64 eigenvectors of its smaller Gram matrix.

    The Gram matrix squares the condition number, which float64 absorbs for the float32 matrices used here, and
    costs a fraction of a full SVD. Directions whose singular value is numerically zero, below √(r · 2⁻⁵²) · σ_max
    (1e-6 · σ_max at r = 4096), are left out.

    Args:
        matrix: float32 [m, n].
        rank: keep at most this many directions, the strongest.
    """
    values, vectors = gram_eigen(matrix.double())
    kept = _numerical_rank(values)
    kept = kept if rank is None else min(kept, rank)
    return SingularBasis(values[:kept].sqrt().float(), vectors[:, :kept].float().contiguous())


def gram_eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the eigenvalues of a matrix' smaller Gram matrix, descending, and its eigenvectors as columns.

    Args:
        matrix: float64 [m, n].
    """
    gram = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T
    values, vectors = torch.linalg.eigh(gram)
    return values.flip(0), vectors.flip(1)


def singular_values(gram: Tensor) -> Tensor:
    """Return what :func:`singular_basis` has as sigma, from the smaller Gram matrix alone: float64 [r, r]."""
    values: Tensor = torch.linalg.eigvalsh(gram).flip(0)
    return values[: _numerical_rank(values)].sqrt().float()


def _numerical_rank(values: Tensor) -> int:
    """Count the eigenvalues of a Gram matrix, descending, that are more than rounding."""
    floor = values[0].clamp(min=0) * len(values) * torch.finfo(torch.float64).eps
    return int((values > floor).sum())


def stretch(matrix: Tensor, basis: SingularBasis, weights: Tensor, *, alpha: float = 0.0) -> Tensor:
    """Return α τ + U diag(w ∘ σ) Vᵀ of a matrix τ whose basis is known.

    Args:
        matrix: τ, float32 [m, n].
        basis: its singular basis of rank r.
        weights: w, float32 [r].
        alpha: α.

    Returns:
        float32 [m, n].
    """
    operator = (basis.vectors * weights) @ basis.vectors.T
    operator.diagonal().add_(alpha)
    return matrix @ operator if matrix.shape[0] >= matrix.shape[1] else operator @ matrix


class SingularBases:
    """The singular bases of one expert's matrices, one safetensors file per matrix, loaded on demand.

    Args:
        folder: where the files lie; its name carries the fingerprints of the base, the expert and the rank.
        shapes: shape of every matrix of the model, by parameter name.
        rank: keep at most this many directions of each matrix.
    """

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, ...]], *, rank: int | None = None) -> None:
        self.folder = folder
        self.names = list(shapes)
        self.rank = rank
        self._loaded: dict[str, SingularBasis] = {}
        self._slices: dict[str, slice] = {}

    def missing(self) -> list[str]:
        """Return the matrices whose basis has not been computed yet."""
        return [name for name in self.names if not self._path(name).exists()]

    def compute(self, name: str, task_vector: Tensor) -> None:
        """Compute the basis of one matrix and write it, atomically.

        Args:
            name: the parameter's name.
            task_vector: float32, the parameter's shape.
        """
        basis = singular_basis(as_matrix(task_vector), rank=self.rank)
        save_tensors(self._path(name), {key: value.cpu() for key, value in basis._asdict().items()})

    def __getitem__(self, name: str) -> SingularBasis:
        """Return the basis of one matrix, memory-mapped.

        Raises:
            FileNotFoundError: if it has not been computed.
        """
        if name not in self._loaded:
            with safe_open(self._path(name), framework="pt") as file:
                self._loaded[name] = SingularBasis(file.get_tensor("sigma"), file.get_tensor("vectors"))
        return self._loaded[name]

    def to(self, device: torch.device) -> None:
        """Hold all bases on a device."""
        self._loaded = {name: SingularBasis(*(t.to(device) for t in self[name])) for name in self.names}

    @property
    def slices(self) -> Mapping[str, slice]:
        """Where each matrix' directions lie in a flat vector over all of the expert's directions."""
        if not self._slices:
            start = 0
            for name in self.names:
                stop = start + len(self[name].sigma)
                self._slices[name] = slice(start, stop)
                start = stop
        return self._slices

    @property
    def size(self) -> int:
        """Number of directions over all matrices, R_k."""
        return max((part.stop for part in self.slices.values()), default=0)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def similarity(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """Compare two task vectors by their singular values (paper, section 4.2.3).

    Args:
        first: the singular values of each matrix, descending, by parameter name.
        second: the same of the other task vector.

    Returns:
        The mean over the matrices of rank > 1 in both of cos(σ_A, σ_B), in [0, 1]; NaN where there is none.
    """
    cosines = []
    for name in first.keys() & second.keys():
        a, b = first[name].cpu().double(), second[name].cpu().double()  # not all devices know float64
        shared = min(len(a), len(b))
        if shared > 1:
            # The shorter vector is padded with zeros: numerically zero values were left out.
            cosines.append((a[:shared] @ b[:shared] / (a.norm() * b.norm())).item())
    return sum(sorted(cosines)) / len(cosines) if cosines else float("nan")

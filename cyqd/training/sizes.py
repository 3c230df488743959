"""Bytes of memory that the work on one parameter takes, from its shape."""

from __future__ import annotations

import math

from cyqd.evolution.spectrum import is_matrix

Shape = tuple[int, ...]


def sides(shape: Shape) -> tuple[int, int]:
    """Return the longer and the shorter side of a matrix that is flattened to [out, −1]."""
    other = math.prod(shape[1:])
    return max(shape[0], other), min(shape[0], other)


def directions(shape: Shape, rank: int | None = None) -> int:
    """Return how many singular directions a parameter can have; 0 where it is no matrix."""
    full = sides(shape)[1] if is_matrix(shape) else 0
    return full if rank is None else min(full, rank)


def decomposing_bytes(shape: Shape) -> int:
    """Return the memory that :func:`cyqd.evolution.spectrum.singular_basis` holds for a matrix.

    The float32 task vector with its two summands, the float64 copy, and five float64 squares: the Gram matrix, its
    eigenvectors, the solver's two of work space (LAPACK's syevd), and the eigenvectors in descending order.
    """
    longer, shorter = sides(shape)
    return longer * shorter * (3 * 4 + 8) + 5 * 8 * shorter**2


def orthogonalising_bytes(shape: Shape, experts: int) -> int:
    """Return the memory that :func:`cyqd.evolution.orthogonal.orthogonalise` holds for a matrix.

    The experts' float32 task vectors; in float64 the singular vectors that are kept of all of them, and, of the
    longer side's, what their polar factor takes: they side by side and five squares, then two more of their size.

    Args:
        shape: the matrix'.
        experts: K.
    """
    longer, shorter = sides(shape)
    width = max(shorter // experts, 1) * experts
    polar = max(longer + 5 * width, 3 * longer)
    return 4 * experts * longer * shorter + 8 * width * (longer + shorter + polar)


def writing_bytes(shape: Shape, rank: int | None = None, *, stretched: bool) -> int:
    """Return the memory that materialising a parameter holds: float32 sums, and the stretch's operator and vectors.

    Args:
        shape: the parameter's.
        rank: of the singular bases.
        stretched: whether genomes use singular bases.
    """
    whole = 4 * math.prod(shape)
    if not (stretched and is_matrix(shape)):
        return 4 * whole  # the sum, one task vector and its two summands
    shorter = sides(shape)[1]
    return 4 * whole + 4 * shorter * (2 * shorter + 2 * directions(shape, rank))

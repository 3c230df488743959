"""Singular bases and similarity against numpy's SVD."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cyqd.evolution.spectrum import (
    SingularBases,
    as_matrix,
    is_matrix,
    similarity,
    singular_basis,
    stretch,
)
from tests.evolution.models import FROZEN, LOW_RANK, MATRICES, array, dense_stretch


def matrix(rows: int, columns: int, *, rank: int | None = None, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if rank is None:
        return torch.randn(rows, columns, generator=generator)
    left, right = (
        torch.randn(rows, rank, generator=generator),
        torch.randn(rank, columns, generator=generator),
    )
    return left @ right


SIDES = st.integers(2, 24)


@given(SIDES, SIDES, st.integers(0, 1000), st.sampled_from([1e-20, 1e-4, 1.0, 1e15]))
def test_a_basis_agrees_with_a_full_svd_whatever_the_scale(rows, columns, seed, scale):
    m = matrix(rows, columns, seed=seed) * scale
    basis = singular_basis(m)
    sigma = np.linalg.svd(array(m), compute_uv=False)
    np.testing.assert_allclose(array(basis.sigma), sigma[: len(basis.sigma)], rtol=1e-6, atol=1e-6 * sigma[0])
    assert np.all(sigma[len(basis.sigma) :] < 1e-6 * sigma[0])
    w = torch.rand(len(basis.sigma), generator=torch.Generator().manual_seed(seed))
    expected = dense_stretch(array(m), w.tolist())
    np.testing.assert_allclose(array(stretch(m, basis, w)), expected, atol=2e-6 * sigma[0])


def test_small_singular_values_are_accurate_far_below_the_largest():
    """Eigenvalues of the Gram matrix are squares: a spread of 10⁶ in σ is one of 10¹² there."""
    u, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(12, 7)))
    v, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(7, 7)))
    exact = np.logspace(0, -6, 7)
    m = torch.tensor((u * exact) @ v.T, dtype=torch.float32)
    found = array(singular_basis(m).sigma)
    np.testing.assert_allclose(found, np.linalg.svd(array(m), compute_uv=False), rtol=1e-3)


@pytest.mark.parametrize(("rows", "columns"), [(12, 7), (7, 12), (9, 9)])
@pytest.mark.parametrize("rank", [1, 3])
def test_a_rank_deficient_matrix_keeps_the_directions_it_has(rows, columns, rank):
    m = matrix(rows, columns, rank=rank)
    basis = singular_basis(m)
    strong = array(basis.sigma) > 1e-5 * float(basis.sigma[0])
    assert strong.sum() == rank
    w = torch.full((len(basis.sigma),), 0.25)
    np.testing.assert_allclose(array(stretch(m, basis, w)), 0.25 * array(m), atol=1e-5)


def test_a_zero_matrix_has_an_empty_basis():
    basis = singular_basis(torch.zeros(4, 6))
    assert basis.sigma.shape == (0,)
    assert not stretch(torch.zeros(4, 6), basis, basis.sigma).any()


@given(SIDES, SIDES, st.integers(1, 30))
def test_a_rank_limit_keeps_the_strongest(rows, columns, rank):
    m = matrix(rows, columns)
    full, limited = singular_basis(m), singular_basis(m, rank=rank)
    kept = min(rank, len(full.sigma))
    assert torch.equal(limited.sigma, full.sigma[:kept])
    assert bool((full.sigma.diff() <= 0).all())
    assert limited.vectors.shape == (min(rows, columns), kept)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((), False), ((5,), False), ((1, 6), False), ((6, 1), False), ((4, 1, 1, 1), False), ((1, 3, 3, 3), False),
     ((2, 2), True), ((3, 2, 2, 2), True), ((3, 1, 2, 2), True)],
)  # fmt: skip
def test_matrices_are_told_from_vectors_by_their_shape(shape, expected):
    assert is_matrix(shape) is expected


def test_a_kernel_is_flattened_to_its_outputs():
    kernel = torch.arange(24.0).reshape(3, 2, 2, 2)
    assert torch.equal(as_matrix(kernel), kernel.flatten(1))


def test_bases_are_read_back_as_computed_and_their_slices_tile_the_flat_vector(space, tmp_path):
    names = list(space.matrices())
    bases = SingularBases(tmp_path / "bases", space.matrices())
    assert bases.missing() == names
    for name in names:
        bases.compute(name, space.task_vector(0, name))
    assert bases.missing() == []
    stop = 0
    for name in names:
        expected = singular_basis(as_matrix(space.task_vector(0, name)))
        assert torch.equal(bases[name].sigma, expected.sigma)
        assert torch.equal(bases[name].vectors, expected.vectors)
        assert bases.slices[name] == slice(stop, stop + len(expected.sigma))
        stop += len(expected.sigma)
    assert bases.size == stop


def test_a_basis_that_was_not_computed_raises(tmp_path):
    with pytest.raises(FileNotFoundError):
        SingularBases(tmp_path, {"a.weight": (3, 3)})["a.weight"]


def spectra(*matrices: torch.Tensor) -> dict[str, torch.Tensor]:
    return {f"m{i}": singular_basis(m).sigma for i, m in enumerate(matrices)}


def reference_similarity(first: list[torch.Tensor], second: list[torch.Tensor]) -> float:
    """Mean cosine of full spectra, over the matrices that have rank > 1 in both models."""
    cosines = []
    for a, b in zip(first, second, strict=True):
        if min(np.linalg.matrix_rank(array(a)), np.linalg.matrix_rank(array(b))) > 1:
            s, t = (np.linalg.svd(array(m), compute_uv=False) for m in (a, b))
            cosines.append(s @ t / np.linalg.norm(s) / np.linalg.norm(t))
    return float(np.mean(cosines))


@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=5), st.integers(0, 100))
def test_similarity_is_the_mean_cosine_of_the_singular_values(sides, seed):
    first = [matrix(*side, seed=seed + i) for i, side in enumerate(sides)]
    second = [matrix(*side, seed=seed + 50 + i) * 3 for i, side in enumerate(sides)]
    value = similarity(spectra(*first), spectra(*second))
    assert value == pytest.approx(reference_similarity(first, second), abs=1e-6)
    assert value == similarity(spectra(*second), spectra(*first))
    assert 0 <= value <= 1
    assert similarity(spectra(*first), spectra(*first)) == pytest.approx(1, abs=1e-12)


def test_a_low_rank_update_is_compared_with_a_full_one():
    low, full = matrix(20, 16, rank=2), matrix(20, 16, seed=1)
    value = similarity(spectra(low), spectra(full))
    assert value == pytest.approx(reference_similarity([low], [full]), abs=1e-6)
    assert value < 0.95


def test_matrices_without_a_second_direction_do_not_count():
    first = [matrix(6, 5), torch.zeros(6, 5), torch.outer(torch.arange(6.0), torch.ones(5))]
    second = [matrix(6, 5, seed=1), matrix(6, 5, seed=2), matrix(6, 5, seed=3)]
    assert similarity(spectra(*first), spectra(*second)) == pytest.approx(
        reference_similarity(first[:1], second[:1]), abs=1e-6
    )
    assert np.isnan(similarity(spectra(*first[1:]), spectra(*second[1:])))


def test_experts_are_compared_through_their_bases(space):
    def tau(k: int) -> list[torch.Tensor]:
        return [as_matrix(space.task_vector(k, name)) for name in MATRICES if name not in (FROZEN, LOW_RANK)]

    # The low-rank matrix has two directions in every expert; the frozen one counts only where both trained it.
    for a, b in ((0, 1), (0, 2)):
        low = [as_matrix(space.task_vector(k, LOW_RANK)) for k in (a, b)]
        head = [space.task_vector(k, FROZEN) for k in (a, b)]
        expected = reference_similarity([*tau(a), low[0], head[0]], [*tau(b), low[1], head[1]])
        assert space.similarity(a, b) == pytest.approx(expected, abs=1e-6)
        assert space.similarity(a, b) == space.similarity(b, a)

"""Each mutation variant against numpy's SVD: in the right basis the change is diagonal and its stretch is w."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cyqd.evolution import CompactGenome, ExpertSpace, Genome
from cyqd.evolution.mutation import mutate
from tests.evolution.models import (
    FROZEN,
    LOW_RANK,
    MATRICES,
    SHAPES,
    array,
    assert_same_task_vector,
    bits,
    dense_combine,
    dense_stretch,
    dense_task_vector,
    open_space,
)

W_MAX = 0.3
VARIANTS = ("expert", "child", "literal", "gaussian", "lognormal", "none")
VECTORS = sorted(SHAPES.keys() - set(MATRICES))


def child_of(space: ExpertSpace) -> Genome:
    """A crossover of the first and the last expert."""
    return 0.6 * space.expert(0) + 0.4 * space.expert(2)


def stretches(change: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return w of a change U diag(w ∘ σ) Vᵀ, where U, σ, V are the matrix' own; assert that it has this form."""
    flat, change = matrix.reshape(matrix.shape[0], -1), change.reshape(matrix.shape[0], -1)
    u, sigma, vt = np.linalg.svd(flat, full_matrices=False)
    rank = int((sigma > 1e-5 * sigma[0]).sum()) if sigma[0] else 0
    w = np.diag(u.T @ change @ vt.T)[:rank] / sigma[:rank]
    rebuilt = (u[:, :rank] * (w * sigma[:rank])) @ vt[:rank]
    np.testing.assert_allclose(change, rebuilt, atol=1e-5 * max(sigma[0], 1e-3))
    return w


def expert_vector(space: ExpertSpace, k: int, name: str) -> np.ndarray:
    return array(space.experts[k][name]) - array(space.base[name])


@pytest.mark.parametrize("active", [0, 1, 2])
@pytest.mark.parametrize("name", MATRICES)
def test_expert_adds_the_active_experts_directions_stretched(space, generator, active, name):
    child = child_of(space)
    mutant = mutate(child, active, generator, variant="expert", w_max=W_MAX)
    change = array(mutant.task_vector(name)) - array(child.task_vector(name))
    w = stretches(change, expert_vector(space, active, name))
    assert len(w) == {LOW_RANK: 2, "embed.weight": 4, "conv.weight": 3, FROZEN: 5 if active < 2 else 0}[name]
    assert np.all((w > -1e-5) & (w < W_MAX + 1e-5))
    assert len(np.unique(w.round(6))) == len(w)  # one w per direction, not one per matrix


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize(("variant", "shift"), [("child", 1.0), ("literal", 0.0)])
def test_child_and_literal_stretch_the_childs_own_directions(space, generator, variant, shift, name):
    child = child_of(space)
    mutant = mutate(child, 1, generator, variant=variant, w_max=W_MAX)
    w = stretches(array(mutant.task_vector(name)), array(child.task_vector(name))) - shift
    assert np.all((w > -1e-5) & (w < W_MAX + 1e-5))
    assert len(np.unique(w.round(6))) == len(w)


def test_literal_shrinks_the_task_vector_to_about_half_of_w_max(tmp_path, generator):
    space = open_space(tmp_path)
    ratios = []
    for _ in range(30):
        child = child_of(space)
        mutant = mutate(child, 0, generator, variant="literal", w_max=W_MAX)
        ratios += [array(mutant.task_vector(n)).std() / array(child.task_vector(n)).std() for n in MATRICES]
    assert 0.13 < np.mean(ratios) < 0.19  # E[w²]^½ = 0.3/√3 ≈ 0.17 at most


def test_w_is_uniform_on_zero_to_w_max(space, generator):
    tau = expert_vector(space, 0, "embed.weight")
    draws = []
    for _ in range(250):
        mutant = mutate(space.origin(), 0, generator, variant="expert", w_max=W_MAX)
        draws.extend(stretches(array(mutant.task_vector("embed.weight")), tau) / W_MAX)
    counts, _ = np.histogram(draws, bins=10, range=(0, 1))
    assert ((counts - 100) ** 2 / 100).sum() < 27.88  # 99.9 % quantile, 9 degrees of freedom


@pytest.mark.parametrize("name", MATRICES)
def test_gaussian_adds_independent_noise_of_the_given_sigma(space, generator, name):
    child, sigma = child_of(space), 0.01
    noise = np.stack(
        [
            array(mutate(child, 0, generator, variant="gaussian", sigma=sigma).task_vector(name))
            - array(child.task_vector(name))
            for _ in range(300)
        ]
    )
    assert noise.std() == pytest.approx(sigma, rel=0.05)
    assert abs(noise.mean()) < 4 * sigma / noise.size**0.5
    entries = noise.reshape(300, -1)
    correlations = np.corrcoef(entries.T) - np.eye(entries.shape[1])
    assert np.abs(correlations).max() < 0.3


def test_lognormal_multiplies_every_coefficient_by_a_factor_of_its_own(tmp_path, generator):
    space = open_space(tmp_path)
    parts = len(space.part_names("group"))
    alpha = torch.linspace(-0.5, 1, 3 * parts, dtype=torch.float64).reshape(3, parts)
    alpha[1, 0] = 0
    child = CompactGenome(space, alpha, granularity="group")
    found = [mutate(child, 0, generator, variant="lognormal", sigma=0.5) for _ in range(400)]
    factors = np.stack([array(mutant.alpha)[alpha != 0] for mutant in found]) / array(alpha[alpha != 0])
    assert all(mutant.alpha[1, 0] == 0 for mutant in found)  # what a child lacks stays out
    logs = np.log(factors)  # so signs stay too
    assert abs(logs.mean()) < 4 * 0.5 / logs.size**0.5  # no drift to longer or shorter
    assert logs.std() == pytest.approx(0.5, rel=0.1)
    assert np.abs(np.corrcoef(logs.T) - np.eye(logs.shape[1])).max() < 0.25


def test_lognormal_scales_a_whole_task_vector_and_keeps_stretched_directions(space, generator):
    dense = mutate(child_of(space), 0, generator, variant="gaussian")
    mutant = mutate(dense, 0, generator, variant="lognormal", sigma=0.5)
    ratios = [array(mutant.task_vector(n)) / array(dense.task_vector(n)) for n in MATRICES]
    assert np.ptp(np.concatenate([r.ravel() for r in ratios])) < 1e-4
    assert ratios[0].flat[0] > 0
    assert ratios[0].flat[0] != 1
    stretched = mutate(child_of(space), 1, generator, variant="expert")
    assert mutate(stretched, 0, generator, variant="lognormal").omega is stretched.omega


def test_none_returns_the_child(space, generator):
    child = child_of(space)
    assert mutate(child, 0, generator, variant="none") is child


@pytest.mark.parametrize("variant", [variant for variant in VARIANTS if variant != "lognormal"])
@pytest.mark.parametrize("name", VECTORS)
def test_vectors_pass_through_bit_for_bit(space, generator, variant, name):
    child = child_of(space)
    mutant = mutate(child, 0, generator, variant=variant, w_max=W_MAX, sigma=0.5)
    assert bits(mutant.weight(name)) == bits(child.weight(name))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_zero_task_vector_stays_finite_and_only_noise_moves_it(space, generator, variant):
    frozen = 1.0 * space.expert(2)
    mutant = mutate(frozen, 2, generator, variant=variant, w_max=W_MAX)
    tau = mutant.task_vector(FROZEN)
    assert bool(torch.isfinite(tau).all())
    assert bool(tau.any()) is (variant == "gaussian")


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_truncated_basis_stretches_the_strongest_directions_only(tmp_path, generator, rank):
    space = open_space(tmp_path, rank=rank)
    mutant = mutate(space.expert(0), 0, generator, variant="expert", w_max=W_MAX)
    for name in MATRICES:
        change = array(mutant.task_vector(name)) - expert_vector(space, 0, name)
        w = stretches(change, expert_vector(space, 0, name))
        assert np.all(w[:rank] > 1e-4)
        np.testing.assert_allclose(w[rank:], 0, atol=1e-4)


def test_expert_mutation_agrees_with_a_full_svd_given_its_own_draws(space):
    """The draws are the flat ω of all matrices end to end; rebuild the mutant from them in float64."""
    mutant = mutate(space.expert(1), 0, torch.Generator().manual_seed(5), variant="expert", w_max=W_MAX)
    omega = array(mutant.tensors()["omega.0"])
    tau = dense_task_vector(space.experts[0], space.base)
    change = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for name, part in space.bases[0].slices.items():
        change[name] = dense_stretch(tau[name], omega[part])
    own = dense_task_vector(space.experts[1], space.base)
    assert_same_task_vector(mutant, dense_combine([(1.0, own), (1.0, change)]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_mutation_depends_on_the_generator_alone(space, variant):
    child = child_of(space)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second, third = (
        mutate(child, 0, torch.Generator().manual_seed(seed), variant=variant) for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert all(bits(first.task_vector(n)) == bits(second.task_vector(n)) for n in SHAPES)
    moved = any(bits(first.task_vector(n)) != bits(third.task_vector(n)) for n in SHAPES)
    assert moved is (variant != "none")


def test_an_unknown_variant_raises(space, generator):
    with pytest.raises(ValueError, match="svd"):
        mutate(child_of(space), 0, generator, variant="svd")

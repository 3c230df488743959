"""Orthogonal task vectors: experts that no longer get in each other's way, and searches that mix them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cyqd.evolution import CMAES, CMAME, CycleQD, GenomeStore, TSVMerge
from cyqd.evolution.genome import CompactGenome, DenseGenome
from cyqd.evolution.orthogonal import OrthogonalVectors, orthogonalise
from cyqd.evolution.spectrum import SingularBases
from tests.evolution.models import FROZEN, MATRICES, open_space


def taus(*shape, count=3, seed=0):
    return list(torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed)))


@pytest.fixture
def space(tmp_path):
    """A space of its own, with orthogonal task vectors and their singular bases."""
    space = open_space(tmp_path / "models")
    vectors = OrthogonalVectors(tmp_path / "orthogonal", MATRICES)
    for name in vectors.missing():
        vectors.compute(name, [space.task_vector(k, name) for k in range(3)])
    space.orthogonal = vectors
    for k in range(3):
        bases = SingularBases(tmp_path / f"orthogonal-{k}", space.matrices())
        for name in MATRICES:
            bases.compute(name, space.task_vector(3 + k, name))
        space.bases.append(bases)
    return space


@pytest.mark.parametrize("shape", [(9, 12), (12, 9), (9, 9), (6, 2, 3, 3)])
def test_they_share_no_direction_and_keep_the_strongest_singular_values(shape):
    original = taus(*shape)
    found = orthogonalise(original)
    kept = min(shape[0], int(np.prod(shape[1:]))) // 3
    for a, tau in enumerate(found):
        assert tau.shape == shape
        assert tau.dtype == torch.float32
        expected = torch.linalg.svdvals(original[a].flatten(1))[:kept]
        torch.testing.assert_close(torch.linalg.svdvals(tau.flatten(1))[:kept], expected)
        assert torch.linalg.matrix_rank(tau.flatten(1)) == kept
        for other in found[:a]:
            assert (tau.flatten(1) @ other.flatten(1).T).abs().max() < 1e-5
            assert (tau.flatten(1).T @ other.flatten(1)).abs().max() < 1e-5


def test_what_is_orthogonal_already_stays():
    parts = [torch.zeros(6, 6) for _ in range(2)]
    parts[0][:3, :3], parts[1][3:, 3:] = (
        torch.diag(torch.tensor([3.0, 2, 1])),
        torch.diag(torch.tensor([6.0, 5, 4])),
    )
    for found, part in zip(orthogonalise(parts), parts, strict=True):
        torch.testing.assert_close(found, part)


def test_an_expert_of_low_rank_leaves_the_others_directions_alone():
    zero, other = torch.zeros(6, 8), taus(6, 8, count=1)[0]
    first, second = orthogonalise([zero, other])
    assert not first.any()
    u, sigma, vh = torch.linalg.svd(other, full_matrices=False)
    torch.testing.assert_close(second, (u[:, :3] * sigma[:3]) @ vh[:3])


def test_what_nobody_trained_stays_zero():
    assert not any(bool(tau.any()) for tau in orthogonalise([torch.zeros(6, 8)] * 3))


def test_what_experts_have_in_common_is_shared():
    tau = taus(6, 8, count=1)[0]
    first, second = orthogonalise([tau, tau.clone()])
    u, sigma, vh = torch.linalg.svd(tau, full_matrices=False)
    torch.testing.assert_close(first + second, (u[:, :3] * sigma[:3]) @ vh[:3])
    torch.testing.assert_close(first, second)


def test_more_experts_than_directions_are_no_error():
    assert all(bool(tau.isfinite().all()) for tau in orthogonalise(taus(2, 5)))


def test_an_expert_is_itself_and_a_mixture_is_of_orthogonal_vectors(space):
    for name in space.names:
        assert torch.equal(space.expert(1).weight(name), space.experts[1][name])
    mixed = CompactGenome(space, [0.5, 1.5, 0.0]).orthogonal()
    for name in space.names:
        parts = [space.orthogonal.get(k, name) for k in (0, 1)]
        if name not in MATRICES:
            assert parts == [None, None]
            parts = [space.task_vector(k, name) for k in (0, 1)]
        torch.testing.assert_close(mixed.task_vector(name), 0.5 * parts[0] + 1.5 * parts[1])
    average = sum(space.task_vector(k, "head.weight") for k in range(3)) / 3
    torch.testing.assert_close(space.mean().task_vector("head.weight"), average)


def test_a_genome_moves_once_and_dense_ones_stay(space):
    moved = space.expert(0).orthogonal()
    assert moved.alpha[:, 0].tolist() == [0, 0, 0, 1, 0, 0]
    assert torch.equal(moved.orthogonal().alpha, moved.alpha)
    dense = DenseGenome(space, {name: space.task_vector(0, name) for name in space.names})
    assert dense.orthogonal() is dense
    mutated = CompactGenome(space, [1.0, 0, 0], [torch.ones(space.bases[0].size)])
    with pytest.raises(ValueError, match="own singular directions"):
        mutated.orthogonal()


def search(strategy, space, folder, evaluations=12):
    strategy.setup(space, GenomeStore(folder, space), 0)
    children = []
    while strategy.evaluated < evaluations:
        child = strategy.ask()
        children.append(child.genome)
        alpha = child.genome.alpha.sum(dim=1)
        strategy.tell(child, tuple(float(1 / (1 + (a - 1) ** 2)) for a in (alpha[:3] + alpha[3:]).tolist()))
    return children


@pytest.mark.parametrize(
    "strategy",
    [
        CycleQD(task_vectors="orthogonal", crossover_stretch=1.5),
        CMAES(task_vectors="orthogonal"),
        CMAME(task_vectors="orthogonal"),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_children_mix_orthogonal_vectors_alone(strategy, space, tmp_path):
    experts = 0 if isinstance(strategy, CMAES) else 3
    for child in search(strategy, space, tmp_path)[experts:]:
        assert not child.alpha[:3].any()
        assert child.omega[:3] == (None,) * 3
        assert child.alpha[3:].any()
    for genome in strategy.result().values():
        assert all(bool(genome.weight(name).isfinite().all()) for name in space.names)


@pytest.mark.parametrize("kind", [CycleQD, CMAES, CMAME], ids=lambda kind: kind.__name__)
def test_both_kinds_may_be_mixed(kind, space, tmp_path):
    strategy = kind(task_vectors="both")
    children = search(strategy, space, tmp_path)
    assert any(
        child.alpha[:3].any() and (child.alpha[3:].any() or child.omega[3:] != (None,) * 3) for child in children
    )
    if kind is CMAES:
        assert strategy.start.tolist() == [1 / 6] * 6
    for genome in strategy.result().values():
        assert all(bool(genome.weight(name).isfinite().all()) for name in space.names)


def test_of_both_kinds_an_expert_passes_on_its_own(space, tmp_path):
    children = search(CycleQD(task_vectors="both", mutation="none"), space, tmp_path)
    assert not any(child.alpha[3:].any() for child in children)


def test_mutation_stretches_the_orthogonal_directions(space, tmp_path):
    strategy = CycleQD(task_vectors="orthogonal", w_max=0.3)
    child = search(strategy, space, tmp_path, 4)[3]
    stretched = [k for k, omega in enumerate(child.omega) if omega is not None]
    assert stretched == [3 + 1]  # generation 1 breeds from archive 1
    assert len(child.omega[4]) == space.bases[4].size <= space.bases[1].size
    kept = GenomeStore(tmp_path / "again", space)
    kept.save(0, child)
    assert torch.equal(kept.load(0).alpha, child.alpha)
    assert torch.equal(kept.load(0).omega[4], child.omega[4])


@pytest.mark.parametrize("kind", [CycleQD, CMAES], ids=lambda kind: kind.__name__)
def test_a_search_does_not_fall_back_to_plain_task_vectors(kind, space, tmp_path):
    state = tell_all(kind, space, tmp_path / "told")
    space.orthogonal = None
    strategy = kind(task_vectors="orthogonal")
    strategy.setup(space, GenomeStore(tmp_path / "again", space), 0)
    with pytest.raises(RuntimeError, match="orthogonal task vectors, but the space has none"):
        strategy.load_state_dict(state)
    with pytest.raises(RuntimeError, match="orthogonal task vectors, but the space has none"):
        strategy.tell(strategy.ask(), (0.5,) * 3)
    assert strategy.evaluated == 0


def tell_all(kind, space, folder):
    strategy = kind(task_vectors="orthogonal")
    search(strategy, space, folder)
    return json.loads(json.dumps(strategy.state_dict()))


@pytest.mark.parametrize("kind", [CycleQD, CMAES, CMAME], ids=lambda kind: kind.__name__)
def test_a_continued_search_breeds_the_same_child(kind, space, tmp_path):
    whole = kind(task_vectors="orthogonal")
    search(whole, space, tmp_path / "whole")
    continued = kind(task_vectors="orthogonal")
    continued.setup(space, GenomeStore(tmp_path / "whole", space), 0)
    continued.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    ours, theirs = whole.ask(), continued.ask()
    assert ours.origin == theirs.origin
    assert all(torch.equal(ours.genome.weight(name), theirs.genome.weight(name)) for name in space.names)


def test_a_matrix_that_an_expert_never_trained(space):
    assert not space.task_vector(3 + 2, FROZEN).any()


def test_founders_come_first_and_are_sums(space, tmp_path):
    strategy = CycleQD(founders=[0.5, 1.5], task_vectors="orthogonal")
    children = search(strategy, space, tmp_path, 6)[3:]
    assert [child.alpha[:, 0].tolist() for child in children[:2]] == [[0] * 3 + [0.5] * 3, [0] * 3 + [1.5] * 3]
    assert strategy.ask().origin["parents"]
    assert 3 in strategy.kept()


def test_tsv_merge_is_the_sum(space, tmp_path):
    strategy = TSVMerge()
    strategy.setup(space, GenomeStore(tmp_path, space), 0)
    merged = strategy.ask().genome.task_vector(MATRICES[0])
    torch.testing.assert_close(merged, sum(space.orthogonal.get(k, MATRICES[0]) for k in range(3)))


def test_an_expert_is_kept_alike_with_and_without_orthogonal_vectors(space):
    assert space.expert(1).tensors()["alpha"].tolist() == [0, 1, 0]
    assert space.expert(1).orthogonal().tensors()["alpha"].tolist() == [0, 0, 0, 0, 1, 0]


def test_founders_of_both_kinds_are_sums_of_each(space, tmp_path):
    strategy = CycleQD(founders=[0.5, 1.5], task_vectors="both")
    founders = search(strategy, space, tmp_path, 7)[3:]
    assert [child.alpha[:, 0].tolist() for child in founders] == [
        [*own, *orthogonal]
        for factor in (0.5, 1.5)
        for own, orthogonal in (([factor] * 3, [0] * 3), ([0] * 3, [factor] * 3))
    ]
    assert strategy.ask().origin["parents"]

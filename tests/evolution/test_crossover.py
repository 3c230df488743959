"""Crossover: mixing weights ω₁/(ω₁+ω₂), ω₂/(ω₁+ω₂) with ω ~ N(μ, σ²), and every variant against float64 numpy."""

from __future__ import annotations

import json
import statistics
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cyqd.evolution import CompactGenome, DenseGenome, ExpertSpace, Genome
from cyqd.evolution.crossover import MIN_SUM, Crossover, crossover, crossover_coefficients, elected_mean, trim
from cyqd.evolution.mutation import mutate
from tests.evolution.models import SHAPES, Dense, array, assert_same_task_vector, bits, dense_combine

VARIANTS = get_args(Crossover)


def parents(space: ExpertSpace) -> tuple[Genome, Genome]:
    """Two experts, the first of them mutated."""
    return mutate(space.expert(0), 1, torch.Generator().manual_seed(0)), space.expert(1)


def dense_parents(space: ExpertSpace) -> tuple[Dense, ...]:
    return tuple({name: array(parent.task_vector(name)) for name in SHAPES} for parent in parents(space))


# Mixing weights


@given(st.integers(0, 2**63 - 1), st.floats(0.2, 3), st.floats(0, 2))
def test_coefficients_sum_to_one(seed, mu, sigma):
    first, second = crossover_coefficients(torch.Generator().manual_seed(seed), mu=mu, sigma=sigma)
    assert first + second == pytest.approx(1, rel=1e-12, abs=1e-12 * abs(first))


def test_coefficients_are_the_quotients_of_two_normal_draws():
    for seed in range(50):
        omega = torch.randn(2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 0.03 + 1.0
        expected = (omega / omega.sum()).tolist()
        drawn = crossover_coefficients(torch.Generator().manual_seed(seed))
        assert drawn == pytest.approx(expected, rel=1e-12)


def test_coefficients_spread_as_the_papers_sigma_says(generator):
    # ω₁/(ω₁+ω₂) ≈ 1/2 + (ε₁ − ε₂)/4 to first order, so its deviation is σ·√2/4.
    first = [crossover_coefficients(generator)[0] for _ in range(4000)]
    assert statistics.mean(first) == pytest.approx(0.5, abs=4 * 0.0106 / 4000**0.5)
    assert statistics.stdev(first) == pytest.approx(0.03 * 2**0.5 / 4, rel=0.05)


def test_without_spread_both_parents_count_the_same(generator):
    assert crossover_coefficients(generator, sigma=0.0) == (0.5, 0.5)


def test_a_coefficient_may_be_negative(generator):
    assert any(min(crossover_coefficients(generator, mu=0.5, sigma=1.0)) < 0 for _ in range(200))


def test_a_sum_too_near_zero_is_drawn_again():
    """Find seeds whose first pair cancels, and see the next usable pair of the same stream come out."""
    redrawn = 0
    for seed in range(300):
        stream = torch.Generator().manual_seed(seed)
        pairs = [torch.randn(2, dtype=torch.float64, generator=stream) for _ in range(50)]
        usable = next(pair for pair in pairs if abs(pair.sum().item()) >= MIN_SUM)
        redrawn += usable is not pairs[0]
        drawn = crossover_coefficients(torch.Generator().manual_seed(seed), mu=0.0, sigma=1.0)
        assert drawn == pytest.approx((usable / usable.sum()).tolist(), rel=1e-12)
        assert max(map(abs, drawn)) < 100
    assert redrawn > 0


@pytest.mark.parametrize("mu", [0.0, float("nan")])
def test_mixing_weights_that_always_cancel_raise_instead_of_looping(mu, generator):
    with pytest.raises(ValueError, match="mu or sigma"):
        crossover_coefficients(generator, mu=mu, sigma=0.0)


# Linear


def test_a_linear_child_is_its_parents_weighted_mean_and_tells_the_weights(space, generator):
    child, record = crossover(*parents(space), generator)
    assert isinstance(child, CompactGenome)
    expected = dense_combine(list(zip(record["coefficients"], dense_parents(space), strict=True)))
    assert_same_task_vector(child, expected)


@pytest.mark.parametrize("granularity", ["layer", "group"])
def test_each_part_of_a_linear_child_has_weights_of_its_own(space, generator, granularity):
    child, record = crossover(*parents(space), generator, granularity=granularity, sigma=0.5)
    assert isinstance(child, CompactGenome)
    assert "coefficients" not in record  # there is no one pair that the whole child is the sum of
    weights, (first, second) = record["crossover"]["weights"], dense_parents(space)
    assert len(set(weights)) == len(SHAPES)
    for name, part in space.parts(granularity).items():
        a, b = weights[part]
        assert_same_task_vector(child, {name: a * first[name] + b * second[name]})


# TIES


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_a_ties_child_trims_elects_signs_and_averages_what_agrees(space, generator, density):
    child, record = crossover(*parents(space), generator, variant="ties", density=density, sigma=0.2)
    assert isinstance(child, DenseGenome)
    (weights,) = record["crossover"]["weights"]
    for name, shape in SHAPES.items():
        expected = np.zeros(max(int(np.prod(shape)), 1))
        flat = [tau[name].ravel() for tau in dense_parents(space)]
        for tau in flat:
            order = np.argsort(-np.abs(tau), kind="stable")
            tau[order[max(round(density * len(tau)), 1) :]] = 0
        for i in range(len(expected)):
            terms = [(w, w * tau[i]) for w, tau in zip(weights, flat, strict=True)]
            sign = np.sign(sum(term for _, term in terms))
            agreeing = [(w, term) for w, term in terms if term * sign > 0]
            if agreeing:
                expected[i] = sum(term for _, term in agreeing) / sum(abs(w) for w, _ in agreeing)
        assert_same_task_vector(child, {name: expected.reshape(shape)})


def test_trimming_keeps_the_largest_entries_by_magnitude():
    assert trim(torch.tensor([[1.0, -5.0], [3.0, -2.0]]), 0.5).tolist() == [[0, -5], [3, 0]]


@pytest.mark.parametrize("shape", [(), (0,), (1, 6)])
def test_trimming_leaves_at_least_one_entry_where_there_is_any(shape):
    assert trim(torch.arange(6.0)[: int(np.prod(shape))].reshape(shape), 1e-9).count_nonzero() <= 1
    assert trim(torch.full(shape, 2.0), 1e-9).numel() == int(np.prod(shape))


def test_entries_that_lost_the_election_do_not_water_down_the_winner():
    first, second = torch.tensor([4.0, -4.0, 0.0, 2.0, 0.0]), torch.tensor([-2.0, 2.0, 3.0, 4.0, 0.0])
    assert elected_mean([first, second], [0.5, 0.5]).tolist() == [4.0, -4.0, 3.0, 3.0, 0.0]


def test_a_negative_weight_turns_its_parent():
    assert elected_mean([torch.tensor([1.0]), torch.tensor([-9.0])], [1.5, -0.5]).tolist() == [(1.5 + 4.5) / 2]


# DARE


def test_a_dare_child_drops_entries_and_rescales_the_rest(space, generator):
    """Every entry is one of the four sums that two dropped or kept entries have."""
    child, record = crossover(*parents(space), generator, variant="dare", density=0.25)
    assert isinstance(child, DenseGenome)
    ((a, b),) = record["crossover"]["weights"]
    first, second = dense_parents(space)
    for name in SHAPES:
        possible = [i * a * first[name] / 0.25 + j * b * second[name] / 0.25 for i in (0, 1) for j in (0, 1)]
        found = np.abs(np.stack(possible) - array(child.task_vector(name))).min(axis=0)
        assert found.max() < 1e-5


def test_dare_keeps_as_many_entries_as_its_density_says_and_their_mean(space, generator):
    tau = array(space.expert(0).task_vector("embed.weight"))
    draws = []
    for _ in range(400):
        child, _ = crossover(space.expert(0), space.origin(), generator, variant="dare", density=0.25, sigma=0.0)
        draws.append(array(child.task_vector("embed.weight")))
    kept = np.stack(draws) != 0
    assert kept.mean() == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / kept.size) ** 0.5)
    share = np.stack(draws).mean(axis=0) / tau  # 1/2 in expectation: the other parent is the base
    assert np.abs(share - 0.5).max() < 4.5 * 0.5 * (0.75 / 0.25 / 400) ** 0.5


def test_dare_that_keeps_everything_is_linear(space):
    same_draws = [torch.Generator().manual_seed(3) for _ in range(2)]
    dare, _ = crossover(*parents(space), same_draws[0], variant="dare", density=1.0)
    linear, _ = crossover(*parents(space), same_draws[1])
    assert_same_task_vector(dare, {name: array(linear.task_vector(name)) for name in SHAPES})


# Split point


@pytest.mark.parametrize(("granularity", "pieces"), [("model", "layer"), ("layer", "layer"), ("group", "group")])
def test_a_split_child_swaps_its_parents_shares_at_the_point(space, granularity, pieces):
    child, record = crossover(
        *parents(space), torch.Generator().manual_seed(4), variant="split", granularity=granularity
    )
    assert isinstance(child, CompactGenome)
    drawn, (first, second) = record["crossover"], dense_parents(space)
    assert 0 < drawn["point"] < len(SHAPES)  # with this seed
    for name, part in space.parts(pieces).items():
        t = drawn["mix"] if part < drawn["point"] else 1 - drawn["mix"]
        assert_same_task_vector(child, {name: t * first[name] + (1 - t) * second[name]})


def test_split_points_and_shares_are_uniform(space, generator):
    drawn = [
        crossover(space.expert(0), space.expert(1), generator, variant="split")[1]["crossover"] for _ in range(1400)
    ]
    points = np.bincount([d["point"] for d in drawn], minlength=len(SHAPES))
    assert ((points - 200) ** 2 / 200).sum() < 22.46  # 99.9 % quantile, 6 degrees of freedom
    shares, _ = np.histogram([d["mix"] for d in drawn], bins=10, range=(0, 1))
    assert ((shares - 140) ** 2 / 140).sum() < 27.88  # 9 degrees of freedom


# All of them


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("granularity", ["model", "layer"])
def test_a_crossover_depends_on_the_generator_alone(space, variant, granularity):
    before = torch.get_rng_state()
    (first, drawn), (second, again), (third, _) = (
        crossover(*parents(space), torch.Generator().manual_seed(seed), variant=variant, granularity=granularity)
        for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert json.dumps(drawn) == json.dumps(again)
    assert all(bits(first.task_vector(n)) == bits(second.task_vector(n)) for n in SHAPES)
    assert any(bits(first.task_vector(n)) != bits(third.task_vector(n)) for n in SHAPES)


@pytest.mark.parametrize("variant", ["ties", "dare"])
def test_the_expert_mutation_stretches_a_dense_child_too(space, generator, variant):
    child, _ = crossover(*parents(space), generator, variant=variant)
    mutant = mutate(child, 0, torch.Generator().manual_seed(5))
    change = mutate(space.origin(), 0, torch.Generator().manual_seed(5))
    taus = [{name: array(genome.task_vector(name)) for name in SHAPES} for genome in (child, change)]
    assert_same_task_vector(mutant, dense_combine([(1.0, tau) for tau in taus]))


def test_an_unknown_variant_raises(space, generator):
    with pytest.raises(ValueError, match=r"crossover: expected one of .*'slerp'"):
        crossover(*parents(space), generator, variant="slerp")

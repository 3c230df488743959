"""Aggregation: softmax over the archives' elites, ties to the most recent; and the two rules beside it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyqd.evolution.aggregation import (
    aggregate,
    best_mean_elite,
    best_quality_elite,
    best_rescored,
    best_scale,
    largest_gamma_elite,
    softmax_weights,
)
from cyqd.evolution.archive import Archive, Elite
from tests.evolution.models import array, assert_same_task_vector, dense_combine, dense_task_vector
from tests.evolution.test_selection import reference_gamma

EDGES = tuple(np.linspace(0, 1, 11))
ROWS = st.integers(2, 5).flatmap(
    lambda k: st.lists(st.tuples(*[st.sampled_from([0.0, 0.15, 0.5, 0.85, 1.0])] * k), min_size=1, max_size=20)
)


def filled(rows: list[tuple[float, ...]], task: int) -> Archive:
    archive = Archive(task, [EDGES] * len(rows[0]))
    for id, row in enumerate(rows):
        archive.add(Elite(id, row))
    return archive


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_weights_are_the_softmax_of_the_qualities(qualities):
    powers = np.exp(np.array(qualities, dtype=np.float64))
    weights = softmax_weights(qualities)
    np.testing.assert_allclose(weights, powers / powers.sum(), rtol=1e-13)
    assert sum(weights) == pytest.approx(1, abs=1e-15)


@given(ROWS)
def test_the_elite_of_highest_quality_is_chosen_and_the_most_recent_of_equals(rows):
    for task in range(len(rows[0])):
        archive = filled(rows, task)
        highest = max(elite.scores[task] for elite in archive)
        newest = max(elite.id for elite in archive if elite.scores[task] == highest)
        assert best_quality_elite(archive).id == newest


@given(ROWS)
def test_the_elite_of_largest_gamma_is_chosen_and_the_most_recent_of_equals(rows):
    archive = filled(rows, 0)
    gamma = reference_gamma([elite.scores for elite in archive], 0.5, 0.8)
    chosen = archive.elites.index(largest_gamma_elite(archive))
    assert gamma[chosen] == pytest.approx(max(gamma), rel=1e-12)
    same = [elite.id for elite in archive if elite.scores == archive.elites[chosen].scores]
    assert archive.elites[chosen].id == max(same)


def test_models_of_equal_gamma_tie_to_the_most_recent():
    archive = filled([(0.0, 1.0), (1.0, 0.0)], 0)
    assert largest_gamma_elite(archive).id == 1


@given(ROWS)
def test_the_elite_of_best_mean_is_sought_in_all_archives(rows):
    archives = [filled(rows, task) for task in range(len(rows[0]))]
    elites = {elite.id: elite for archive in archives for elite in archive}
    best = max(elite.mean for elite in elites.values())
    newest = max(id for id, elite in elites.items() if elite.mean == best)
    assert best_mean_elite(archives).id == newest


def test_a_tie_between_archives_goes_to_the_most_recent():
    first, second = filled([(0.2, 0.6)], 0), Archive(1, [EDGES, EDGES])
    second.add(Elite(9, (0.6, 0.2)))
    assert best_mean_elite([first, second]).id == best_mean_elite([second, first]).id == 9


def test_the_final_model_is_the_weighted_sum_of_task_vectors(space):
    qualities = (0.9, 0.3, 0.55)
    powers = np.exp(qualities)
    taus = [dense_task_vector(expert, space.base) for expert in space.experts]
    expected = dense_combine(list(zip(powers / powers.sum(), taus, strict=True)))
    merged = aggregate([space.expert(k) for k in range(3)], qualities)
    assert_same_task_vector(merged, expected)
    for name in expected:
        np.testing.assert_allclose(
            array(merged.weight(name)), array(space.base[name]) + expected[name], rtol=1e-5, atol=1e-6
        )


def test_equal_qualities_give_the_plain_average(space):
    merged = aggregate([space.expert(k) for k in range(3)], (0.4, 0.4, 0.4))
    average = dense_combine([(1 / 3, dense_task_vector(expert, space.base)) for expert in space.experts])
    assert_same_task_vector(merged, average)


def test_genomes_and_qualities_must_match_in_number(space):
    with pytest.raises(ValueError, match="zip"):
        aggregate([space.expert(0)], (0.4, 0.4))


def test_of_rescored_individuals_the_best_in_both_scores_wins_then_the_better_on_fresh_ones_then_the_most_recent():
    low, high, newest = Elite(3, (0.2, 0.2)), Elite(1, (0.5, 0.5)), Elite(7, (0.5, 0.5))
    assert best_rescored([low, high, newest], [0.9, 0.1, 0.3]) == low
    assert best_rescored([high, low], [0.4, 0.45]) == high
    assert best_rescored([high, low], [0.4, 0.75]) == low
    assert best_rescored([Elite(2, (0.25, 0.25)), high], [0.5, 0.25]).id == 2  # equal in both together
    assert best_rescored([newest, high], [0.4, 0.4]) == newest


def test_of_factors_the_best_wins_then_the_one_nearest_1():
    assert best_scale([0.5, 1.0, 2.0], [0.3, 0.2, 0.1]) == 0.5
    assert best_scale([0.5, 0.9, 1.2], [0.3, 0.3, 0.3]) == 0.9
    assert best_scale([1.5, 0.5], [0.3, 0.3]) == 1.5

"""Selection against the formula of γ and against its own probabilities."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cyqd.evolution.archive import Elite
from cyqd.evolution.selection import elite_gamma, sample_pair, select_parents

DRAWS = 6000
ALPHAS = {"alpha_low": 0.5, "alpha_high": 0.8}


def reference_gamma(rows: list[tuple[float, ...]], low: float, high: float) -> list[float]:
    """γ, entry by entry."""
    gammas = []
    for row in rows:
        gamma = 1.0
        for i, score in enumerate(row):
            least, most = min(r[i] for r in rows), max(r[i] for r in rows)
            if most > least:
                gamma *= low + (score - least) / (most - least) * (high - low)
        gammas.append(gamma)
    return gammas


@given(
    st.integers(2, 5).flatmap(
        lambda k: st.lists(st.tuples(*[st.sampled_from([0.0, 0.25, 0.3, 1.0]) | st.floats(0, 1)] * k), min_size=1)
    ),
    st.floats(0.01, 0.5),
    st.floats(0.5, 2.0),
)
def test_gamma_is_the_product_over_all_tasks(rows, low, high):
    gamma = elite_gamma(torch.tensor(rows, dtype=torch.float64), alpha_low=low, alpha_high=high)
    np.testing.assert_allclose(gamma.numpy(), reference_gamma(rows, low, high), rtol=1e-12)


def test_the_best_on_all_tasks_has_the_highest_alpha_on_each_and_the_worst_the_lowest():
    rows = [[0.1, 0.2, 0.3], [0.5, 0.6, 0.7], [0.3, 0.4, 0.5]]
    gamma = elite_gamma(torch.tensor(rows, dtype=torch.float64))
    np.testing.assert_allclose(gamma.numpy(), [0.5**3, 0.8**3, 0.65**3], rtol=1e-12)


@pytest.mark.parametrize("rows", [[(0.4, 0.7)], [(0.4, 0.7)] * 3, [(0.0, 0.0), (0.0, 0.0)]])
def test_where_all_models_score_the_same_every_gamma_is_one(rows):
    assert elite_gamma(torch.tensor(rows, dtype=torch.float64)).tolist() == [1.0] * len(rows)


def test_pairs_come_with_the_probabilities_of_drawing_twice_without_replacement(generator):
    weights = torch.tensor([0.125, 0.2, 0.3, 0.64], dtype=torch.float64)
    pairs = Counter(sample_pair(weights, generator) for _ in range(DRAWS))
    p = (weights / weights.sum()).tolist()
    expected = {(i, j): p[i] * p[j] / (1 - p[i]) for i in range(4) for j in range(4) if i != j}
    assert pairs.keys() <= expected.keys()
    chi_square = sum((pairs[pair] - DRAWS * q) ** 2 / (DRAWS * q) for pair, q in expected.items())
    assert chi_square < 31.26  # 99.9 % quantile, 11 degrees of freedom


@pytest.mark.parametrize("rule", ["elite", "random"])
def test_first_parents_follow_gamma_or_are_uniform(rule, generator):
    rows = [(0.0, 0.9, 0.2), (1.0, 0.1, 0.9), (0.5, 0.5, 0.5), (0.9, 0.9, 0.9)]
    elites = [Elite(id, row) for id, row in enumerate(rows)]
    gamma = reference_gamma(rows, 0.5, 0.8) if rule == "elite" else [1.0] * 4
    counts = Counter(select_parents(elites, generator, rule=rule, **ALPHAS)[0].id for _ in range(DRAWS))
    expected = [DRAWS * g / sum(gamma) for g in gamma]
    assert sum((counts[i] - e) ** 2 / e for i, e in enumerate(expected)) < 16.27  # 99.9 %, 3 degrees


@given(st.integers(2, 40), st.integers(0, 2**32), st.sampled_from(["elite", "random"]))
def test_the_two_parents_are_distinct(size, seed, rule):
    elites = [Elite(id, (id / size, 1 - id / size)) for id in range(size)]
    parents = select_parents(elites, torch.Generator().manual_seed(seed), rule=rule, **ALPHAS)
    assert parents[0].id != parents[1].id


@pytest.mark.parametrize("rule", ["elite", "random"])
def test_the_only_model_of_an_archive_is_both_parents(rule, generator):
    only = Elite(7, (0.3, 0.4))
    assert select_parents([only], generator, rule=rule, **ALPHAS) == (only, only)


def test_an_unknown_rule_raises(generator):
    elites = [Elite(id, (0.1 * id, 0.2)) for id in range(3)]
    with pytest.raises(ValueError, match="tournament"):
        select_parents(elites, generator, rule="tournament", **ALPHAS)


def test_the_same_generator_gives_the_same_parents_and_the_global_one_is_left_alone():
    elites = [Elite(id, (id / 9, 0.5)) for id in range(9)]
    before = torch.get_rng_state()
    first, second = (
        [select_parents(elites, g, rule="elite", **ALPHAS) for _ in range(10)]
        for g in (torch.Generator().manual_seed(3), torch.Generator().manual_seed(3))
    )
    assert first == second
    assert torch.equal(before, torch.get_rng_state())

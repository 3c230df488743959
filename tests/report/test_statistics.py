"""The bootstrap: its spread against formulas, and whether its intervals hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from cyqd.report.statistics import bootstrap_means, interval, means, student_interval


def simulate(rng: np.random.Generator, *, seeds: int, problems: int, noise: float = 0.1) -> list[list[np.ndarray]]:
    """Two models, two tasks: the second model is 0.1 better; seeds and problems differ in difficulty."""
    found = []
    for _ in range(seeds):
        level = 0.5 + 0.1 * rng.standard_normal()
        hard = level + 0.3 * rng.standard_normal((2, problems))
        found.append([np.stack([row, row + 0.1]) + noise * rng.standard_normal((2, problems)) for row in hard])
    return found


def test_the_mean_weighs_every_seed_alike() -> None:
    outcomes = [[np.array([[1.0, 0.0]])], [np.array([[0.5, 0.5, 0.5, 1.0, 0.0, 0.5, 0.5, 0.5]])]]
    assert means(outcomes) == pytest.approx(np.array([[0.5]]))


def test_its_spread_over_seeds_and_their_problems_is_what_the_formula_says() -> None:
    outcomes = simulate(np.random.default_rng(0), seeds=4, problems=30)
    drawn = bootstrap_means(outcomes, draws=20_000)
    for model, task in np.ndindex(2, 2):
        scores = [by_task[task][model] for by_task in outcomes]
        between = np.var([s.mean() for s in scores])
        within = np.mean([s.var() / len(s) for s in scores])
        assert drawn[:, model, task].var() == pytest.approx((between + within) / 4, rel=0.05)
    assert drawn.mean(axis=0) == pytest.approx(means(outcomes), abs=0.005)


def test_problems_that_all_seeds_share_do_not_average_out_over_seeds() -> None:
    scores = np.random.default_rng(0).random((1, 50))
    drawn = bootstrap_means([[scores]] * 5, draws=20_000, shared=True)
    assert drawn.var() == pytest.approx(scores.var() / 50, rel=0.05)


def test_with_one_seed_only_problems_are_drawn() -> None:
    scores = np.random.default_rng(0).random((1, 50))
    assert bootstrap_means([[scores]], draws=20_000).var() == pytest.approx(scores.var() / 50, rel=0.05)


def test_draws_are_the_same_whatever_other_models_there_are() -> None:
    outcomes = simulate(np.random.default_rng(0), seeds=3, problems=20)
    alone = [[scores[1:] for scores in tasks] for tasks in outcomes]
    assert bootstrap_means(outcomes, draws=100)[:, 1:] == pytest.approx(bootstrap_means(alone, draws=100))


@pytest.mark.parametrize("seeds", [1, 10])
def test_nearly_all_intervals_hold_the_truth(seeds: int) -> None:
    rng = np.random.default_rng(1)
    held = 0
    for trial in range(200):
        drawn = bootstrap_means(simulate(rng, seeds=seeds, problems=30), draws=250, seed=trial).mean(axis=2)
        low, high = interval(drawn[:, 1] - drawn[:, 0])
        held += low <= 0.1 <= high
    assert 0.9 <= held / 200 <= 0.995


def test_a_paired_interval_is_narrower_than_one_of_separate_draws() -> None:
    outcomes = simulate(np.random.default_rng(0), seeds=5, problems=40)
    first, second = bootstrap_means(outcomes, draws=2000), bootstrap_means(outcomes, draws=2000, seed=1)
    paired = interval((first[:, 1] - first[:, 0]).mean(axis=1))
    unpaired = interval((second[:, 1] - first[:, 0]).mean(axis=1))
    assert paired[1] - paired[0] < 0.3 * (unpaired[1] - unpaired[0])


def test_the_interval_over_seeds_is_that_of_a_t_test() -> None:
    values = [0.1, 0.3, 0.2, 0.6]
    assert student_interval(values) == pytest.approx(ttest_1samp(values, 0).confidence_interval())
    assert student_interval([0.1]) is None


def test_an_interval_is_of_percentiles() -> None:
    assert interval(np.arange(1001.0)) == pytest.approx((25, 975))
    assert interval(np.arange(1001.0), 0.5) == pytest.approx((250, 750))

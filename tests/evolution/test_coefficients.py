"""Learned coefficients: every search finds a known optimum, and continues as if nothing had happened."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from cyqd.evolution import CMAES, NSGA2, ExpertSpace, PolicyGradient
from tests.evolution.searches import (
    OPTIMUM,
    assert_continues,
    assert_own_randomness,
    final,
    quadratic,
    search,
    start,
)

SMALL = {
    "CMA-ES": lambda: CMAES(generations=25),
    "policy gradient": lambda: PolicyGradient(generations=25),
    "NSGA-II": lambda: NSGA2(generations=25, population=8),
}
searches = pytest.mark.parametrize("make", SMALL.values(), ids=SMALL)


@pytest.mark.parametrize(
    ("strategy", "within"),
    [
        (CMAES(generations=200), 0.01),
        (PolicyGradient(generations=400), 0.1),
        (NSGA2(generations=300), 0.1),
    ],
    ids=SMALL,
)
def test_it_finds_the_optimum_of_the_mean_score(strategy, within, space, tmp_path):
    assert math.dist([1 / 3] * 3, OPTIMUM) > 0.3
    search(start(strategy, space, tmp_path))
    found = final(strategy)
    assert list(found) == list(strategy.rules)
    for alpha in found.values():
        assert math.dist(alpha, OPTIMUM) < within


@searches
def test_it_starts_around_the_average(make, space, tmp_path):
    strategy = make()
    strategy.sigma = 1e-9
    start(strategy, space, tmp_path)
    assert strategy.ask().genome.alpha.flatten().tolist() == pytest.approx([1 / 3] * 3)


@searches
def test_the_budget_is_spent_on_children_alone(make, space, tmp_path):
    strategy = start(make(), space, tmp_path)
    lines = search(strategy)
    assert strategy.budget == len(lines) == 25
    assert [line["generation"] for line in lines] == list(range(1, 26))
    assert np.shape(lines[0]["alpha"]) == (3, 1)
    assert not list(tmp_path.iterdir()), "no genome needs to be stored"


@searches
def test_a_search_stopped_within_a_batch_continues_bit_for_bit(make, space, tmp_path):
    assert_continues(make, space, tmp_path, stop=19)


@searches
def test_it_has_a_random_source_of_its_own(make, space, tmp_path):
    assert_own_randomness(make, space, tmp_path)


@searches
def test_more_generations_continue_a_finished_search(make, space, tmp_path):
    longer = make()
    longer.generations = 30
    whole = search(start(longer, space, tmp_path))
    short = start(make(), space, tmp_path)
    first = search(short)
    longer = make()
    longer.generations = 30
    start(longer, space, tmp_path).load_state_dict(short.state_dict())
    assert first + search(longer) == whole


@searches
def test_every_model_that_was_evaluated_can_be_had(make, space, tmp_path):
    strategy = start(make(), space, tmp_path)
    lines = search(strategy)
    for line in lines:
        assert strategy.individual(line["evaluation"]).alpha.tolist() == line["alpha"]
    best = sorted(lines, key=lambda line: (math.fsum(line["scores"]), line["evaluation"]), reverse=True)
    assert [elite.id for elite in strategy.finalists(5)] == [line["evaluation"] for line in best[:5]]
    assert [elite.id for elite in strategy.chosen()["best_mean"]] == [best[0]["evaluation"]]


@searches
def test_before_the_first_score_there_is_no_result(make, space, tmp_path):
    strategy = start(make(), space, tmp_path)
    assert strategy.result() == {}
    assert strategy.finalists(3) == []
    json.dumps(strategy.state_dict())


def test_a_replay_that_leads_elsewhere_is_refused(space, tmp_path):
    strategy = start(CMAES(generations=9), space, tmp_path)
    search(strategy)
    state = strategy.state_dict()
    state["last"][0] += 0.1  # as another version of pycma might
    with pytest.raises(ValueError, match="install the versions"):
        start(CMAES(generations=9), space, tmp_path).load_state_dict(state)


def test_other_hyper_parameters_are_refused(space, tmp_path):
    state = start(CMAES(population=8), space, tmp_path).state_dict()
    with pytest.raises(ValueError, match="population = 8"):
        start(CMAES(population=9), space, tmp_path).load_state_dict(state)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (CMAES, {"generations": -1}),
        (CMAES, {"sigma": 0}),
        (CMAES, {"granularity": "row"}),
        (CMAES, {"population": 3}),
        (PolicyGradient, {"batch": 1}),
        (PolicyGradient, {"lr": math.nan}),
        (NSGA2, {"population": 1}),
        (NSGA2, {"low": 2.0}),
    ],
    ids=str,
)
def test_a_hyper_parameter_out_of_range_is_named(kind, wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=rf"{name}: expected .*got {value!r}"):
        kind(**wrong)


def test_flat_scores_stop_no_search(space, tmp_path):
    for number, make in enumerate(SMALL.values()):
        strategy = start(make(), space, tmp_path / str(number))
        lines = search(strategy, judge=lambda candidate: (0.5, 0.5, 0.5))
        assert np.isfinite([line["alpha"] for line in lines]).all()
        assert strategy.chosen()["best_mean"][0].id == 24, "ties go to the most recent"


def test_coefficients_of_parts_reach_what_one_per_expert_cannot(tmp_path):
    names = ["0.weight", "1.weight"]
    base = {name: torch.zeros(2, 2) for name in names}
    experts = [{name: torch.full((2, 2), float(k + 1)) for name in names} for k in range(2)]
    space = ExpertSpace(base, experts, ["a", "b"])

    def judge(candidate):
        gaps = [
            candidate.genome.weight(name).mean().item() - goal for name, goal in zip(names, (1, 2), strict=True)
        ]
        return (1 - gaps[0] ** 2, 1 - gaps[1] ** 2)

    means = {}
    for granularity in ("model", "layer"):
        strategy = start(CMAES(generations=150, granularity=granularity), space, tmp_path)
        search(strategy, judge=judge)
        means[granularity] = strategy.finalists(1)[0].mean
    assert means["model"] < 0.76
    assert means["layer"] > 0.999


def test_the_policy_gradient_is_that_of_its_log_likelihood(space, tmp_path):
    strategy = start(PolicyGradient(batch=5), space, tmp_path)
    points = strategy._propose()
    scores = np.random.default_rng(0).random((5, 3))
    mu, log_s = (value.clone().requires_grad_() for value in (strategy._mu, strategy._log_s))
    rewards = torch.tensor(scores).mean(dim=1)
    advantage = (rewards - rewards.mean()) / rewards.std()
    density = torch.distributions.Normal(mu, log_s.exp()).log_prob(torch.tensor(points)).sum(dim=1)
    (-advantage * density).mean().backward()
    strategy._learn(points, scores)
    assert torch.allclose(strategy._mu.grad, mu.grad)
    assert torch.allclose(strategy._log_s.grad, log_s.grad)


def test_the_front_is_what_nothing_dominates(space, tmp_path):
    strategy = start(NSGA2(generations=60, population=8), space, tmp_path)
    lines = search(strategy, judge=lambda candidate: tuple(round(score, 1) for score in quadratic(candidate)))
    scores = np.array([line["scores"] for line in lines])
    beaten = ((scores[:, None] <= scores).all(axis=2) & (scores[:, None] < scores).any(axis=2)).any(axis=1)
    front = strategy.state_dict()["front"]
    assert [elite["id"] for elite in front] == np.flatnonzero(~beaten).tolist()
    assert [elite["scores"] for elite in front] == scores[~beaten].tolist()
    assert len({tuple(elite["scores"]) for elite in front}) < len(front), "equal models are all on it"

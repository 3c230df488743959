"""CMA-ME: evolution strategies that fill CycleQD's archives."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cyqd.evolution import CMAME, Archive, CycleQD, Elite
from tests.evolution.models import open_space
from tests.evolution.searches import OPTIMUM, assert_continues, assert_own_randomness, search, start


def make(generations=40, **options):
    return CMAME(generations=generations, batch=5, **options)


def test_it_scores_the_experts_then_spends_the_budget_on_children(space, tmp_path):
    strategy = start(make(), space, tmp_path)
    lines = search(strategy)
    assert strategy.budget == len(lines) == 43
    assert [line.get("expert") for line in lines[:4]] == [*space.tasks, None]
    assert [line["generation"] for line in lines] == [0, 0, 0, *range(1, 41)]
    assert np.shape(lines[3]["alpha"]) == (3, 1)


def test_the_strategies_take_turns_batch_by_batch(space, tmp_path):
    lines = search(start(make(20), space, tmp_path))
    turns = [line["active"] for line in lines[3:]]
    assert turns == [task for task in ("task0", "task1", "task2", "task0") for _ in range(5)]


def test_every_child_is_offered_to_all_archives(space, tmp_path):
    strategy = start(make(), space, tmp_path)
    lines = search(strategy)
    fresh = [Archive(archive.task, archive.edges) for archive in strategy.archives]
    for line in lines:
        entered = [space.tasks[a.task] for a in fresh if a.add(Elite(line["evaluation"], line["scores"]))]
        assert line.get("entered", entered) == entered
    assert [archive.cells for archive in strategy.archives] == [archive.cells for archive in fresh]


def test_pyribs_archives_lie_over_cycleqds(space, tmp_path):
    strategy = start(make(), space, tmp_path)
    search(strategy)
    for archive, lattice in zip(strategy.archives, strategy._lattices, strict=True):
        edges = [edges for task, edges in enumerate(archive.edges) if task != archive.task]
        assert all(np.allclose(a, b) for a, b in zip(lattice.boundaries, edges, strict=True))
        assert len(lattice) == len(archive)
        assert sorted(lattice.data("objective")) == sorted(map(archive.quality, archive))


def test_the_archives_fill_and_come_near_the_optimum(space, tmp_path):
    strategy = start(make(300), space, tmp_path)
    search(strategy, 3)
    before = [archive.qd_score for archive in strategy.archives]
    search(strategy)
    assert all(after.qd_score > 5 * was for after, was in zip(strategy.archives, before, strict=True))
    best = strategy.chosen()["best_mean"][0]
    assert math.dist(strategy.individual(best.id).alpha.flatten(), OPTIMUM) < 0.2 < math.dist([1 / 3] * 3, OPTIMUM)


def test_its_final_models_follow_cycleqds_rules(space, tmp_path):
    strategy = start(make(), space, tmp_path)
    search(strategy)
    same = start(CycleQD(), space, tmp_path)
    same.archives = strategy.archives
    assert strategy.rules == CycleQD.rules
    assert strategy.chosen() == same.chosen()
    for rule, genome in same.result().items():
        assert strategy.result()[rule].alpha.equal(genome.alpha)


@pytest.mark.parametrize("stop", [2, 3, 21], ids=["experts", "first child", "within a batch"])
def test_a_stopped_search_continues_bit_for_bit(stop, space, tmp_path):
    assert_continues(make, space, tmp_path, stop=stop)


def test_it_has_a_random_source_of_its_own(space, tmp_path):
    assert_own_randomness(make, space, tmp_path)


def test_two_tasks_and_coefficients_of_layers(tmp_path):
    space = open_space(tmp_path / "models", tasks=2)
    strategy = start(make(12, granularity="layer"), space, tmp_path / "run")
    lines = search(strategy, judge=lambda candidate: (candidate.id / 20, 0.5))
    assert np.shape(lines[-1]["alpha"]) == (2, len(space.part_names("layer")))
    assert strategy.individual(13).granularity == "layer"


@pytest.mark.parametrize("wrong", [{"sigma": 0}, {"batch": 1}, {"bins": 0}, {"granularity": "row"}], ids=str)
def test_a_hyper_parameter_out_of_range_is_named(wrong):
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))}: expected .*got"):
        CMAME(**wrong)


def test_scores_without_range_stop_no_search(space, tmp_path):
    lines = search(start(make(), space, tmp_path), judge=lambda candidate: (0.0, 0.0, 0.0))
    assert np.isfinite([line["alpha"] for line in lines[3:]]).all()

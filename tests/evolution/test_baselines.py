"""Baselines against their formula."""

from __future__ import annotations

from cyqd.evolution import CycleQD, GenomeStore, PlainQD, TaskVectorAverage
from tests.evolution.models import assert_same_task_vector, dense_combine, dense_task_vector
from tests.evolution.searches import assert_continues, search, start


def test_the_task_vector_average_needs_one_evaluation_and_is_the_mean_of_the_task_vectors(space, tmp_path):
    strategy = TaskVectorAverage()
    strategy.setup(space, GenomeStore(tmp_path, space), 0)
    assert strategy.budget == 1
    candidate = strategy.ask()
    taus = [dense_task_vector(expert, space.base) for expert in space.experts]
    expected = dense_combine([(1 / 3, tau) for tau in taus])
    assert_same_task_vector(candidate.genome, expected)
    strategy.tell(candidate, (0.1, 0.2, 0.3))
    assert strategy.done
    assert list(strategy.result()) == list(strategy.rules)
    assert_same_task_vector(strategy.result()[strategy.rules[0]], expected)


def plain(generations: int = 30) -> PlainQD:
    return PlainQD(generations=generations, mutation="none", crossover_sigma=0.5)


def test_plain_qd_is_one_search_per_task_that_share_nothing_but_the_experts(space, tmp_path):
    strategy = start(plain(), space, tmp_path)
    lines = search(strategy)
    assert strategy.budget == len(lines) == 33
    runs = [{0, 1, 2} for _ in space.tasks]
    for line in lines[3:]:
        task = line["generation"] % 3
        assert line["active"] == space.tasks[task]
        assert set(line["entered"]) <= {space.tasks[task]}
        assert set(line["parents"]) <= runs[task]
        runs[task].add(line["evaluation"])
    for task, archive in enumerate(strategy.archives):
        assert {elite.id for elite in archive} <= runs[task]
        assert max(elite.id for elite in archive) > 2, "each search got somewhere"


def test_plain_qd_has_cycleqds_rules(space, tmp_path):
    strategy = start(plain(), space, tmp_path)
    search(strategy)
    same = start(CycleQD(), space, tmp_path)
    same.archives = strategy.archives
    assert strategy.chosen() == same.chosen()


def test_plain_qd_continues_bit_for_bit(space, tmp_path):
    assert_continues(plain, space, tmp_path, stop=17)

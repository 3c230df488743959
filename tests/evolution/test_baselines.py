"""Baselines against their formula."""

from __future__ import annotations

from cyqd.evolution import GenomeStore, TaskVectorAverage
from tests.evolution.models import assert_same_task_vector, dense_combine, dense_task_vector


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

"""Ask/tell over a fixed list of models."""

from __future__ import annotations

import json

import pytest

from cyqd.evolution import GenomeStore, Roster
from tests.evolution.models import SHAPES, bits


def roster(space, folder, names=("base", "mean")) -> Roster:
    models = {"base": space.origin(), "mean": space.mean(), "expert": space.expert(0)}
    strategy = Roster({name: models[name] for name in names})
    strategy.setup(space, GenomeStore(folder, space), 0)
    return strategy


def test_a_roster_asks_for_its_models_in_order(space, tmp_path):
    strategy = roster(space, tmp_path)
    names = []
    while not strategy.done:
        candidate = strategy.ask()
        names.append(candidate.origin["model"])
        strategy.tell(candidate, (0.1 * len(names), 0.5, 0.2))
    assert names == ["base", "mean"]
    assert strategy.best() == (0.2, 0.5, 0.2)
    assert list(strategy.result()) == names


def test_a_roster_continues_where_it_stopped(space, tmp_path):
    first = roster(space, tmp_path)
    first.tell(first.ask(), (0.1, 0.2, 0.3))
    second = roster(space, tmp_path)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.scores == [(0.1, 0.2, 0.3)]
    candidate = second.ask()
    assert (candidate.id, candidate.origin["model"]) == (1, "mean")
    assert all(bits(candidate.genome.weight(n)) == bits(space.mean().weight(n)) for n in SHAPES)


def test_a_roster_of_other_models_refuses_the_scores(space, tmp_path):
    first = roster(space, tmp_path)
    first.tell(first.ask(), (0.1, 0.2, 0.3))
    other = roster(space, tmp_path, names=("expert", "mean"))
    with pytest.raises(ValueError, match="cannot continue"):
        other.load_state_dict(json.loads(json.dumps(first.state_dict())))


@pytest.mark.parametrize("scores", [(0.1, float("nan"), 0.3), (0.1, 0.2)])
def test_a_roster_refuses_bad_scores(space, tmp_path, scores):
    strategy = roster(space, tmp_path)
    with pytest.raises(ValueError, match="score"):
        strategy.tell(strategy.ask(), scores)
    assert strategy.evaluated == 0
    assert strategy.scores == []


def test_an_unasked_candidate_is_out_of_order(space, tmp_path):
    strategy, ahead = roster(space, tmp_path), roster(space, tmp_path)
    ahead.tell(ahead.ask(), (0.1, 0.2, 0.3))
    with pytest.raises(RuntimeError, match="expected scores of evaluation 0, got those of 1"):
        strategy.tell(ahead.ask(), (0.1, 0.2, 0.3))


def test_a_search_without_archives_has_no_finalists(space, tmp_path):
    strategy = roster(space, tmp_path)
    strategy.tell(strategy.ask(), (0.1, 0.2, 0.3))
    assert strategy.finalists(5) == []

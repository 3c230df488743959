"""Algorithm 1 as a whole, on real (tiny) models: ask, tell, resume, result."""

from __future__ import annotations

import inspect
import json
import math
import re

import numpy as np
import pytest

from cyqd.evolution import Candidate, CompactGenome, CycleQD, ExpertSpace, GenomeStore
from cyqd.evolution.archive import MIN_AXIS_WIDTH
from tests.evolution.models import (
    SHAPES,
    add_bases,
    array,
    assert_same_task_vector,
    bits,
    dense_combine,
    dense_task_vector,
    evolve,
    judge,
    open_space,
    start,
)

VARIANTS = ("expert", "child", "literal", "gaussian", "lognormal", "none")
CROSSOVERS = [
    {"crossover": "ties"},
    {"crossover": "dare", "granularity": "layer"},
    {"crossover": "split"},
    {"granularity": "group"},
]


def text(strategy: CycleQD) -> str:
    return json.dumps(strategy.state_dict(), sort_keys=True)


@pytest.mark.parametrize("tasks", [2, 3, 4, 5])
def test_generation_t_breeds_from_archive_t_mod_k(tmp_path, tasks):
    space = open_space(tmp_path / "models", tasks=tasks)
    strategy = start(space, tmp_path / "genomes", generations=2 * tasks + 1)
    assert strategy.budget == 3 * tasks + 1
    for k in range(tasks):
        candidate = strategy.ask()
        assert (candidate.id, candidate.origin["generation"], candidate.origin["expert"]) == (
            k,
            0,
            f"task{k}",
        )
        assert all(bits(candidate.genome.weight(n)) == bits(space.experts[k][n]) for n in SHAPES)
        strategy.tell(candidate, judge(candidate))
    for generation in range(1, 2 * tasks + 2):
        assert not strategy.done
        candidate = strategy.ask()
        active = generation % tasks
        assert candidate.origin["generation"] == generation
        assert candidate.origin["active"] == f"task{active}"
        assert set(candidate.origin["parents"]) <= {elite.id for elite in strategy.archives[active]}
        assert sum(candidate.origin["coefficients"]) == pytest.approx(1)
        strategy.tell(candidate, judge(candidate))
    assert strategy.done
    assert [archive.task for archive in strategy.archives] == list(range(tasks))
    assert all(len(archive.shape) == tasks - 1 for archive in strategy.archives)
    assert len(strategy.best()) == tasks


def test_a_child_is_its_parents_crossover_when_nothing_mutates(space, tmp_path):
    strategy = start(space, tmp_path, generations=1, mutation="none")
    evolve(strategy, steps=3)
    child = strategy.ask()
    taus = [dense_task_vector(space.experts[id], space.base) for id in child.origin["parents"]]
    expected = dense_combine(list(zip(child.origin["coefficients"], taus, strict=True)))
    assert_same_task_vector(child.genome, expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_model_is_offered_to_all_archives(space, tmp_path, variant):
    """Replay the run's scores by the archive's rule, written out, and compare every cell."""
    strategy = start(space, tmp_path, generations=30, mutation=variant)
    log = evolve(strategy)
    experts = [scores for _, scores in log[:3]]
    for task in range(3):
        cells: dict[tuple[int, ...], tuple[int, float]] = {}
        for candidate, scores in log:
            cell = []
            for axis in (axis for axis in range(3) if axis != task):
                column = [row[axis] for row in experts]
                low = 0.85 * min(column)
                edges = np.linspace(low, max(1.15 * max(column), low + MIN_AXIS_WIDTH), 16)
                cell.append(int(np.clip(np.sum(edges <= scores[axis]) - 1, 0, 14)))
            if tuple(cell) not in cells or scores[task] > cells[tuple(cell)][1]:
                cells[tuple(cell)] = (candidate.id, scores[task])
        found = {cell: (elite.id, elite.scores[task]) for cell, elite in strategy.archives[task].cells.items()}
        assert found == cells


def test_the_report_names_the_archives_that_a_child_entered(space, tmp_path):
    strategy = start(space, tmp_path, generations=12)
    while not strategy.done:
        candidate = strategy.ask()
        report = strategy.tell(candidate, judge(candidate))
        if candidate.id >= 3:
            entered = {f"task{a.task}" for a in strategy.archives if candidate.id in {e.id for e in a}}
            assert set(report["entered"]) == entered


def test_kept_names_exactly_the_elites_and_experts_and_all_of_them_lie_in_the_store(space, tmp_path):
    strategy = start(space, tmp_path, generations=20)
    evolve(strategy)
    elites = {elite.id for archive in strategy.archives for elite in archive}
    assert strategy.kept() == elites | {0, 1, 2}
    strategy.store.prune(strategy.kept())
    assert {int(path.stem) for path in tmp_path.iterdir()} == strategy.kept()
    assert set(strategy.result()) == set(strategy.rules)


# Randomness


def test_the_same_seed_gives_the_same_run_and_another_seed_another(space, tmp_path):
    runs = [start(space, tmp_path / str(i), seed=seed, generations=15) for i, seed in enumerate((7, 7, 8))]
    for run in runs:
        evolve(run)
    assert text(runs[0]) == text(runs[1])
    assert runs[0].archives[0].state_dict() != runs[2].archives[0].state_dict()
    for id in runs[0].kept():
        one, two = (run.store.load(id) for run in runs[:2])
        assert all(bits(one.weight(name)) == bits(two.weight(name)) for name in SHAPES)


def test_asking_again_gives_the_same_child(space, tmp_path):
    strategy = start(space, tmp_path, generations=5)
    evolve(strategy, steps=4)
    first, second = strategy.ask(), strategy.ask()
    assert (first.id, first.origin) == (second.id, second.origin)
    assert all(bits(first.genome.weight(name)) == bits(second.genome.weight(name)) for name in SHAPES)


def test_generations_draw_different_numbers(space, tmp_path):
    log = evolve(start(space, tmp_path, generations=20))
    coefficients = [tuple(candidate.origin["coefficients"]) for candidate, _ in log[3:]]
    assert len(set(coefficients)) == len(coefficients)


# Ask and tell


def test_telling_out_of_order_raises(space, tmp_path):
    strategy = start(space, tmp_path, generations=5)
    first = strategy.ask()
    strategy.tell(first, judge(first))
    with pytest.raises(RuntimeError, match="expected scores of evaluation 1, got those of 0"):
        strategy.tell(first, judge(first))
    assert strategy.evaluated == 1


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("scores", [(0.5, float("nan"), 0.5), (0.5, float("inf"), 0.5), (0.5, 0.5), (0.5,) * 4])
def test_bad_scores_raise_at_once_and_change_nothing(space, tmp_path, steps, scores):
    """Also in generation 0, before there are archives."""
    strategy = start(space, tmp_path, generations=5)
    evolve(strategy, steps=steps)
    before = text(strategy)
    with pytest.raises(ValueError, match="score"):
        strategy.tell(strategy.ask(), scores)
    assert text(strategy) == before


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_before_all_experts_are_told_there_is_no_result(space, tmp_path, steps):
    strategy = start(space, tmp_path, generations=5)
    evolve(strategy, steps=steps)
    assert strategy.result() == {}
    assert strategy.best() == ()


def test_before_it_is_done_the_result_is_the_best_so_far(space, tmp_path):
    strategy = start(space, tmp_path, generations=50)
    evolve(strategy, steps=3)
    assert set(strategy.result()) == set(strategy.rules)


def test_the_result_aggregates_each_archives_best_elite_by_softmax(space, tmp_path):
    strategy = start(space, tmp_path, generations=15)
    evolve(strategy)
    for rule in ("aggregate", "gamma", "best_mean"):
        assert rule in strategy.result()
    chosen = []
    for k, archive in enumerate(strategy.archives):
        best = max(elite.scores[k] for elite in archive)
        chosen.append(max((e for e in archive if e.scores[k] == best), key=lambda e: e.id))
    powers = np.exp([elite.scores[k] for k, elite in enumerate(chosen)])
    genomes = [strategy.store.load(elite.id) for elite in chosen]
    taus = [{name: array(genome.task_vector(name)) for name in SHAPES} for genome in genomes]
    expected = dense_combine(list(zip(powers / powers.sum(), taus, strict=True)))
    assert_same_task_vector(strategy.result()["aggregate"], expected)


def test_a_task_on_which_nobody_scores_is_no_obstacle(space, tmp_path):
    strategy = start(space, tmp_path, generations=6)
    while not strategy.done:
        candidate = strategy.ask()
        strategy.tell(candidate, (0.0, *judge(candidate)[1:]))
    assert set(strategy.result()) == set(strategy.rules)


def test_an_archive_of_one_elite_breeds(space, tmp_path):
    strategy = start(space, tmp_path, generations=6)
    while not strategy.done:
        strategy.tell(strategy.ask(), (0.5, 0.5, 0.5))
    assert [[elite.id for elite in archive] for archive in strategy.archives] == [[0], [0], [0]]


# Stop and continue


@pytest.mark.parametrize("variant", [*({"mutation": variant} for variant in VARIANTS), *CROSSOVERS], ids=str)
@pytest.mark.parametrize("stop", [0, 2, 3, 8])
def test_a_continued_run_equals_an_uninterrupted_one(space, tmp_path, variant, stop):
    settings = {"generations": 12, "seed": 3, **variant}
    whole = start(space, tmp_path / "whole", **settings)
    evolve(whole)
    first = start(space, tmp_path / "parts", **settings)
    evolve(first, steps=stop)
    saved = json.dumps(first.state_dict())
    first.store.prune(first.kept())
    second = start(space, tmp_path / "parts", **settings)
    second.load_state_dict(json.loads(saved))
    assert json.dumps(second.state_dict()) == saved
    evolve(second)
    assert text(second) == text(whole)
    for rule, genome in whole.result().items():
        assert all(bits(genome.weight(n)) == bits(second.result()[rule].weight(n)) for n in SHAPES)


@pytest.mark.parametrize(
    ("key", "value"),
    [("bins", 9), ("bound_low", 0.8), ("bound_high", 1.2), ("selection", "random"), ("alpha_low", 0.4),
     ("alpha_high", 0.9), ("crossover_mu", 1.1), ("crossover_sigma", 0.1), ("mutation", "none"),
     ("crossover", "ties"), ("granularity", "layer"), ("density", 0.2),
     ("crossover_stretch", 1.5), ("task_vectors", "orthogonal"),
     ("w_max", 0.5), ("mutation_sigma", 0.02), ("seed", 1)],
)  # fmt: skip
def test_a_changed_setting_is_refused_by_the_name_the_user_gave_it(space, tmp_path, key, value):
    strategy = start(space, tmp_path, generations=5)
    evolve(strategy, steps=4)
    other = start(space, tmp_path, **{"generations": 5, key: value})
    with pytest.raises(ValueError, match=rf"cannot continue.*\b{key}\b"):
        other.load_state_dict(json.loads(text(strategy)))
    assert other.evaluated == 0
    assert other.archives == []


def test_a_run_of_before_a_setting_existed_had_its_default(space, tmp_path):
    strategy = start(space, tmp_path, generations=5)
    evolve(strategy, steps=4)
    old = json.loads(text(strategy))
    del old["settings"]["crossover"]
    start(space, tmp_path, generations=5).load_state_dict(old)
    with pytest.raises(ValueError, match=r"cannot continue.*crossover = 'linear', now it is 'ties'"):
        start(space, tmp_path, generations=5, crossover="ties").load_state_dict(old)


def test_other_models_are_refused(space, tmp_path):
    strategy = start(space, tmp_path / "genomes", generations=5)
    evolve(strategy, steps=4)
    other = start(open_space(tmp_path / "other", seed=9), tmp_path / "genomes", generations=5)
    with pytest.raises(ValueError, match=r"cannot continue.*models"):
        other.load_state_dict(json.loads(text(strategy)))


def test_other_tasks_are_refused(space, tmp_path):
    strategy = start(space, tmp_path, generations=5)
    evolve(strategy, steps=4)
    renamed = ExpertSpace(space.base, space.experts, ["a", "b", "c"])
    renamed.identity, renamed.bases = space.identity, space.bases
    with pytest.raises(ValueError, match=r"cannot continue.*tasks"):
        start(renamed, tmp_path, generations=5).load_state_dict(json.loads(text(strategy)))


def test_another_rank_of_the_singular_bases_is_refused(space, tmp_path):
    """ω has one entry per direction: a genome of one rank means nothing in bases of another."""
    strategy = start(space, tmp_path / "genomes", generations=5)
    evolve(strategy, steps=6)
    truncated = ExpertSpace(space.base, space.experts, space.tasks)
    truncated.identity = space.identity
    add_bases(truncated, tmp_path / "bases", rank=2)
    with pytest.raises(ValueError, match=r"cannot continue.*rank"):
        start(truncated, tmp_path / "genomes", generations=5).load_state_dict(json.loads(text(strategy)))


def test_a_run_may_be_continued_for_more_generations(space, tmp_path):
    whole = start(space, tmp_path / "whole", generations=12)
    evolve(whole)
    short = start(space, tmp_path / "short", generations=5)
    evolve(short)
    longer = start(space, tmp_path / "short", generations=12)
    longer.load_state_dict(json.loads(text(short)))
    assert not longer.done
    evolve(longer)
    assert text(longer) == text(whole)


def test_the_state_says_how_many_evaluations_there_will_be(space, tmp_path):
    strategy = start(space, tmp_path, generations=12)
    assert (strategy.state_dict()["evaluated"], strategy.state_dict()["budget"]) == (0, 15)


# Crossover and finalists


@pytest.mark.parametrize("variant", CROSSOVERS, ids=str)
def test_only_one_weighted_sum_of_the_parents_tells_coefficients(space, tmp_path, variant):
    strategy = start(space, tmp_path, generations=4, **variant)
    child = evolve(strategy)[-1][0]
    assert "coefficients" not in child.origin
    assert child.origin["crossover"]["variant"] == variant.get("crossover", "linear")
    assert len(child.origin["parents"]) == 2


def test_finalists_are_the_elites_of_best_mean_and_their_genomes_can_be_had(space, tmp_path):
    strategy = start(space, tmp_path, generations=20)
    log = {candidate.id: scores for candidate, scores in evolve(strategy)}
    elites = {elite.id for archive in strategy.archives for elite in archive}
    expected = sorted(elites, key=lambda id: (-math.fsum(log[id]), -id))
    assert [elite.id for elite in strategy.finalists(4)] == expected[:4]
    assert [elite.id for elite in strategy.finalists(1000)] == expected
    assert strategy.finalists(0) == []
    best = strategy.individual(expected[0])
    assert judge(Candidate(0, best)) == log[expected[0]]


# Construction


def test_defaults_are_the_papers():
    defaults = {name: p.default for name, p in inspect.signature(CycleQD).parameters.items()}
    papers = {"generations": 1200, "bins": 15, "bound_low": 0.85, "bound_high": 1.15, "selection": "elite",
              "alpha_low": 0.5, "alpha_high": 0.8, "crossover_mu": 1.0, "crossover_sigma": 0.03,
              "crossover": "linear", "crossover_stretch": 1.0, "task_vectors": "plain", "granularity": "model",
              "mutation": "expert", "w_max": 0.3}  # fmt: skip
    assert {name: defaults[name] for name in papers} == papers


NAN = float("nan")


@pytest.mark.parametrize(
    "bad",
    [{"generations": -1}, {"bins": 0}, {"w_max": -0.1}, {"w_max": NAN}, {"crossover_sigma": -1.0},
     {"crossover_sigma": NAN}, {"crossover_mu": NAN}, {"mutation_sigma": -0.1}, {"mutation_sigma": NAN},
     {"bound_low": -0.1}, {"bound_low": 1.2}, {"bound_high": 0.5}, {"bound_high": NAN}, {"alpha_low": 0.0},
     {"alpha_low": 0.9}, {"alpha_high": NAN}, {"crossover": "slerp"}, {"granularity": "tensor"}, {"density": 0.0},
     {"density": 1.1}, {"density": NAN}, {"selection": "best"}, {"mutation": "svd"},
     {"crossover_stretch": 0.9}, {"crossover_stretch": NAN}, {"task_vectors": "sparse"}],
    ids=str,
)  # fmt: skip
def test_a_setting_out_of_its_range_is_refused_by_name(bad):
    ((name, value),) = bad.items()
    with pytest.raises(ValueError, match=rf"{name}: expected .*, got {re.escape(repr(value))}"):
        CycleQD(**bad)


def test_hyper_parameters_are_keyword_only():
    with pytest.raises(TypeError):
        CycleQD(10)


def test_a_reader_process_breeds_the_same_children_from_the_writers_files(space, tmp_path):
    writer = start(space, tmp_path, generations=8)
    reader = CycleQD(generations=8)
    reader.setup(space, GenomeStore(tmp_path, space, writable=False), 0)
    while not writer.done:
        ours, theirs = writer.ask(), reader.ask()
        assert ours.origin == theirs.origin
        assert all(bits(ours.genome.weight(n)) == bits(theirs.genome.weight(n)) for n in SHAPES)
        scores = judge(ours)
        assert writer.tell(ours, scores) == reader.tell(theirs, scores)
    assert text(writer) == text(reader)


def test_a_run_from_before_a_setting_existed_continues_with_its_default(space, tmp_path):
    def prepared(**settings):
        strategy = CycleQD(generations=3, **settings)
        strategy.setup(space, GenomeStore(tmp_path, space), 0)
        return strategy

    state = json.loads(json.dumps(prepared().state_dict()))
    for key in ("founders", "crossover", "crossover_stretch", "granularity", "density", "task_vectors"):
        del state["settings"][key]
    prepared().load_state_dict(state)
    with pytest.raises(ValueError, match=r"founders = \[\], now it is \[1.0\]"):
        prepared(founders=[1.0]).load_state_dict(state)


@pytest.mark.parametrize("granularity", ["model", "layer"])
def test_a_child_of_mutated_coefficients_tells_them(space, tmp_path, granularity):
    settings = {"mutation": "lognormal", "mutation_sigma": 0.5, "granularity": granularity}
    log = evolve(start(space, tmp_path, generations=6, **settings))
    children = [candidate for candidate, _ in log if "parents" in candidate.origin]
    assert len(children) == 6
    for child in children:
        assert isinstance(child.genome, CompactGenome)
        assert child.origin["alpha"] == child.genome.alpha.tolist()
        assert child.genome.alpha[child.genome.alpha != 0].unique().numel() > 1

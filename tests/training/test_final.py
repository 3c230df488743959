"""Final rules that judge their candidates on fresh problems."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cyqd.__main__ import main
from cyqd.evolution import CycleQD, TaskVectorAverage
from cyqd.evolution.storage import load_json
from cyqd.report.record import read_run
from cyqd.training.final import Final
from cyqd.training.run import read_history
from tests.conftest import Domain
from tests.toy import FILE, ToyData

OPTIONS = ["--final.finalists", "3", "--final.scales", "[0.5, 1.5]", "--final_rule", "rescored"]


class Unkept(ToyData):
    """Data that keep nothing back."""

    selection_dataloader = property()


@pytest.fixture(scope="module")
def run(toy: Domain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("final") / "run"
    main(["evolve", "--config", str(toy.config(folder, generations=8)), *OPTIONS])
    return folder


def selection(run: Path) -> list[dict[str, Any]]:
    return read_history(next(run.glob("evolution/selection-000011*/history.jsonl")))


def mean(scores: dict[str, float]) -> float:
    return math.fsum(scores.values()) / len(scores)


def test_finalists_are_the_best_individuals_and_the_best_in_both_scores_wins(run: Path) -> None:
    record = read_run(run)
    elites = {elite for archive in record.archives() for elite in archive}
    best = sorted(elites, key=lambda elite: (elite.mean, elite.id), reverse=True)[:3]
    lines = selection(run)
    assert [line["model"] for line in lines[:3]] == [f"evaluation {elite.id}" for elite in best]
    assert all(line["scores"] != record.evaluations[e.id]["scores"] for line, e in zip(lines, best, strict=False))
    winner = max(zip(lines, best, strict=False), key=lambda pair: mean(pair[0]["scores"]) + pair[1].mean)[1]
    assert record.results["selection"]["chosen"]["rescored"] == winner.id
    assert record.results["selection"]["scores"] == {line["model"]: line["scores"] for line in lines}


def test_the_best_factor_wins(run: Path) -> None:
    lines = selection(run)[3:]
    assert [line["model"] for line in lines] == ["scale 0.5", "scale 1.5"]
    winner = max(lines, key=lambda line: mean(line["scores"]))
    assert f"scale {load_json(run / 'results.json')['selection']['chosen']['scaled']}" == winner["model"]


def test_further_evaluations_are_counted_apart(run: Path) -> None:
    results = load_json(run / "results.json")
    assert (results["evaluations"], results["budget"], results["rescored"]) == (11, 11, 5)
    assert [row["model"] for row in results["rows"][-5:]] == [
        f"CycleQD {rule}" for rule in ("aggregate", "gamma", "best_mean", "rescored", "scaled")
    ]
    assert results["final"] == "CycleQD rescored"


def test_the_chosen_individual_is_the_runs_model(run: Path, tmp_path: Path) -> None:
    chosen = load_json(run / "results.json")["selection"]["chosen"]["rescored"]
    recipe = load_json(run / "model" / "merge_recipe.json")
    assert [(part["weight"], part["evaluation"]) for part in recipe["parts"]] == [(1.0, chosen)]
    assert (recipe["rule"], recipe["model"]) == ("rescored", "rescored")
    for name, options in {"rule": ["--aggregate"], "id": ["--elite", str(chosen)]}.items():
        main(["export", str(run), *options, "--out", str(tmp_path / name)])
        assert (tmp_path / name / FILE).read_bytes() == (run / "model" / FILE).read_bytes()
    assert "| CycleQD rescored " in (tmp_path / "rule" / "README.md").read_text()


def test_a_scaled_model_is_exported_with_its_scaled_shares(run: Path, tmp_path: Path) -> None:
    factor = load_json(run / "results.json")["selection"]["chosen"]["scaled"]
    main(["export", str(run), "--aggregate", "--rule", "scaled", "--out", str(tmp_path / "out")])
    recipe = load_json(tmp_path / "out" / "merge_recipe.json")
    assert sum(part["weight"] for part in recipe["parts"]) == pytest.approx(factor)
    assert sum(expert["share"] for expert in recipe["experts"].values()) == pytest.approx(factor)


def test_a_run_that_is_continued_as_it_was_judges_nobody_twice(run: Path, toy: Domain) -> None:
    before, results = selection(run), load_json(run / "results.json")
    config = str(toy.config(run, generations=8))
    main(["evolve", "--config", config, *OPTIONS, "--ckpt_path", "last"])
    assert selection(run) == before
    assert load_json(run / "results.json") == results


def test_other_candidates_are_judged_anew(run: Path, toy: Domain) -> None:
    config = str(toy.config(run, generations=8))
    main(["evolve", "--config", config, "--final.finalists", "2", "--ckpt_path", "last"])
    results = load_json(run / "results.json")
    assert (results["rescored"], list(results["selection"]["chosen"])) == (2, ["rescored"])
    assert len(list(run.glob("evolution/selection-*"))) == len(list(run.glob("evolution/test-*"))) == 2


def test_rules_that_cannot_be_followed_are_refused_at_once(
    toy: Domain, segmentation: Domain, tmp_path: Path, refuse: Callable[..., str]
) -> None:
    config = toy.config(tmp_path / "run")
    assert "got rescored; see --final.finalists" in refuse("evolve", "--config", config, "--final_rule", "rescored")
    data = {"class_path": f"{__name__}.Unkept", "init_args": {"sizes": [9, 5, 3]}}
    asked = ["--final.finalists", 1]
    message = refuse("evolve", "--config", config, "--data", json.dumps(data), *asked)
    assert "Unkept has no selection split" in message
    whole = segmentation.config(tmp_path / "whole")
    assert "no problems of task task0 are left" in refuse("evolve", "--config", whole, *asked)


def test_a_list_of_models_has_no_individuals_to_judge_again() -> None:
    final = Final(finalists=2, scales=[0.9])
    assert final.rules(TaskVectorAverage()) == ("scaled",)
    assert final.rules(CycleQD()) == ("rescored", "scaled")
    assert Final().rules(CycleQD()) == ()


@pytest.mark.parametrize("options", [{"finalists": -1}, {"scales": [1.0, 1.0]}, {"scales": [math.nan]}])
def test_options_out_of_range_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"final\.{next(iter(options))}: expected"):
        Final(**options)

"""The score cache: what was evaluated is not evaluated again, and nothing else comes out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cyqd.__main__ import main
from cyqd.evolution import CompactGenome
from cyqd.training.run import open_space
from cyqd.training.scores import ScoreCache, evaluation_fingerprint
from tests.conftest import Domain
from tests.toy import ToyData, ToyModule

Models = tuple[Path, dict[str, Path]]


class NamedData(ToyData):
    """Toy data that names its problems."""

    draws = False

    def splits(self) -> dict[str, dict[str, list[str]]]:
        splits = ("optimisation", "selection", "test")
        return {task.name: {split: list(map(str, range(task.size))) for split in splits} for task in self.tasks}


class DrawingData(NamedData):
    """The same, of a domain whose scores depend on the seed."""

    draws = True


@pytest.fixture
def evolve(toy: Domain, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Evolve the toy models in a cache of this test's own; return the history's lines, and the test's."""

    def run(
        name: str, *options: object, data: type[ToyData] = NamedData, generations: int = 4
    ) -> list[dict[str, Any]]:
        folder = tmp_path / name
        config = toy.config(folder, generations=generations)
        kind = {"class_path": f"{__name__}.{data.__name__}", "init_args": {"sizes": [9, 5, 3]}}
        shared = ["--data", json.dumps(kind), "--cache", tmp_path / "cache", "--reuse_scores", "true"]
        main(["evolve", "--config", *map(str, [config, *shared, *options])])
        files = [folder / "history.jsonl", *sorted(folder.glob("evolution/[st]e*-*/history.jsonl"))]
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    return run


def cached(lines: list[dict[str, Any]]) -> list[int]:
    """Return the evaluations of the search that were found."""
    return [line["evaluation"] for line in lines if line.get("cached") and "model" not in line]


def bare(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in ("seconds", "cached")} for line in lines]


def state(folder: Path) -> str:
    return (folder / "evolution" / "state" / "state.json").read_text()


def test_what_is_found_is_what_would_have_been_measured(evolve: Any, tmp_path: Path) -> None:
    first = evolve("first")
    again = evolve("again")
    alone = evolve("alone", "--reuse_scores", "false")
    assert not any("cached" in line for line in first + alone)
    assert all(line["cached"] for line in again)
    assert bare(first) == bare(again) == bare(alone)
    assert state(tmp_path / "first") == state(tmp_path / "again") == state(tmp_path / "alone")
    for before, now in zip(first, again, strict=True):
        assert now["seconds"]["evaluate"] == before["seconds"]["evaluate"]
    model = "model/weights.safetensors"
    assert (tmp_path / "first" / model).read_bytes() == (tmp_path / "again" / model).read_bytes()


def test_another_seed_shares_the_experts_alone(evolve: Any, tmp_path: Path) -> None:
    evolve("first")
    assert cached(evolve("second", "--seed", 1)) == [0, 1, 2]
    done = json.loads(state(tmp_path / "second"))
    assert (done["evaluated"], done["budget"]) == (7, 7)


def test_what_is_judged_in_another_way_is_not_found(evolve: Any) -> None:
    evolve("first", generations=0)
    others = {
        "--trainer.precision": "64-true",
        "--data.init_args.sizes": "[8, 5, 3]",
        "--data.init_args.batch_size": "3",
        "--rank": "2",
    }
    for number, option in enumerate(others.items()):
        assert cached(evolve(f"other{number}", *option, generations=0)) == [], option


def test_where_scores_are_drawn_each_seed_has_its_own(evolve: Any) -> None:
    evolve("first", data=DrawingData, generations=0)
    assert cached(evolve("same", data=DrawingData, generations=0)) == [0, 1, 2]
    assert cached(evolve("other", "--seed", 1, data=DrawingData, generations=0)) == []


def test_data_that_do_not_name_their_problems_share_nothing(evolve: Any, tmp_path: Path) -> None:
    evolve("first", data=ToyData, generations=0)
    assert not (tmp_path / "cache" / "scores").exists()


@pytest.mark.slow
def test_what_is_already_known_costs_several_processes_nothing_either(
    toy: Domain, evolve: Any, cyqd: Callable[..., object], tmp_path: Path
) -> None:
    first = evolve("first", "--threads", 1, "--trainer.devices", 1)
    config = toy.config(tmp_path / "two", generations=6)
    kind = {"class_path": f"{__name__}.NamedData", "init_args": {"sizes": [9, 5, 3]}}
    options = ["--data", json.dumps(kind), "--cache", tmp_path / "cache", "--reuse_scores", "true", "--threads", 1]
    cyqd("evolve", "--config", config, *options, "--trainer.devices", 2)
    lines = [json.loads(line) for line in (tmp_path / "two" / "history.jsonl").read_text().splitlines()]
    assert cached(lines) == [line["evaluation"] for line in first if "model" not in line]
    assert bare(lines)[:7] == bare(first)[:7]


RECORD = {key: {} for key in ("measures", "faults", "retries", "outcomes")} | {
    "scores": {"a": 0.1},
    "intervals": {"a": [0.0, 0.3]},
    "n": {"a": 3},
    "seconds": {"evaluate": 1.0},
}


def test_what_broke_is_not_kept(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path, "")
    for trouble in ("faults", "retries"):
        cache.keep("broken", {**RECORD, trouble: {"a/1": "gone"}})
    assert cache.find("broken", outcomes=False) is None


def test_scores_without_outcomes_do_not_serve_who_asks_for_them(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path, "")
    cache.keep("key", RECORD)
    assert cache.find("key", outcomes=False) == RECORD
    assert cache.find("key", outcomes=True) is None
    cache.keep("key", {**RECORD, "outcomes": {"a/1": 0.1}})
    assert cache.find("key", outcomes=True) is not None


@pytest.mark.parametrize("content", ["{", "[]", '{"scores": {"a": 0.5}}'])
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    cache = ScoreCache(tmp_path, "")
    cache.keep("key", RECORD)
    (file,) = tmp_path.rglob("*.json")
    file.write_text(content)
    assert cache.find("key", outcomes=False) is None


def test_models_splits_experts_and_granularities_have_keys_of_their_own(toy_models: Models) -> None:
    base, experts = toy_models
    space = open_space(ToyModule(base), experts)
    other = open_space(ToyModule(base), {**experts, "task0": experts["task1"]})
    cache, cpu = ScoreCache(Path(), ""), torch.device("cpu")
    alpha = torch.tensor([[0.5], [0.25], [0.25]], dtype=torch.float64)
    layered = CompactGenome(space, alpha.expand(3, len(space.part_names("layer"))), granularity="layer")
    genomes = [space.expert(0), space.expert(1), CompactGenome(space, alpha), layered, other.expert(0)]
    keys = [cache.key(genome, "optimisation", cpu) for genome in genomes]
    keys += [cache.key(genomes[0], "test", cpu), ScoreCache(Path(), "x").key(genomes[0], "optimisation", cpu)]
    assert len(set(keys)) == len(keys)
    assert cache.key(space.expert(0), "optimisation", cpu) == keys[0]


def test_files_beside_the_base_decide_scores_too(toy_models: Models, tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes((toy_models[0] / "weights.safetensors").read_bytes())
    model, data = ToyModule(tmp_path), NamedData([3, 3])
    before = evaluation_fingerprint({}, model, data)
    assert evaluation_fingerprint({}, model, data) == before
    (tmp_path / "tokenizer.json").write_text("{}")
    assert evaluation_fingerprint({}, model, data) != before

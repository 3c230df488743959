"""The demo's own configs, shrunk: fit a base and four experts, evolve them, on one process and on two."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
import torch

from cyqd.sam import weights
from cyqd.sam.architecture import build
from cyqd.sam.demo.generate import generate
from tests.demo import fit_all, shrink
from tests.training.test_resume import assert_same_run, history

pytestmark = pytest.mark.slow

TASKS = ("camouflage", "polyp", "skin", "leaf")
RUN = "runs/demo/sam"
SMALLER = {
    "limit: 100": "limit: 10",
    "test_limit: 200": "test_limit: 7",
    "eval_batch_size: 50": "eval_batch_size: 3",
    "num_workers: 1": "num_workers: 0",
    "max_steps: 400": "max_steps: 12",
    "max_steps: 300": "max_steps: 4",
    "generations: 60": "generations: 4",
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, base and experts of the shrunk demo."""
    folder = tmp_path_factory.mktemp("demo")
    generate(folder, seed=0, base=dict.fromkeys(TASKS, 40), train=64, evaluation=24)
    fit_all(shrink("sam", folder, SMALLER), "base", *TASKS)
    return folder


@pytest.fixture(scope="module")
def run(demo: Path, cyqd: Callable[..., subprocess.CompletedProcess[str]]) -> Path:
    done = cyqd("evolve", "--config", demo / "configs" / "evolve.yaml")
    assert (demo / "evolve" / "results.md").read_text() in done.stdout
    return demo / "evolve"


def test_experts_are_folders_with_a_checkpoint_that_sam_loads(demo: Path) -> None:
    for name in ("base", *TASKS):
        state = torch.load(demo / name / "model.pth", weights_only=True)
        build("tiny").load_state_dict(state)
        assert all(tensor.isfinite().all() for tensor in state.values())
        record = json.loads((demo / name / "cyqd.json").read_text())
        assert set(record["scores"]) >= (set() if name == "base" else {name})
        assert Path(record["base"]).name == ("init" if name == "base" else "base")


def test_a_run_leaves_everything_behind(run: Path) -> None:
    assert {path.name for path in run.iterdir()} >= {
        "config.yaml", "evolution", "history.jsonl", "results.json", "results.md", "model", "splits.json",
    }  # fmt: skip
    splits = json.loads((run / "splits.json").read_text())
    assert list(splits) == list(TASKS)
    assert all([len(halves["optimisation"]), len(halves["test"])] == [10, 7] for halves in splits.values())
    records = history(run)
    assert [record["evaluation"] for record in records] == list(range(len(TASKS) + 4))
    assert all(record["n"] == dict.fromkeys(TASKS, 10) for record in records)
    rows = json.loads((run / "results.json").read_text())["rows"]
    rules = [f"CycleQD {rule}" for rule in ("aggregate", "gamma", "best_mean")]
    experts = [f"expert {task}" for task in TASKS]
    assert [row["model"] for row in rows] == ["base", *experts, "task-vector average", *rules]
    assert all(cell["n"] == 7 for row in rows for cell in row["tasks"].values())


def test_the_merged_model_is_a_sam_of_its_own(run: Path) -> None:
    merged, base = weights.load(run / "model"), weights.read(run.parent / "base")
    state = merged.state_dict()
    assert {name: tensor.shape for name, tensor in state.items()} == {n: t.shape for n, t in base.items()}
    assert any(not torch.equal(state[name], base[name]) for name in base)
    assert "CycleQD" in (run / "model" / "README.md").read_text()


def test_two_processes_give_the_same_run(
    run: Path, demo: Path, tmp_path: Path, cyqd: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    other = tmp_path / "evolve"
    cyqd("evolve", "--config", demo / "configs" / "evolve.yaml", "--run", other, "--trainer.devices", 2)
    assert_same_run(run, other)


def test_pairs_are_runs_of_their_own(demo: Path, cyqd: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    some = TASKS[1:]
    config = demo / "configs" / "table4.yaml"
    cyqd("evolve", "--config", config, "--only", json.dumps(some), "--strategy.generations", 2)
    pairs = json.loads((demo / "table4" / "pairs.json").read_text())["pairs"]
    assert [pair["pair"] for pair in pairs] == [list(pair) for pair in combinations(some, 2)]
    for pair in pairs:
        results = json.loads((demo / "table4" / "+".join(pair["pair"]) / "results.json").read_text())
        assert all(list(row["tasks"]) == pair["pair"] for row in results["rows"])
        assert 0 < pair["similarity"] <= 1

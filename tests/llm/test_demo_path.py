"""The demo's own configs, shrunk: fit a base and three experts, evolve them, on one process and on two."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cyqd.llm.demo.generate import generate
from tests.demo import fit_all, shrink
from tests.training.test_resume import assert_same_run, history

pytestmark = [pytest.mark.sandbox, pytest.mark.slow]

TASKS = ("coding", "database", "os")
SMALLER = {
    "limit: 120": "limit: 10",
    "test_limit: 300": "test_limit: 7",
    "eval_batch_size: 128": "eval_batch_size: 3",
    "max_steps: 1000": "max_steps: 40",
    "max_steps: 120": "max_steps: 10",
    "generations: 75": "generations: 4",
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, base and experts of the shrunk demo."""
    folder = tmp_path_factory.mktemp("demo")
    generate(folder, seed=0)
    fit_all(shrink("llm", folder, SMALLER), "base", *TASKS)
    return folder


@pytest.fixture(scope="module")
def run(demo: Path, cyqd: Callable[..., subprocess.CompletedProcess[str]]) -> Path:
    done = cyqd("evolve", "--config", demo / "configs" / "evolve.yaml")
    assert (demo / "evolve" / "results.md").read_text() in done.stdout
    return demo / "evolve"


def test_experts_are_folders_that_transformers_loads(demo: Path) -> None:
    for name in ("base", *TASKS):
        model = AutoModelForCausalLM.from_pretrained(demo / name)
        tokenizer = AutoTokenizer.from_pretrained(demo / name)
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": "hi"}], return_tensors="pt", return_dict=True
        )
        assert model(**ids).logits.isfinite().all()
        record = json.loads((demo / name / "cyqd.json").read_text())
        assert set(record["scores"]) == (set() if name == "base" else {name})
        assert Path(record["base"]).name == ("init" if name == "base" else "base")


def test_a_run_leaves_everything_behind(run: Path) -> None:
    assert {path.name for path in run.iterdir()} >= {
        "config.yaml", "evolution", "history.jsonl", "results.json", "results.md", "model", "splits.json",
    }  # fmt: skip
    splits = json.loads((run / "splits.json").read_text())
    assert list(splits) == list(TASKS)
    assert all([len(halves["optimisation"]), len(halves["test"])] == [10, 7] for halves in splits.values())
    assert json.loads((run / "results.json").read_text())["evolution"] == {"faults": {}, "retries": {}}
    records = history(run)
    assert [record["evaluation"] for record in records] == list(range(7))
    assert all(record["n"] == dict.fromkeys(TASKS, 10) for record in records)
    seconds = json.loads((run / "history.jsonl").read_text().splitlines()[-1])["seconds"]
    assert {"breed", "materialise", "generate", "environments"} <= set(seconds)
    rows = json.loads((run / "results.json").read_text())["rows"]
    rules = [f"CycleQD {rule}" for rule in ("aggregate", "gamma", "best_mean")]
    experts = [f"expert {task}" for task in TASKS]
    assert [row["model"] for row in rows] == ["base", *experts, "task-vector average", *rules]
    assert all(cell["n"] == 7 for row in rows for cell in row["tasks"].values())


def test_the_merged_model_is_a_folder_that_transformers_loads(run: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    base = AutoModelForCausalLM.from_pretrained(run.parent / "base")
    shapes = {name: p.shape for name, p in base.named_parameters()}
    assert {name: p.shape for name, p in model.named_parameters()} == shapes
    assert not torch.equal(model.lm_head.weight, base.lm_head.weight)
    assert "CycleQD" in (run / "model" / "README.md").read_text()


def test_two_processes_give_the_same_run(
    run: Path, demo: Path, tmp_path: Path, cyqd: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    other = tmp_path / "evolve"
    cyqd("evolve", "--config", demo / "configs" / "evolve.yaml", "--run", other, "--trainer.devices", 2)
    assert_same_run(run, other)


def test_problems_that_no_model_solves_are_listed_and_left_out(
    demo: Path, tmp_path: Path, cyqd: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    config, out = demo / "configs" / "evolve.yaml", tmp_path / "out"
    experts = [demo / task for task in TASKS]
    cyqd("test", "--config", config, "--out", out, "--split", "optimisation", "--models", *experts)
    unsolved = json.loads((out / "unsolved.json").read_text())
    rows = json.loads((out / "results.json").read_text())["rows"]
    for task in TASKS:
        best = max(row["tasks"][task]["mean"] for row in rows)
        assert best <= 1 - len(unsolved[task]) / 10
        assert (best == 0) == (len(unsolved[task]) == 10)
    outcomes = [record["outcomes"] for record in history(out / "scores")]
    assert all(len(scores) == 30 for scores in outcomes)
    listed = {f"{task}/{problem}" for task, problems in unsolved.items() for problem in problems}
    assert listed == {problem for problem in outcomes[0] if not any(scores[problem] for scores in outcomes)}


def test_a_run_is_not_continued_on_other_problems(
    run: Path, demo: Path, tmp_path: Path, refuse: Callable[..., str]
) -> None:
    other = Path(shutil.copytree(run, tmp_path / "evolve"))
    splits = json.loads((other / "splits.json").read_text())
    splits["os"]["test"].pop()
    (other / "splits.json").write_text(json.dumps(splits))
    message = refuse("evolve", "--config", demo / "configs" / "evolve.yaml", "--run", other, "--ckpt_path", "last")
    assert "the test split of task os is not what" in message


def test_an_expert_of_another_tokenizer_is_refused(demo: Path, tmp_path: Path, refuse: Callable[..., str]) -> None:
    strange = tmp_path / "strange"
    strange.mkdir()
    for path in (demo / "os").iterdir():
        if path.is_file():
            (strange / path.name).write_bytes(path.read_bytes())
    tokenizer = json.loads((strange / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[40:42]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (strange / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = (demo / "configs" / "evolve.yaml").read_text().replace(f"os: {demo}/os", f"os: {strange}")
    (tmp_path / "evolve.yaml").write_text(config)
    message = refuse("evolve", "--config", tmp_path / "evolve.yaml", "--run", tmp_path / "run")
    assert "strange" in message
    assert "tokenizer" in message

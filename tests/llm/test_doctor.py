"""What the doctor finds in language models, their tokenizers, and their tasks' environments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from cyqd.__main__ import main
from cyqd.llm import LLMModule
from cyqd.llm.environments import containers
from cyqd.training.doctor import without_weights
from tests.llm.conftest import make_llama


def task(folder: Path, name: str, kind: str, problems: list[dict[str, Any]]) -> dict[str, Any]:
    text = "\n".join(map(json.dumps, problems)) if kind == "Coding" else json.dumps(problems)
    (folder / f"{name}.json").write_text(text)
    return {
        "class_path": f"cyqd.llm.tasks.{kind}",
        "init_args": {"problems": str(folder / f"{name}.json"), "name": name},
    }


def diagnose(out: Path, *arguments: object) -> dict[str, tuple[str, str]]:
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--out", str(out), *map(str, arguments)])
    assert stop.value.code == 1
    return {check["check"]: (check["status"], check["text"]) for check in json.loads(out.read_text())["checks"]}


def test_damages_of_experts_and_environments(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = make_llama(tmp_path / "wide", hidden_size=16)
    talker = make_llama(tmp_path / "talker", seed=1)
    tokenizer = AutoTokenizer.from_pretrained(talker)
    tokenizer.add_tokens(["<|tool|>"])
    tokenizer.save_pretrained(talker)
    fine = make_llama(tmp_path / "fine", seed=2)
    double = {"prompt": "Double.", "entry_point": "double", "tests": ["assert double(2) == 4"]}
    good = [{**double, "id": i, "gold": "def double(x):\n    return 2 * x"} for i in "ab"]
    bad = [{**double, "id": i, "gold": "def double(x):\n    return 3 * x"} for i in "ab"]
    lines = {"description": "How many?", "create": {"init": "touch /tmp/a"}, "evaluation": {"match": "1"}}
    tasks = [
        task(tmp_path, "sound", "Coding", good),
        task(tmp_path, "wrong", "Coding", bad),
        task(tmp_path, "os", "AgentBenchOS", [lines, lines]),
    ]
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.setattr(containers, "_client", None)
    config = {
        "model": {"class_path": "cyqd.llm.LLMModule", "init_args": {"base": str(base), "max_new_tokens": 8}},
        "data": {"class_path": "cyqd.llm.LLMData", "init_args": {"tasks": tasks}},
        "experts": {"sound": str(fine), "wrong": str(talker), "os": str(wide)},
        "run": str(tmp_path / "run"),
    }
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    found = diagnose(tmp_path / "out.json", "--config", tmp_path / "config.yaml", "--trainer.accelerator", "cpu")
    assert found["expert sound"][0] == "ok"
    assert "vocabulary" in found["expert wrong"][1]
    assert "head_dim is 4, but 8" in found["expert os"][1]
    assert found["environment sound"][0] == "ok"
    assert "the gold reply does not solve" in found["environment wrong"][1]
    assert "install Docker" in found["environment os"][1]
    assert {check for check, (status, _) in found.items() if status == "FAILED"} == {
        "expert wrong", "expert os", "environment wrong", "environment os",
    }  # fmt: skip


def test_a_module_without_weights_has_the_shapes_of_the_real_one(base: Path) -> None:
    with without_weights():
        module = LLMModule(base, max_new_tokens=8)
    real = LLMModule(base, max_new_tokens=8)
    assert {parameter.device for parameter in module.parameters()} == {torch.device("meta")}
    assert module.read_weights(base).keys() == real.read_weights(base).keys()
    for name, parameter in real.evolved_parameters().items():
        meta = module.evolved_parameters()[name]
        assert (meta.shape, meta.dtype) == (parameter.shape, parameter.dtype)

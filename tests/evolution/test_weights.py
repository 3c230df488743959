"""However a model is stored, the same tensors come back under the same names, and damage is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cyqd.evolution.weights import INDEX, SINGLE, StoredWeights

TENSORS = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "b.bias": torch.ones(4, dtype=torch.bfloat16),
    "steps": torch.tensor(3),
}


@pytest.fixture
def single(tmp_path: Path) -> Path:
    folder = tmp_path / "single"
    folder.mkdir()
    save_file(TENSORS, folder / SINGLE)
    return folder


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    folder.mkdir()
    shards = {name: f"model-{number}.safetensors" for number, name in enumerate(TENSORS)}
    for name, shard in shards.items():
        save_file({name: TENSORS[name]}, folder / shard)
    (folder / INDEX).write_text(json.dumps({"weight_map": shards}))
    return folder


@pytest.fixture
def pth(tmp_path: Path) -> Path:
    torch.save(TENSORS, tmp_path / "model.pth")
    return tmp_path / "model.pth"


@pytest.mark.parametrize("kind", ["single", "sharded", "pth"])
def test_every_format_gives_the_same_tensors(kind: str, request: pytest.FixtureRequest) -> None:
    weights = StoredWeights(request.getfixturevalue(kind))
    assert set(weights) == set(TENSORS)
    assert len(weights) == len(TENSORS)
    for name, tensor in TENSORS.items():
        assert name in weights
        assert weights[name].dtype == tensor.dtype
        assert torch.equal(weights[name], tensor)
    assert "c" not in weights
    with pytest.raises(KeyError):
        weights["c"]


def test_a_safetensors_file_may_have_any_name(single: Path) -> None:
    other = (single / SINGLE).rename(single / "other.safetensors")
    assert set(StoredWeights(other)) == set(TENSORS)


def test_what_is_missing_is_named(sharded: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no model at .*nowhere"):
        StoredWeights(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=rf"no {SINGLE} or {INDEX} in "):
        StoredWeights(tmp_path)
    (sharded / "model-1.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"index\.json names model-1\.safetensors, which is not there"):
        StoredWeights(sharded)


@pytest.mark.parametrize("text", ["{}", "[]", "", '{"weight_map": ["a"]}', '{"weight_map": {"a": 1}}'])
def test_a_damaged_index_is_named(sharded: Path, text: str) -> None:
    (sharded / INDEX).write_text(text)
    with pytest.raises(ValueError, match=r"index\.json is damaged: expected a JSON object with weight_map"):
        StoredWeights(sharded)


def test_what_is_damaged_is_named(single: Path, pth: Path, tmp_path: Path) -> None:
    (single / SINGLE).write_bytes((single / SINGLE).read_bytes()[:20])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or incomplete"):
        StoredWeights(single)
    pth.write_bytes(pth.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"model\.pth is damaged, incomplete"):
        StoredWeights(pth)
    torch.save({"model": TENSORS, "epoch": 3}, tmp_path / "training.pth")
    with pytest.raises(ValueError, match=r"expected a state dict.*got a dict of \['model', 'epoch'\]"):
        StoredWeights(tmp_path / "training.pth")

"""What is said of a similarity, the check before an evolution, and the command on real small models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from cyqd.__main__ import main
from cyqd.evolution import ExpertSpace
from cyqd.evolution.comparison import compare
from cyqd.evolution.weights import SINGLE, StoredWeights
from cyqd.report.similarity import check_similarity, distinguish, interpret, similarity_tables
from tests.evolution.models import open_space


@pytest.fixture
def space(tmp_path: Path) -> ExpertSpace:
    return open_space(tmp_path)


def spaced(*vectors: list[float], names: str = "xyz") -> ExpertSpace:
    """A base of zeros and experts whose task vectors are given."""
    base = {"a.weight": torch.zeros(len(vectors[0]))}
    return ExpertSpace(base, [{"a.weight": torch.tensor(v)} for v in vectors], list(names[: len(vectors)]))


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [
        (([1.0, 0.0], [0.0, 1.0]), []),
        (([1.0, 0.0], [0.1, 9.8]), []),
        (([1.0, 0.0], [1.0, 0.5]), []),
        (([1.0, 0.0], [1.0, 0.001]), []),
        (([1.0, 0.0], [-0.05, 1.0]), []),
        (([1.0, 0.0], [0.0, 0.0]), ["y equals its base"]),
        (([1.0, 0.0], [1.0, 0.0]), ["are the same model"]),
        (([1.0, 0.0], [0.0, 12.0]), ["of y is 12 times as long as that of x"]),
        (([1.0, 0.0], [-1.0, 0.5]), [r"x and y pull in opposite directions (cosine -0.89)"]),
        (([1.0, 0.0], [0.0, 0.0], [1.0, 0.0]), ["y equals its base", "are the same model"]),
    ],
)
def test_warnings_come_only_where_something_is_wrong(vectors: tuple[list[float], ...], expected: list[str]) -> None:
    warnings = interpret(compare(spaced(*vectors)))["warnings"]
    assert len(warnings) == len(expected)
    for warning, text in zip(warnings, expected, strict=True):
        assert text in warning


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [
        (([1.0, 0.0], [0.0, 1.0]), "nearly at right angles"),
        (([1.0, 0.0], [1.0, 1.0]), "partly aligned"),
        (([1.0, 0.0], [-1.0, 1.0]), "partly opposed"),
    ],
)
def test_the_reading_says_what_directions_mean(vectors: tuple[list[float], ...], expected: str) -> None:
    lengths, directions = interpret(compare(spaced(*vectors)))["reading"]
    assert "times as long" in lengths
    assert expected in directions
    assert "rule of thumb" in directions


def test_the_reading_is_honest_about_similarity(space: ExpertSpace) -> None:
    *_, last = interpret(compare(space))["reading"]
    assert "too few to tell" in last


def test_the_check_uses_the_bases_there_are(space: ExpertSpace) -> None:
    found = check_similarity(space)
    for a, b in combinations(range(3), 2):
        assert found["pairs"][f"task{a}+task{b}"]["similarity"] == space.similarity(a, b)
    assert found["reading"]
    assert found["warnings"] == []
    json.dumps(found, allow_nan=False)


def test_the_check_knows_devices_without_float64(space: ExpertSpace) -> None:
    expected = check_similarity(space)
    space.to(torch.device("mps"))
    assert check_similarity(space) == expected


def test_the_check_is_cheap_without_bases(space: ExpertSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = ExpertSpace(space.base, space.experts, space.tasks)
    monkeypatch.setattr(torch.linalg, "eigvalsh", None)  # what would take long
    found = check_similarity(bare)
    assert {pair["similarity"] for pair in found["pairs"].values()} == {None}
    assert all(-1 <= pair["cosine"] <= 1 for pair in found["pairs"].values())
    assert check_similarity(spaced([1.0, 0.0])) == {}


def test_tables_hold_every_value(space: ExpertSpace) -> None:
    values = compare(space)
    pairs, lengths, groups, layers = similarity_tables(values).split("\n\n")
    for pair, measured in values["pairs"].items():
        row = next(line for line in pairs.splitlines() if line.startswith(f"| {pair.replace('+', ' + ')} "))
        assert [cell.strip() for cell in row.split("|")[2:4]] == [f"{v:.4f}" for v in measured.values()]
    assert f"{values['norms']['task1']:.4g}" in lengths
    assert len(groups.splitlines()) == len(layers.splitlines()) == 2 + len(space.names)
    assert "–" in layers  # vectors have no similarity


def test_models_are_called_by_what_tells_them_apart() -> None:
    paths = [Path("runs/a/coding"), Path("runs/a/os"), Path("x.pth")]
    assert distinguish(paths) == ["coding", "os", "x.pth"]
    assert distinguish([Path("runs/1/os"), Path("runs/2/os")]) == ["1/os", "2/os"]
    assert distinguish([Path("runs/camouflage+leaf"), Path("runs/skin")]) == ["camouflage&leaf", "skin"]
    assert distinguish([Path("1/a+b"), Path("2/a&b")]) == ["1/a&b", "2/a&b"]
    with pytest.raises(ValueError, match="differ in more than"):
        distinguish([Path("a+b"), Path("a&b")])
    with pytest.raises(ValueError, match="named twice"):
        distinguish([Path("runs/a"), Path("runs/b/../a")])


@pytest.fixture(scope="module")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A base in one file, an expert in shards, an expert as torch saves it."""
    folder = tmp_path_factory.mktemp("llamas")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "base")
    for name in ("first", "second"):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.01)
        model.save_pretrained(folder / name, max_shard_size="8KB")
    torch.save(model.state_dict(), folder / "second.pth")
    assert not (folder / "first" / SINGLE).exists()
    return [folder / "base", folder / "first", folder / "second.pth"]


def test_the_command_compares_a_tiny_llama(
    llamas: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["similarity", *map(str, llamas), "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    stored: dict[str, Any] = json.loads((tmp_path / "similarity.json").read_text())
    base, *experts = map(StoredWeights, llamas)
    assert stored == interpret(compare(ExpertSpace(base, experts, ["first", "second.pth"])))
    assert list(stored["layers"]["first+second.pth"])[1:4] == [
        "model.embed_tokens.weight",
        "model.layers.0",
        "model.layers.1",
    ]
    assert (tmp_path / "similarity.md").read_text().strip() in printed
    assert all(sentence in printed for sentence in stored["reading"])
    for picture in ("similarity.png", "layers.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")


def test_the_command_warns_where_there_is_nothing_to_merge(
    llamas: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, expert, _ = llamas
    copy = shutil.copytree(base, tmp_path / "copy")
    main(["similarity", str(base), str(copy), str(expert), "--out", str(tmp_path / "out")])
    assert "Warning: copy equals its base: there is nothing to merge." in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"similarity.{kind}" for kind in ("json", "md", "png")
    ]


def test_the_command_compares_a_tiny_sam(segmentation: Any, tmp_path: Path) -> None:
    base = segmentation.parts["model"]["init_args"]["base"]
    experts = list(segmentation.parts["experts"].values())
    main(["similarity", base, *experts, "--out", str(tmp_path)])
    stored = json.loads((tmp_path / "similarity.json").read_text())
    assert stored["models"] == [Path(path).name for path in experts]
    assert all(0 < pair["similarity"] <= 1 for pair in stored["pairs"].values())


def test_what_does_not_fit_is_refused(llamas: list[Path], tmp_path: Path, refuse: Callable[..., str]) -> None:
    base, first, second = llamas
    assert "at least two, got" in refuse("similarity", base, first)
    assert "is named twice" in refuse("similarity", base, first, base)
    assert "is named twice" in refuse("similarity", base, first, second, first)
    taken = tmp_path / "taken"
    taken.touch()
    assert "out: expected a folder, got the file" in refuse("similarity", base, first, second, "--out", taken)
    assert "no model at" in refuse("similarity", base, first, tmp_path / "nowhere")
    assert "device: quantum cannot compute" in refuse("similarity", base, first, second, "--device", "quantum")
    other = Path(shutil.copytree(base, tmp_path / "other"))
    tensors = load_file(other / SINGLE)
    save_file({**tensors, "model.norm.weight": torch.ones(3)}, other / SINGLE)
    assert "other does not fit the base: tensor 'model.norm.weight' has shape (3,)" in refuse(
        "similarity", base, first, other
    )
    save_file({**tensors, "model.norm.weight": torch.full((16,), torch.nan)}, other / SINGLE)
    assert "other: tensor 'model.norm.weight' holds NaN" in refuse("similarity", base, first, other)

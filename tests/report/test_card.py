"""Model cards: what the hub reads of them, and whose licence they repeat."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from cyqd.report.card import hub_name, licence, licence_files, model_card, public_name
from cyqd.report.tables import results_row

LINE = {"scores": {"a": 0.5, "b": 0.25}, "intervals": {"a": [0.4, 0.6], "b": [0.1, 0.4]}, "n": {"a": 10, "b": 20}}


def test_the_hub_reads_base_experts_and_the_models_own_scores() -> None:
    rows = [results_row(name, LINE) for name in ("base", "merged")]
    hub = {"library": "transformers", "pipeline": "text-generation", "code": "load()"}
    text = model_card("my/base", "Merged.", rows, experts=["my/a", "a/local/b", "my/a"], scored="merged", hub=hub)
    front = ModelCard(text).data
    assert front.base_model == ["my/base", "my/a"]
    assert front.base_model_relation == "merge"
    assert front.model_name == "merged"
    assert [(r.dataset_type, r.dataset_split, r.metric_value) for r in front.eval_results] == [
        ("a", "test", 0.5),
        ("b", "test", 0.25),
    ]
    assert "```python\nload()\n```" in text


def test_a_fine_tuned_model_is_no_merge() -> None:
    front = ModelCard(model_card("my/base", "An expert.", relation="finetune")).data.to_dict()
    assert front == {"base_model": "my/base", "base_model_relation": "finetune", "tags": ["cyqd"]}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B"),
        ("/cache/models--Qwen--Qwen2.5-0.5B/snapshots/0123abc", "Qwen/Qwen2.5-0.5B"),
        (Path("models--a--b/snapshots/0"), "a/b"),
        ("/models/qwen", None),
        ("../qwen", None),
        ("runs/demo/base", None),
        ("checkpoint.pth", None),
    ],
)
def test_only_what_the_hub_has_is_named_to_it(model: str | Path, expected: str | None) -> None:
    assert hub_name(model) == expected
    assert public_name(model) == expected or "/" not in public_name(model)


def test_a_folder_is_no_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my" / "base").mkdir(parents=True)
    assert hub_name("my/base") == "my/base"
    monkeypatch.chdir(tmp_path)
    assert hub_name("my/base") is None


def test_the_bases_licence_is_repeated(tmp_path: Path) -> None:
    assert licence(tmp_path) == {}
    (tmp_path / "NOTICE").write_text("Thanks.")
    assert licence(tmp_path) == {}
    (tmp_path / "LICENSE.txt").write_text("\n  Some Community License, v3\n\nYou may.\n")
    named = {"license": "other", "license_name": "some-community-license-v3", "license_link": "LICENSE.txt"}
    assert licence(tmp_path) == named
    assert [file.name for file in licence_files(tmp_path)] == ["LICENSE.txt", "NOTICE"]
    (tmp_path / "sam.pth").touch()
    assert licence(tmp_path / "sam.pth") == named
    assert licence_files(tmp_path / "sam.pth") == licence_files(tmp_path)
    assert licence_files(tmp_path / "none.pth") == []
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: en\n---\n# A base\n")
    assert ModelCard(model_card(str(tmp_path), "Merged.")).data.to_dict() == {
        "license": "apache-2.0",
        "tags": ["merge", "cyqd"],
    }


def test_a_damaged_card_of_the_base_is_named(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.warns(UserWarning, match=r"README\.md: the front matter is damaged"):
        assert licence(tmp_path) == {}

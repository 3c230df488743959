"""Manifests: the shipped one is whole and serves the configs; a wrong one is refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cyqd.datasets import read_manifests, run, shipped_manifests
from tests.datasets.conftest import write_manifest

ROOT = Path(__file__).parents[2]


def test_the_shipped_manifests_say_all_there_is_to_say(capsys: pytest.CaptureFixture[str]) -> None:
    datasets = read_manifests(shipped_manifests())
    for dataset in datasets.values():
        assert all(source.url.startswith("https://") for source in dataset.files), dataset.name
    run()
    said = capsys.readouterr().out
    for dataset in datasets.values():
        assert f"{dataset.name} (" in said
        assert dataset.licence in said
    assert "data/llm/dbbench/standard.jsonl" in said


def test_the_fits_find_their_training_data_among_the_downloads() -> None:
    made = {
        str(dataset.out / source.path)
        for dataset in read_manifests(shipped_manifests()).values()
        for source in dataset.files
        if source.chat
    }
    configs = [yaml.safe_load(path.read_text()) for path in (ROOT / "configs/llm").glob("fit_*.yaml")]
    assert {path for config in configs for path in config["data"]["init_args"]["train"]} == made


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "My Data"}, "name: expected"),
        ({"licence": ""}, "licence: expected a text"),
        ({"license": "MIT"}, "unknown key 'license'"),
        ({"files": []}, "files: expected at least one"),
        ({"files": [{"url": "file:///etc/passwd", "path": "a"}]}, "url: expected"),
        ({"files": [{"url": "https://example.org/a", "path": "../a"}]}, "path: expected"),
        ({"files": [{"url": "https://example.org/a", "path": "/a"}]}, "path: expected"),
        ({"files": [{"url": "https://example.org/a", "path": "a", "sha256": "abc"}]}, "sha256: expected"),
        ({"files": [{"url": "https://example.org/a", "path": "a", "unpack": "rar"}]}, "unpack: expected"),
        ({"files": [{"url": "https://example.org/a", "path": "a", "unpack": "tar"}]}, "member: expected"),
        ({"files": [{"url": "https://example.org/a", "path": "a", "chat": {"text": "x"}}]}, "chat: expected"),
        ({"files": [{"url": "https://example.org/a", "path": p} for p in "ab"]}, "mine also downloads to a"),
        ({"files": [{"url": "https://example.org/a"}]}, "path"),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_place(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    manifest = write_manifest(tmp_path / "mine.json", **change)
    with pytest.raises(ValueError, match="data set 1") as stop:
        run(manifest=manifest)
    assert str(manifest) in str(stop.value)
    assert reason in str(stop.value)


def test_a_name_that_comes_twice_or_never_is_refused(tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "mine.json")
    with pytest.raises(ValueError, match="name mine comes twice"):
        read_manifests([manifest, manifest])
    with pytest.raises(ValueError, match="there is no data set yours; there are mine"):
        run(["yours"], manifest=manifest)

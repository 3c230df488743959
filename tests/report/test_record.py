"""What is read from a run's folder is what the evolution had."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from cyqd.evolution.storage import load_json
from cyqd.report.record import STATE, RunRecord, read_run
from tests.report.runs import make_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "record", tasks=3, generations=80)


@pytest.mark.parametrize("tasks", [2, 4])
def test_the_archives_are_replayed_as_they_were(tasks: int, folder: Path, tmp_path: Path) -> None:
    for run in (folder, make_run(tmp_path / "run", tasks=tasks, generations=60)):
        record = read_run(run)
        assert [archive.state_dict() for archive in record.archives()] == load_json(run / STATE)["archives"]
    # With fewer generations the search was the same up to there.
    shorter = make_run(tmp_path / "shorter", tasks=tasks, generations=25)
    earlier = [archive.state_dict() for archive in record.archives(tasks + 25)]
    assert earlier == load_json(shorter / STATE)["archives"]
    assert [len(archive) for archive in record.archives(tasks)] == [
        len(archive) for archive in read_run(make_run(tmp_path / "0", tasks=tasks, generations=0)).archives()
    ]


def test_shares_are_the_genomes_own(folder: Path) -> None:
    record = read_run(folder)
    genomes = sorted((folder / STATE).parent.glob("genomes/*.safetensors"))
    assert len(genomes) > 20
    for path in genomes:
        assert record.shares[int(path.stem)] == pytest.approx(load_file(path)["alpha"].tolist(), abs=1e-12)


def test_ancestors_lead_to_the_experts(folder: Path) -> None:
    record = read_run(folder)
    assert record.experts == {"task0": 0, "task1": 1, "task2": 2}
    assert record.ancestors(1) == [1]
    for model in range(3, len(record.evaluations)):
        found = record.ancestors(model)
        assert found == sorted(found, reverse=True)
        assert found[0] == model
        assert found[-1] in record.experts.values()
        parents = {parent for ancestor in found for parent in record.evaluations[ancestor].get("parents", [])}
        assert parents | {model} == set(found)


def test_a_run_that_goes_on_is_read_up_to_its_state(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder, run)
    (run / "results.json").unlink()
    (run / "similarity.json").unlink()
    with (run / "history.jsonl").open("a") as history:
        history.write('{"evaluation": 83, "scor')  # its state is not saved yet
    record = read_run(run)
    assert len(record.evaluations) == 83
    assert record.results == record.similarity == {}


def test_what_cannot_be_read_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no evolution yet"):
        read_run(tmp_path)
    run = tmp_path / "pairs" / "task0+task1"
    shutil.copytree(folder, run)
    with pytest.raises(FileNotFoundError, match=r"it holds the runs task0\+task1"):
        read_run(run.parent)
    lines = (run / "history.jsonl").read_text().splitlines(keepends=True)
    (run / "history.jsonl").write_text("".join(lines[:40]))
    with pytest.raises(ValueError, match=r"history\.jsonl is damaged: expected 83 lines, as state.* got 40"):
        read_run(run)
    (run / "history.jsonl").write_text("".join([*lines[:40], "{]\n", *lines[41:]]))
    with pytest.raises(ValueError, match=r"history\.jsonl is damaged in line 41"):
        read_run(run)
    (run / STATE).write_text("{")
    with pytest.raises(ValueError, match=r"state\.json is not valid JSON"):
        read_run(run)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.yaml", None, r"config\.yaml is missing"),
        ("config.yaml", "", r"config\.yaml is damaged: expected settings by name, got None"),
        ("config.yaml", "a: [", r"config\.yaml is not valid YAML"),
        ("results.json", '{"evaluations": 83, "rows": [], "x": NaN}', r"results\.json .*: NaN is no number"),
        ("results.json", "[]", r"results\.json .*: expected an object, got '\[\]'"),
        ("similarity.json", "{}", r"similarity\.json is damaged: it has no models, pairs"),
        (
            "history.jsonl",
            '{"scores": {"task0": NaN}}\n' * 83,
            r"history\.jsonl is damaged in line 1: NaN is no number",
        ),
    ],
)
def test_a_damaged_file_is_named(folder: Path, tmp_path: Path, name: str, content: str | None, said: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(folder, run, ignore=shutil.ignore_patterns("genomes", name))
    if content is not None:
        (run / name).write_text(content)
    with pytest.raises((FileNotFoundError, ValueError), match=said):
        read_run(run)


def test_results_are_of_the_run_as_it_was_then(folder: Path) -> None:
    record = read_run(folder)
    assert (record.results_current, record.budget) == (True, 83)
    longer = replace(record, evaluations=[*record.evaluations, record.evaluations[-1]])
    assert not longer.results_current
    assert not replace(record, results={}).results_current


@pytest.mark.parametrize(("mixed", "share"), [("plain", (0.5, 0.25)), ("both", (0.6, 0.45))])
def test_a_share_sums_up_both_kinds_of_an_experts_task_vectors(mixed: str, share: tuple[float, ...]) -> None:
    alpha = [[0.4, 0.6], [0.25, 0.25], [0.1, 0.1], [0.2, 0.2]][: 4 if mixed == "both" else 2]
    settings = {"tasks": ["a", "b"], "task_vectors": mixed}
    run = RunRecord(Path("run"), {}, settings, [{"evaluation": 0, "alpha": alpha}], [])
    assert run.shares == [pytest.approx(share)]


def test_a_share_that_mutation_changed_is_the_one_told_and_the_one_inherited() -> None:
    lines: list[dict[str, Any]] = [
        {"evaluation": 0, "expert": "a"},
        {"evaluation": 1, "expert": "b"},
        {"evaluation": 2, "parents": [0, 1], "coefficients": [0.5, 0.5], "alpha": [[0.8], [0.2], [0.0], [0.1]]},
        {"evaluation": 3, "parents": [2, 0], "coefficients": [0.5, 0.5]},
    ]
    run = RunRecord(Path("run"), {}, {"tasks": ["a", "b"]}, lines, [])
    assert run.shares[2:] == [pytest.approx((0.8, 0.3)), pytest.approx((0.9, 0.15))]

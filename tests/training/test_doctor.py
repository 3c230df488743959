"""The doctor finds every damage in one go."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cyqd.__main__ import main
from cyqd.evolution.storage import save_json
from cyqd.training.doctor import Finding, changed, check_room
from tests.toy import FILE, ToyData, ToyModule

Diagnose = Callable[..., "Diagnosis"]


class Diagnosis(NamedTuple):
    """The doctor's exit code, findings by check as (status, text), and estimates by name."""

    code: int
    found: dict[str, tuple[str, str]]
    estimates: dict[str, float]

    @property
    def failed(self) -> set[str]:
        return {check for check, (status, _) in self.found.items() if status == "FAILED"}


@pytest.fixture
def diagnose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Diagnose:
    def run(*arguments: object) -> Diagnosis:
        out, code = tmp_path / "doctor.json", 0
        try:
            main(["doctor", *map(str, arguments), "--out", str(out)])
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = json.loads(out.read_text())
        printed = capsys.readouterr().out
        for check in said["checks"]:
            assert f"{check['status']}" in printed
            assert check["text"] in printed
        return Diagnosis(
            code,
            {check["check"]: (check["status"], check["text"]) for check in said["checks"]},
            {estimate["what"]: estimate["amount"] for estimate in said["estimates"]},
        )

    return run


@pytest.fixture
def config(toy_config: Callable[..., Path], tmp_path: Path) -> Path:
    return toy_config(tmp_path / "run")


class Halves(ToyData):
    """Data that names its problems."""

    def __init__(self, sizes: list[int], halves: dict[str, list[str]]) -> None:
        super().__init__(sizes)
        self.halves = halves

    def splits(self) -> dict[str, dict[str, list[str]]]:
        return {task.name: self.halves for task in self.tasks}


class Broken(ToyModule):
    """A model that cannot be evaluated."""

    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        raise RuntimeError("the device is out of memory")


# Checks


def test_a_sound_evolution(diagnose: Diagnose, config: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    said = diagnose("--config", config, "--measure", "--full")
    assert (said.code, said.failed) == (0, set())
    assert said.found["expert task1"] == ("ok", said.found["expert task1"][1])
    assert "6 of 6 tensors differ" in said.found["expert task1"][1]
    assert said.found["batches"][1].startswith("26 + 10 + 1 a generation")
    assert said.found["environments"][0] == "skipped"
    assert said.estimates["time: the whole run"] > 27 * said.estimates["time: evaluate a child"] > 0
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "doctor.json"]), "nothing is left behind"


def test_all_damages_are_found_at_once(
    diagnose: Diagnose,
    config: Path,
    toy_models: tuple[Path, dict[str, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    weights = load_file(toy_models[1]["task1"] / FILE)
    for name, damage in {"shape": lambda w: w[:3], "nan": lambda w: w * float("nan")}.items():
        (tmp_path / name).mkdir()
        damaged = damage(weights["0.weight"]).contiguous()  # type: ignore[no-untyped-call]
        save_file({**weights, "0.weight": damaged}, tmp_path / name / FILE)
    experts = {"task0": tmp_path / "shape", "task1": tmp_path / "none", "task2": tmp_path / "nan"}
    (tmp_path / "file").touch()
    said = diagnose(
        *(
            "--config",
            config,
            "--full",
            "--measure",
            "--experts",
            json.dumps({k: str(v) for k, v in experts.items()}),
        ),
        *("--run", tmp_path / "file" / "run", "--final_rule", "best", "--wandb.mode", "online"),
        *("--trainer.accelerator", "cuda", "--trainer.devices", "4096", "--data.init_args.sizes", "[101, 0, 3]"),
    )
    assert said.code == 1
    expected = {
        "devices": "",
        "expert task0": "'0.weight' has shape (3, 6), the base has (8, 6)",
        "expert task1": "there is no model at",
        "expert task2: weights": "'0.weight' holds NaN",
        "strategy": "final_rule: expected one of aggregate",
        "batches": "must be positive, got 0",
        "wandb": "needs an API key",
        "run": "cannot write to",
    }
    assert said.failed == expected.keys()
    for check, text in expected.items():
        assert text in said.found[check][1]
    assert said.found["disk"] == ("skipped", "needs estimates, see above")
    assert said.found["evaluation"] == ("skipped", "the model is not known to fit into memory, see above")


@pytest.mark.parametrize("out", ["", "file/doctor.json"], ids=["a folder", "in a file"])
def test_a_report_that_cannot_be_written_is_refused_at_once(
    refuse: Callable[..., str], tmp_path: Path, out: str
) -> None:
    (tmp_path / "file").touch()
    assert str(tmp_path) in refuse("doctor", "--out", tmp_path / out)


def test_a_run_that_cannot_be_written_is_said_once(diagnose: Diagnose, config: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = diagnose("--config", config, "--run", tmp_path / "file" / "run", "--cache", tmp_path)
    assert said.failed == {"run"}
    assert said.found["disk"] == ("skipped", "needs run, see above")


def test_an_evaluation_that_breaks_hides_no_other_times(diagnose: Diagnose, config: Path) -> None:
    said = diagnose("--config", config, "--measure", "--model", f"{__name__}.Broken")
    assert said.failed == {"evaluation"}
    assert said.found["evaluation"][1] == "the device is out of memory"
    assert said.estimates["time: write a child"] > 0
    assert "time: the whole run" not in said.estimates


def test_an_expert_is_compared_in_float32() -> None:
    base = torch.ones(100, 2, dtype=torch.bfloat16)
    assert changed({"x": base}, {"x": base.float()}, ["x"]) == []
    assert changed({"x": base}, {"x": base.float() + 1e-4}, ["x"]) == ["x"]


def test_nothing_is_given(diagnose: Diagnose) -> None:
    said = diagnose()
    assert said.failed == {"model", "data", "run"}
    assert said.found["tasks and experts"] == ("skipped", "needs data, see above")


def test_a_base_that_is_missing(diagnose: Diagnose, config: Path, tmp_path: Path) -> None:
    said = diagnose("--config", config, "--model.init_args.base", tmp_path)
    assert said.failed == {"model"}
    assert said.found["expert task0"][0] == "skipped"


@pytest.mark.parametrize(
    ("halves", "expected"),
    [
        ({"optimisation": ["a"], "test": []}, "the test half of task task0 is empty"),
        ({"optimisation": ["a", "b"], "test": ["b"]}, "1 problems of task task2 are in both halves, such as 'b'"),
    ],
)
def test_halves_that_are_empty_or_overlap(
    diagnose: Diagnose, config: Path, halves: dict[str, list[str]], expected: str
) -> None:
    data = {"class_path": f"{__name__}.Halves", "init_args": {"sizes": [9, 5, 3], "halves": halves}}
    said = diagnose("--config", config, "--data", json.dumps(data))
    assert said.failed == {"problems"}
    assert expected in said.found["problems"][1]


def test_experts_of_other_tasks_and_experts_that_are_the_base(
    diagnose: Diagnose, config: Path, toy_models: tuple[Path, dict[str, Path]]
) -> None:
    base = str(toy_models[0])
    said = diagnose("--config", config, "--experts", json.dumps({"task0": base, "task9": base}))
    assert said.failed == {"tasks and experts"}
    said = diagnose("--config", config, "--experts", json.dumps(dict.fromkeys(["task0", "task1", "task2"], base)))
    assert said.code == 0
    assert said.found["tasks and experts"] == ("warning", "task0, task1, task2; two tasks have the same expert")
    assert "it is the base itself" in said.found["expert task0"][1]


def test_too_many_processes_for_the_batches(diagnose: Diagnose, config: Path) -> None:
    options = ("--trainer.devices", 30, "--data.init_args.sizes", "[9, 5, 3]")
    status, text = diagnose("--config", config, *options).found["batches"]
    assert status == "warning"
    assert text == (
        "3 + 2 + 1 a generation; the average of 30 processes has work 20% of the time; 6 would share them evenly; "
        "so may smaller batches"
    )


def test_a_disk_that_is_too_small(diagnose: Diagnose, config: Path) -> None:
    strategy = {"mutation": "gaussian", "generations": 10**13, "bins": 10**7}
    said = diagnose("--config", config, *(f"--strategy.init_args.{k}={v}" for k, v in strategy.items()))
    assert said.failed == {"disk"}
    assert "TB needed: free some" in said.found["disk"][1]


def test_a_run_that_exists_is_continued_or_refused(diagnose: Diagnose, config: Path, tmp_path: Path) -> None:
    save_json(tmp_path / "run" / "evolution" / "state" / "state.json", {})
    said = diagnose("--config", config)
    assert said.failed == {"run"}
    assert "already holds an evolution" in said.found["run"][1]
    said = diagnose("--config", config, "--ckpt_path", "last")
    assert said.found["run"] == ("ok", f"{tmp_path / 'run'} can be written to; continues what is there")


def test_pairs_are_evolutions_of_two(diagnose: Diagnose, config: Path) -> None:
    said = diagnose("--config", config, "--pairs", "true", "--measure")
    assert said.found["strategy"][1] == "CycleQD, 26 evaluations for each of 3 pairs"
    assert said.estimates["time: the whole run"] > 3 * 26 * said.estimates["time: write a child"]


def test_room() -> None:
    finding = Finding("memory")
    check_room(finding, "here", 80, 100, mend="buy some")
    assert (finding.status, finding.text) == ("ok", "100 B free here, about 80 B needed")
    check_room(finding, "here", 95, 100, mend="buy some")
    assert (finding.status, finding.text[-25:]) == ("warning", "; that is tight: buy some")
    with pytest.raises(ValueError, match="100 B free here, about 101 B needed: buy some"):
        check_room(finding, "here", 101, 100, mend="buy some")

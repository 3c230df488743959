"""The doctor finds every damage in one go, and its estimates are those of what is really written."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from cyqd.__main__ import main
from cyqd.evolution import CycleQD, ExpertSpace, GenomeStore
from cyqd.evolution.genome import CompactGenome
from cyqd.evolution.storage import save_json
from cyqd.training.bases import prepare_bases
from cyqd.training.doctor import Finding, changed, check_room, largest_even
from cyqd.training.estimates import Plan, bytes_text, seconds_text, shares
from cyqd.training.timing import AFFORDABLE, time_shapes
from tests.toy import FILE, ToyData

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
        *("--config", config, "--full", "--experts", json.dumps({k: str(v) for k, v in experts.items()})),
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
    assert "3 + 2 + 1 a generation, shared evenly by up to 6 processes; the average of 30 has work 20% of" in text


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


# Estimates

SHAPES = {"embed": (40, 12), "up": (12, 30), "kernel": (8, 3, 3, 3), "norm": (12,), "scale": (), "frozen": (9, 9)}


@pytest.fixture
def space() -> ExpertSpace:
    generator = torch.Generator().manual_seed(0)
    base = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    experts = [
        {name: w + torch.randn(w.shape, generator=generator) * (name != "frozen") for name, w in base.items()}
        for _ in range(3)
    ]
    return ExpertSpace(base, experts, ["a", "b", "c"])


def plan_of(space: ExpertSpace, **options: Any) -> Plan:
    strategy = CycleQD(generations=50, **options)
    strategy.setup(space, GenomeStore(Path("none"), space, writable=False), 0)
    names = [changed(space.base, expert, space.names) for expert in space.experts]
    return Plan(space, strategy, names, [[0, 1, 2]], weights=1000)


@pytest.mark.parametrize("rank", [None, 5])
def test_sizes_are_those_of_what_is_written(space: ExpertSpace, rank: int | None, tmp_path: Path) -> None:
    space.rank, space.identity = rank, "base a b c"
    plan = plan_of(space)
    assert plan.changed[0] == [name for name in SHAPES if name != "frozen"]
    prepare_bases(space, tmp_path / "bases")
    written = sum(file.stat().st_size for file in (tmp_path / "bases").rglob("*.safetensors"))
    assert plan.cache_bytes == pytest.approx(written, rel=0.1)
    store = GenomeStore(tmp_path / "genomes", space)
    store.save(0, CompactGenome(space, [0.3] * 3, [torch.ones(bases.size) for bases in space.bases]))
    assert plan.genome == pytest.approx((tmp_path / "genomes" / "000000.safetensors").stat().st_size, rel=0.1)


def test_a_dense_genome_is_a_task_vector(space: ExpertSpace, tmp_path: Path) -> None:
    GenomeStore(tmp_path, space).save(0, space.mean() + plan_of(space).strategy.space.origin())
    plan = plan_of(space, mutation="gaussian")
    assert plan.genome == 4 * sum(tensor.numel() for tensor in space.base.values())
    assert plan.cache_bytes == 0


@pytest.mark.parametrize(("generations", "kept"), [(50, 53), (5000, 3 + 3 * 15**2)])
def test_genomes_are_bounded_by_evaluations_and_by_cells(space: ExpertSpace, generations: int, kept: int) -> None:
    strategy = CycleQD(generations=generations)
    strategy.setup(space, GenomeStore(Path("none"), space, writable=False), 0)
    plan = Plan(space, strategy, [list(SHAPES)] * 3, [[0, 1, 2]], weights=0)
    assert next(e.amount for e in plan.sizes() if e.what == "disk: genomes") == kept * plan.genome


def test_resident_models_are_held_on_the_device(space: ExpertSpace) -> None:
    plan = plan_of(space)
    held = Plan(space, plan.strategy, plan.changed, plan.groups, weights=1000, resident=True)
    stored = sum(tensor.nbytes for tensor in space.base.values())
    assert held.device_bytes - plan.device_bytes == 4 * stored + plan.cache_bytes


@pytest.mark.parametrize("batches", [[7, 3, 1], [4, 4], [1, 1, 1]])
def test_shares_deal_every_batch_once(batches: Sequence[int]) -> None:
    for processes in range(1, 9):
        dealt = shares(batches, processes)
        assert [sum(column) for column in zip(*dealt, strict=True)] == list(batches)
        assert all(max(column) - min(column) <= 1 for column in zip(*dealt, strict=True))


def test_the_largest_number_of_processes_that_share_evenly() -> None:
    assert largest_even([8]) == 8
    assert largest_even([4, 4]) == 8
    assert largest_even([3, 2, 1]) == 6


def test_a_shape_that_is_costly_is_tried_smaller(
    space: ExpertSpace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    device = torch.device("cpu")
    options: dict[str, Any] = {"spectral": True, "dtype": torch.float32, "device": device}
    assert all(seconds > 0 for seconds in time_shapes(space, folder=tmp_path / "whole", **options))
    monkeypatch.setitem(AFFORDABLE, "cpu", 1e3)
    assert all(seconds > 0 for seconds in time_shapes(space, folder=tmp_path / "part", **options))
    whole, part = (
        sum(file.stat().st_size for file in (tmp_path / name).rglob("*.safetensors")) for name in ("whole", "part")
    )
    assert part < whole / 2


def test_amounts_are_written_for_people() -> None:
    assert [bytes_text(n) for n in (0, 999, 1.6e10, 3e15)] == ["0 B", "999 B", "16 GB", "3e+03 TB"]
    assert [seconds_text(n) for n in (0.0021, 5, 300, 9000, 5e5)] == [
        "2.1 ms",
        "5 s",
        "5 min",
        "2.5 h",
        "5.79 days",
    ]

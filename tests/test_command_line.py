"""Bad input ends with one clear message, exit code 2, and nothing written."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from cyqd.__main__ import main
from tests.toy import FILE

Config = Callable[..., Path]


def edited(config: Path, **keys: object) -> Path:
    content = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump({**content, **keys}))
    return config


def broken_expert(folder: Path, experts: dict[str, str], change: Callable[[dict[str, torch.Tensor]], None]) -> dict:
    tensors = load_file(Path(experts["task1"]) / FILE)
    change(tensors)
    folder.mkdir()
    save_file(tensors, folder / FILE)
    return {**experts, "task1": str(folder)}


@pytest.mark.parametrize("command", ["fit", "evolve", "test"])
def test_help_documents_every_key(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    output = capsys.readouterr().out
    for key in ("--config", "--seed", "--model", "--data", "--trainer.devices", "--ckpt_path"):
        assert key in output


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--sed", 1, "--sed"),
        ("--strategy.init_args.bin", 15, "bin"),
        ("--strategy.init_args.bins", "many", "bins"),
        ("--strategy.init_args.mutation", "svd", "mutation"),
        ("--strategy.init_args.bins", 0, "bins"),
        ("--trainer.max_epochs", 5, "max_epochs"),
        ("--final_rule", "best", "aggregate, gamma, best_mean"),
        ("--ckpt_path", "elsewhere", "ckpt_path"),
    ],
)
def test_a_wrong_option_is_named(
    refuse: Callable[..., str], toy_config: Config, tmp_path: Path, option: str, value: object, expected: str
) -> None:
    assert expected in refuse("evolve", "--config", toy_config(tmp_path / "run"), option, value)
    assert not (tmp_path / "run").exists()


def test_an_unknown_key_in_the_config_is_an_error(
    refuse: Callable[..., str], toy_config: Config, tmp_path: Path
) -> None:
    config = edited(toy_config(tmp_path / "run"), generations=3)
    assert "generations" in refuse("evolve", "--config", config)


def test_a_missing_config_is_named(refuse: Callable[..., str]) -> None:
    assert "nowhere.yaml" in refuse("evolve", "--config", "nowhere.yaml")


def test_a_missing_base_is_named(refuse: Callable[..., str], toy_config: Config, tmp_path: Path) -> None:
    message = refuse("evolve", "--config", toy_config(tmp_path / "run"), "--model.init_args.base", tmp_path / "no")
    assert str(tmp_path / "no") in message
    assert len(message.splitlines()) == 2, "the cause and where to find help, nothing else"


def test_experts_must_match_the_tasks(refuse: Callable[..., str], toy_config: Config, tmp_path: Path) -> None:
    config = toy_config(tmp_path / "run")
    experts = yaml.safe_load(config.read_text())["experts"]
    missing = {task: path for task, path in experts.items() if task != "task2"}
    assert "task2" in refuse("evolve", "--config", edited(config, experts=missing))
    absent = {**experts, "task1": str(tmp_path / "absent")}
    message = refuse("evolve", "--config", edited(config, experts=absent))
    assert "experts.task1" in message
    assert "absent" in message


def test_one_task_is_not_enough(refuse: Callable[..., str], toy_config: Config, tmp_path: Path) -> None:
    config = toy_config(tmp_path / "run")
    message = refuse("evolve", "--config", config, "--data.init_args.sizes", "[5]")
    assert "at least two tasks" in message


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t.pop("0.weight"), "'0.weight' is missing"),
        (lambda t: t.update(extra=torch.zeros(2)), "'extra' is not in the base"),
        (lambda t: t.update({"2.bias": torch.zeros(7)}), "'2.bias' has shape (7,), the base has (6,)"),
        (lambda t: t["2.bias"].fill_(float("nan")), "'2.bias' holds NaN or infinite values"),
        (lambda t: t["0.weight"].fill_(float("inf")), "'0.weight' holds NaN or infinite values"),
    ],
    ids=["missing tensor", "extra tensor", "shape", "NaN", "infinite"],
)
def test_an_expert_that_does_not_fit_the_base_is_named(
    refuse: Callable[..., str],
    toy_config: Config,
    tmp_path: Path,
    change: Callable[[dict[str, torch.Tensor]], None],
    expected: str,
) -> None:
    config = toy_config(tmp_path / "run")
    experts = yaml.safe_load(config.read_text())["experts"]
    message = refuse("evolve", "--config", edited(config, experts=broken_expert(tmp_path / "bad", experts, change)))
    assert expected in message
    assert "task1" in message
    assert not (tmp_path / "run").exists()


def test_the_same_model_twice_is_refused(refuse: Callable[..., str], toy_config: Config, tmp_path: Path) -> None:
    config = toy_config(tmp_path / "run")
    expert = yaml.safe_load(config.read_text())["experts"]["task0"]
    assert "different folders" in refuse("test", "--config", config, "--models", expert, expert)


def test_a_missing_device_is_one_message(refuse: Callable[..., str], toy_config: Config, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without a CUDA device")
    assert "gpu backend" in refuse(
        "evolve", "--config", toy_config(tmp_path / "run"), "--trainer.accelerator", "gpu"
    )


def test_what_only_the_set_up_finds_is_one_message_too(
    refuse: Callable[..., str], toy_config: Config, tmp_path: Path
) -> None:
    message = refuse("evolve", "--config", toy_config(tmp_path / "run"), "--data.init_args.batch_size", 0)
    assert "batch_size must be positive" in message


def test_models_are_scored_on_the_test_split(
    cyqd: Callable[..., subprocess.CompletedProcess[str]],
    toy_config: Config,
    reference_run: Path,
    tmp_path: Path,
) -> None:
    config = toy_config(tmp_path / "run")
    experts = list(yaml.safe_load(config.read_text())["experts"].values())
    done = cyqd(
        "test", "--config", config, "--models", *experts, reference_run / "model", "--out", tmp_path / "out"
    )
    text = (tmp_path / "out" / "results.md").read_text()
    assert text.strip() in done.stdout
    table, _ = text.split("\n\n")  # the second one holds the measures
    reference = (reference_run / "results.md").read_text().split("\n\n")[0].splitlines()
    rows = {line.split("|")[1].strip(): line.split("|")[2:] for line in [*reference, *table.splitlines()]}
    cells = {name: [cell.strip() for cell in row] for name, row in rows.items()}
    assert cells[experts[0]] == cells["expert task0"]
    assert cells[str(reference_run / "model")] == cells["CycleQD aggregate"]

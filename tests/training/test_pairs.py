"""Every pair of experts evolved by one command, resumable, each pair a run of its own."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest

from cyqd.__main__ import main
from cyqd.training.pictures import extremes
from tests.conftest import ROOT, command, environment
from tests.training.test_resume import assert_same_run, history, wait_for_lines

Config = Callable[..., Path]
TASKS = ["task0", "task1", "task2"]
PAIRS = ["+".join(pair) for pair in combinations(TASKS, 2)]


@pytest.fixture(scope="module")
def pairs_run(
    toy_config: Config,
    tmp_path_factory: pytest.TempPathFactory,
    cyqd: Callable[..., subprocess.CompletedProcess[str]],
) -> Path:
    run = tmp_path_factory.mktemp("pairs") / "run"
    done = cyqd("evolve", "--config", toy_config(run, generations=6), "--pairs", "true")
    assert (run / "pairs.md").read_text() in done.stdout
    assert "pair 3 of 3: task1 + task2" in done.stdout
    return run


def test_every_pair_is_a_run_of_two_tasks(pairs_run: Path) -> None:
    assert sorted(path.name for path in pairs_run.iterdir()) == sorted(
        [*PAIRS, "pairs.json", "pairs.md", "pairs.png"]
    )
    for pair in PAIRS:
        records = history(pairs_run / pair)
        assert len(records) == 2 + 6
        assert all(list(record["scores"]) == pair.split("+") for record in records)
        similarity = json.loads((pairs_run / pair / "similarity.json").read_text())["pairs"]
        assert list(similarity) == [pair]
        assert 0 < similarity[pair]["similarity"] <= 1
    compared = json.loads((pairs_run / "pairs.json").read_text())
    assert ["+".join(row["pair"]) for row in compared["pairs"]] == PAIRS
    assert compared["correlation"]["CycleQD aggregate"]["n"] == 3


def test_a_pair_is_what_evolving_only_its_experts_gives(
    toy_config: Config, pairs_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    main(["evolve", "--config", str(toy_config(run, generations=6)), "--only", '["task2", "task0"]'])
    assert_same_run(run, pairs_run / "task0+task2")


def test_a_pairs_own_config_runs_it_again(
    toy_config: Config, pairs_run: Path, tmp_path: Path, cyqd: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    run = tmp_path / "run"
    config = pairs_run / "task1+task2" / "config.yaml"
    cyqd("evolve", "--config", config, "--run", run)
    assert_same_run(run, pairs_run / "task1+task2")


@pytest.mark.slow
def test_pairs_on_two_processes_are_the_same(
    toy_config: Config, pairs_run: Path, tmp_path: Path, cyqd: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    run = tmp_path / "run"
    logger = json.dumps(
        {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": str(tmp_path)}}
    )
    options = ["--pairs", "true", "--trainer.devices", 2, "--trainer.logger", logger]
    cyqd("evolve", "--config", toy_config(run, generations=6), *options)
    for pair in PAIRS:
        assert_same_run(run / pair, pairs_run / pair)
    logs = sorted(tmp_path.glob("lightning_logs/version_*/metrics.csv"))
    assert [len(log.read_text().splitlines()) for log in logs] == [1 + 2 + 6] * 3


def test_ctrl_c_ends_after_the_pair_at_hand(toy_config: Config, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = toy_config(run, generations=100_000)
    with subprocess.Popen(
        command("evolve", "--config", config, "--pairs", "true"),
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.PIPE,
    ) as process:
        wait_for_lines(run / PAIRS[0] / "history.jsonl", 6, process)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"interrupted in {run / PAIRS[0]}" in errors.decode()
    assert (run / PAIRS[0] / "results.md").exists()
    assert not (run / PAIRS[1] / "history.jsonl").exists()


def test_what_was_stopped_in_the_second_pair_continues_there(
    toy_config: Config, pairs_run: Path, tmp_path: Path, cyqd: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    run = tmp_path / "run"
    config = toy_config(run, generations=6)
    main(["evolve", "--config", str(config), "--only", '["task0", "task1"]', "--run", str(run / "task0+task1")])
    part = ["--only", '["task0", "task2"]', "--run", str(run / "task0+task2")]
    main(["evolve", "--config", str(config), *part, "--strategy.init_args.generations", "2"])
    cyqd("evolve", "--config", config, "--pairs", "true", "--ckpt_path", run, "--cache", run.parent / "cache")
    for pair in PAIRS:
        assert_same_run(run / pair, pairs_run / pair)
    assert (run / "pairs.md").read_text() == (pairs_run / "pairs.md").read_text()


def test_pairs_are_not_overwritten_and_tasks_must_exist(
    toy_config: Config, pairs_run: Path, tmp_path: Path, refuse: Callable[..., str]
) -> None:
    config = toy_config(pairs_run)
    assert "task0+task1 already holds" in refuse("evolve", "--config", config, "--pairs", "true")
    config = toy_config(tmp_path / "run")
    assert "'task9'" in refuse("evolve", "--config", config, "--only", '["task0", "task9"]')
    assert "at least two" in refuse("evolve", "--config", config, "--only", '["task0"]')
    assert "every task once" in refuse("evolve", "--config", config, "--only", '["task0", "task1", "task1"]')


def test_the_largest_gains_and_losses_are_chosen() -> None:
    expert = {"a/1": 0.5, "a/2": 0.5, "a/3": 0.5, "a/4": 0.5, "a/5": 0.5, "b/1": 0.0}
    merged = {"a/1": 0.9, "a/2": 0.1, "a/3": 0.5, "a/4": 0.6, "a/5": 0.7, "b/1": 1.0}
    assert extremes(expert, merged, "a", count=2) == pytest.approx({"a/1": 0.4, "a/5": 0.2, "a/2": -0.4})
    assert extremes(expert, merged, "b", count=2) == {"b/1": 1.0}
    assert extremes(expert, expert, "a", count=2) == {}

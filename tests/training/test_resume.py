"""A killed run continues to the same archive, history and result, bit for bit."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cyqd.__main__ import main
from tests.conftest import ROOT, Domain, command, environment

Config = Callable[..., Path]
Command = Callable[..., subprocess.CompletedProcess[str]]


def history(run: Path) -> list[dict[str, Any]]:
    """Everything but the seconds, which no run repeats."""
    records = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def files(run: Path) -> dict[str, bytes]:
    """Archives, genomes, final model and results table."""
    paths = [*(run / "evolution" / "state").rglob("*"), *(run / "model").iterdir(), run / "results.md"]
    return {str(path.relative_to(run)): path.read_bytes() for path in paths if path.is_file()}


def assert_same_run(first: Path, second: Path) -> None:
    assert history(first) == history(second)
    assert files(first) == files(second)


def wait_for_lines(path: Path, lines: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() or len(path.read_bytes().splitlines()) < lines:
        assert process.poll() is None, "the run ended early"
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize("domain", ["toy"], indirect=True)
def test_killed_at_every_moment_of_saving(cyqd: Command, domain: Domain, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    config = domain.config(run)
    moments = [
        ("state/state.json:before", 1),  # the first expert is scored but not saved
        ("state/genomes:before", 4),
        ("state/genomes:after", 2),
        ("state/state.json:before", 3),  # with a torn line in the history
        ("state/state.json:after", 3),  # before displaced genomes are deleted
        ("test-000027/state.json:before", 4),  # while the final models are scored
    ]
    for moment, count in moments:
        arguments = ["evolve", "--config", str(config), "--ckpt_path", "last"]
        done = subprocess.run(
            [sys.executable, "-m", "tests.training.killing", moment, str(count), *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment(),
            timeout=120,
        )
        assert done.returncode == -signal.SIGKILL, (moment, done.stderr)
    cyqd("evolve", "--config", config, "--ckpt_path", "last")
    assert_same_run(undisturbed, run)


@pytest.mark.slow
@pytest.mark.parametrize("domain", ["segmentation"], indirect=True)
def test_killed_at_random_from_outside(cyqd: Command, domain: Domain, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    config = domain.config(run)
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # shown where the test fails
    moments = random.Random(seed)
    for lines in sorted(moments.sample(range(1, 27), 3)):
        with subprocess.Popen(
            command("evolve", "--config", config, "--ckpt_path", "last"),
            cwd=ROOT,
            env=environment(),
            stderr=subprocess.DEVNULL,
        ) as process:
            wait_for_lines(run / "history.jsonl", lines, process)
            time.sleep(moments.random() * 0.03)
            process.kill()
    cyqd("evolve", "--config", config, "--ckpt_path", run)
    assert_same_run(undisturbed, run)


@pytest.mark.parametrize("domain", ["toy"], indirect=True)
def test_ctrl_c_ends_with_what_there_is_and_continues(
    cyqd: Command, domain: Domain, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "interrupted"
    config = domain.config(run, generations=100_000)
    with subprocess.Popen(
        command("evolve", "--config", config), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        wait_for_lines(run / "history.jsonl", 6, process)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "CycleQD best_mean" in output
    done = json.loads((run / "results.json").read_text())["evaluations"]
    assert done == len(history(run)) < 27, "the test machine was too slow to interrupt in time"
    assert history(run) == history(undisturbed)[:done]
    cyqd("evolve", "--config", config, "--strategy.init_args.generations", 24, "--ckpt_path", "last")
    assert_same_run(undisturbed, run)


def test_a_run_is_not_overwritten_nor_continued_under_other_settings(
    refuse: Callable[..., str], domain: Domain, undisturbed: Path
) -> None:
    config = domain.config(undisturbed)
    before = files(undisturbed)
    assert "already holds an evolution" in refuse("evolve", "--config", config)
    assert "seed" in refuse("evolve", "--config", config, "--ckpt_path", "last", "--seed", 5)
    other = ["--strategy.init_args.bins", 7]
    assert "bins = 15" in refuse("evolve", "--config", config, "--ckpt_path", "last", *other)
    data = domain.other_data
    assert "`data` is no longer" in refuse("evolve", "--config", config, "--ckpt_path", "last", *data)
    precise = ["--trainer.precision", "64-true"]
    assert "trainer.precision" in refuse("evolve", "--config", config, "--ckpt_path", "last", *precise)
    assert "ckpt_path" in refuse("evolve", "--config", config, "--ckpt_path", undisturbed / "nowhere")
    assert files(undisturbed) == before


def test_a_run_of_truncated_bases_continues(toy_config: Config, tmp_path: Path, refuse: Callable[..., str]) -> None:
    run = tmp_path / "run"
    config = toy_config(run, generations=2)
    arguments = ["evolve", "--config", str(config), "--ckpt_path", "last", "--rank", "2"]
    main(arguments)
    main([*arguments, "--strategy.init_args.generations", "4"])
    assert len(history(run)) == 7
    assert "rank = 2" in refuse("evolve", "--config", config, "--ckpt_path", "last")

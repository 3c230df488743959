"""One, two and three processes give the same scores and the same archive, to the last bit."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Domain
from tests.training.test_resume import assert_same_run, history


@pytest.mark.slow
@pytest.mark.parametrize(("domain", "processes"), [("toy", 3), ("segmentation", 2)], indirect=["domain"])
def test_any_number_of_processes_gives_the_same_run(
    cyqd: Callable[..., subprocess.CompletedProcess[str]],
    domain: Domain,
    undisturbed: Path,
    tmp_path: Path,
    processes: int,
) -> None:
    run = tmp_path / "run"
    cyqd("evolve", "--config", domain.config(run), "--trainer.devices", processes)
    # 26, 10 and 1 batches or 7, 5 and 1: the last task has fewer batches than there are processes.
    assert history(run)[0]["n"] == domain.sizes
    assert_same_run(undisturbed, run)


def test_processes_with_different_problems_are_refused(
    cyqd: Callable[..., subprocess.CompletedProcess[str]], toy_config: Callable[..., Path], tmp_path: Path
) -> None:
    config = toy_config(tmp_path / "run")
    other = ["--trainer.devices", 2, "--data.class_path", "tests.training.divided.DividedData"]
    done = cyqd("evolve", "--config", config, *other, "--data.init_args.sizes", "[9, 5, 6]", check=False)
    assert done.returncode != 0
    assert "process 1 has other problems" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "history.jsonl").exists()

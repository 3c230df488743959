"""Shared fixtures: a toy domain's base and experts, and its command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from cyqd.__main__ import main
from tests.sam.domain import SIZES, make_domain
from tests.toy import make_models

ROOT = Path(__file__).parents[1]
os.environ.setdefault("WANDB_MODE", "disabled")  # tests that are about W&B ask for it
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")  # pyribs: compiling takes longer than all that is computed here


@pytest.fixture(scope="session")
def toy_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    return make_models(tmp_path_factory.mktemp("toy"), tasks=3)


class Domain(NamedTuple):
    """What the engine's tests need to know of a domain.

    ``parts`` are the config's model, data and experts; ``sizes`` how many problems of each task are scored in the
    optimisation half; ``other_data`` is an option of its data that changes what is evaluated.
    """

    folder: Path
    parts: dict[str, Any]
    sizes: dict[str, int]
    other_data: tuple[str, object]

    def config(self, run: Path, *, generations: int = 24, **strategy: object) -> Path:
        """Write an evolve config; ``strategy`` replaces the strategy's arguments."""
        config = {
            **self.parts,
            "strategy": {
                "class_path": "cyqd.evolution.CycleQD",
                "init_args": {"generations": generations, **strategy},
            },
            "run": str(run),
            "cache": str(self.folder / "singular_bases"),
            "reuse_scores": False,  # every test's run does its own work
            "trainer": {"accelerator": "cpu", "devices": 1},
        }
        path = run.with_suffix(".yaml")
        path.write_text(yaml.safe_dump(config))
        return path


@pytest.fixture(scope="session")
def toy(toy_models: tuple[Path, dict[str, Path]]) -> Domain:
    base, experts = toy_models
    parts = {
        "model": {"class_path": "tests.toy.ToyModule", "init_args": {"base": str(base)}},
        "data": {"class_path": "tests.toy.ToyData", "init_args": {"sizes": [101, 37, 3]}},
        "experts": {task: str(path) for task, path in experts.items()},
    }
    sizes = {"task0": 101, "task1": 37, "task2": 3}
    return Domain(base.parent, parts, sizes, ("--data.init_args.batch_size", 5))


@pytest.fixture(scope="session")
def segmentation(tmp_path_factory: pytest.TempPathFactory) -> Domain:
    folder = tmp_path_factory.mktemp("segmentation")
    sizes = {f"task{k}": (size + 1) // 2 for k, size in enumerate(SIZES)}
    return Domain(folder, make_domain(folder), sizes, ("--data.init_args.eval_batch_size", 3))


@pytest.fixture(scope="session", params=["toy", "segmentation"])
def domain(request: pytest.FixtureRequest) -> Domain:
    """Every domain that is small enough for the engine's tests."""
    found: Domain = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def toy_config(toy: Domain) -> Callable[..., Path]:
    """Write an evolve config of the toy domain."""
    return toy.config


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "cyqd", *map(str, arguments)]


def environment() -> dict[str, str]:
    """One thread, so that a process computes the same bits whatever the number of its fellows."""
    # A child that knew of this process' W&B service would join it.
    own = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    return {**own, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="session")
def cyqd() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a process of its own, as a user does."""

    def run(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command(*arguments), capture_output=True, text=True, env=environment(), cwd=ROOT, timeout=240
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def reference_run(cyqd: Callable[..., object], toy: Domain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy evolution that nothing disturbed, on one process."""
    run = tmp_path_factory.mktemp("reference") / "run"
    cyqd("evolve", "--config", toy.config(run))
    return run


@pytest.fixture(scope="session")
def undisturbed(
    cyqd: Callable[..., object],
    domain: Domain,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The same of every domain."""
    if domain is request.getfixturevalue("toy"):
        run: Path = request.getfixturevalue("reference_run")
    else:
        run = tmp_path_factory.mktemp("reference") / "run"
        cyqd("evolve", "--config", domain.config(run))
    return run


@pytest.fixture
def refuse(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must be refused; return its message."""

    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as stop:
            main(list(map(str, arguments)))
        assert stop.value.code == 2
        message = capfd.readouterr().err
        assert "Traceback" not in message
        return message

    return run

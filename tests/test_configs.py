"""Every shipped config starts with what it is and the line that runs it, and parses without unknown keys."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from cyqd.commands import available
from cyqd.commands.experiment import check_commands
from cyqd.training.experiment import read_experiment
from tests.conftest import ROOT

CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_config_parses_and_says_how_to_run_it(path: Path) -> None:
    header = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    command = re.search(rf"python -m cyqd (\w+)( --config)? {path.relative_to(ROOT)}", header)
    assert command, "the header does not name the command that runs this file"
    if command[1] == "experiment":
        check_commands(read_experiment(path).cells())
        return
    assert command[2]
    module, _ = available()[command[1]]
    config = importlib.import_module(module).parser().parse_args(["--config", str(path)])
    assert config.model.class_path.startswith("cyqd.")

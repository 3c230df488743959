"""What several commands share."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from cyqd.evolution.storage import atomic_path
from cyqd.report.tables import markdown_table
from cyqd.training import EvolvableModule
from cyqd.training.run import is_first_process


class Parser(ArgumentParser):
    """Says what is wrong in one message, without the pages of usage before it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End with exit code 2; with ``exit_on_error`` unset, raise a ValueError."""
        if not self.exit_on_error:
            raise ValueError(_innermost(message))
        prog = self.prog if self.prog.startswith("python") else "python -m cyqd"  # a class's own parser has none
        print(f"error: {_innermost(message)}\nhelp: {prog.replace(' [options]', '')} --help", file=sys.stderr)
        raise SystemExit(2)


def _innermost(message: str) -> str:
    """Return what is wrong out of a message of nested causes, each of which repeats all that it was given."""
    causes = [line.strip().removeprefix("- ") for line in message.splitlines() if line.lstrip().startswith("- ")]
    noise = ("Does not validate", "Expected a <class 'NoneType'>")
    causes = [cause for cause in causes if not cause.startswith(noise)]
    return "\n".join(causes) if causes and "Errors:" in message else message


def model_parser(description: str, *, required: Collection[str] = ("model", "data")) -> Parser:
    """Return the arguments of every command that takes a model and data."""
    classes = (
        "Arguments of a class: for example --strategy.help cyqd.evolution.CycleQD; likewise --model.help CLASS."
    )
    parser = Parser(description=f"{description} {classes}")
    parser.add_argument("--config", action="config", help="YAML file with any of the arguments below")
    parser.add_argument("--seed", type=int, default=0, help="seed of all randomness")
    parser.add_argument(
        "--threads", type=PositiveInt, help="CPU threads per process; PyTorch's default, all cores, if not given"
    )
    parser.add_subclass_arguments(EvolvableModule, "model", required="model" in required)
    parser.add_subclass_arguments(L.LightningDataModule, "data", required="data" in required)
    return parser


def task_names(data: L.LightningDataModule) -> list[str]:
    """Return the names of the tasks that a data module has, if any."""
    return [task.name for task in getattr(data, "tasks", ())]


def save_config(folder: Path, config: str) -> None:
    """Write what ran, complete."""
    if is_first_process():
        with atomic_path(folder / "config.yaml") as temporary:
            temporary.write_text(config, encoding="utf-8")


def show(rows: Sequence[Mapping[str, Any]], where: str) -> None:
    """Print a results table and where it lies."""
    if is_first_process():
        print(f"\n{markdown_table(rows)}\n\n{where}")

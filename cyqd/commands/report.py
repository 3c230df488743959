"""Write the page of a run, finished or not: one HTML file that opens from disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jsonargparse import Namespace

from cyqd.commands._common import Parser
from cyqd.report.page import write_page
from cyqd.report.record import read_run
from cyqd.training.run import SetupError


def parser() -> Parser:
    """Return the arguments of ``report``."""
    parser = Parser(description="Write the page of a run, finished or not: one HTML file that opens from disk.")
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--out", type=Path, help="file to write; RUN/report.html by default")
    parser.add_argument("--wandb", action="store_true", help="also build a W&B Report of a run that was tracked")
    return parser


def prepare(config: Namespace, parser: Parser) -> Callable[[], object]:
    """Prepare ``report``."""
    run = read_run(config.run)  # a folder without a run, or a damaged one, is told before any work
    if config.out and config.out.is_dir():
        raise ValueError(f"out: expected a file to write, got the folder {config.out}; name a file in it")
    if config.wandb:
        from cyqd.report.workspace import write_workspace_report  # needs an optional package

    def work() -> None:
        print(f"page: {write_page(config.run, config.out)}")
        if config.wandb:
            try:
                print(write_workspace_report(run))
            except (ValueError, OSError) as error:  # the run was not tracked, or W&B cannot be reached
                raise SetupError(str(error)) from error

    return work

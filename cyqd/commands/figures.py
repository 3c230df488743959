"""Draw a run's figures for papers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from jsonargparse import Namespace

from cyqd.commands._common import Parser
from cyqd.report.figures import draw_figures
from cyqd.report.record import read_run


def parser() -> Parser:
    """Return the arguments of ``figures``."""
    parser = Parser(
        description="Draw a run's figures for papers, one column wide: archives, scores over generations, lineage "
        "of the model of best mean score, results, similarity, seconds. The run may still be going on."
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--out", type=Path, help="folder to write to; `run`/figures by default")
    parser.add_argument(
        "--formats",
        type=Literal["png", "svg", "pdf", "eps"],
        nargs="+",
        default=["png", "svg"],
        help="kinds of files; in svg, text stays text",
    )
    return parser


def prepare(config: Namespace, parser: Parser) -> Callable[[], object]:
    """Prepare ``figures``."""
    run = read_run(config.run)
    if not run.evaluations:
        raise ValueError(f"{config.run}: no model has been scored yet, so there is nothing to draw")
    out: Path = config.out or config.run / "figures"

    def work() -> None:
        for file in draw_figures(run, out, config.formats):
            print(file)

    return work

"""Draw a run's figures for papers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from jsonargparse import Namespace

from cyqd.commands._common import Parser
from cyqd.report.figures.run import run_figures
from cyqd.report.figures.style import COLUMN, save
from cyqd.report.record import read_run


def parser() -> Parser:
    """Return the arguments of ``figures``."""
    parser = Parser(
        description="Draw a run's figures for papers: archives, scores over generations, a model's lineage, "
        "results, the experts' similarity and how much of their scores merging kept, seconds. They are one column "
        f"wide ({COLUMN} inches), and wider where they hold more: archives of five tasks two columns, of more "
        "tasks wider still; matrices and layers by the number and names of the models. The run may still be "
        "going on."
    )
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--out", type=Path, help="folder to write to; `run`/figures by default")
    parser.add_argument(
        "--generations", type=int, nargs="+", default=[], help="draw the archives as they were after these, too"
    )
    parser.add_argument(
        "--model", type=int, help="whose lineage to draw, its number; the elite's of best mean score by default"
    )
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
    if out.exists() and not out.is_dir():
        raise ValueError(f"out: expected a folder, got the file {out}")
    figures = run_figures(run, generations=config.generations, model=config.model)

    def work() -> None:
        for name, figure in figures.items():
            print(*save(figure, out / name, formats=config.formats), sep="\n")

    return work

"""Run methods × seeds and compare them in one table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt
from tqdm import tqdm

from cyqd.commands import evolve, test
from cyqd.commands._common import Parser
from cyqd.report.experiment import compare_methods, read_cell
from cyqd.report.experiment_tables import write_comparison
from cyqd.training.batch import become, run_batch
from cyqd.training.experiment import Cell, Experiment, Job, check_unchanged, read_experiment

JobKind = TypeVar("JobKind", bound=Job)


def parser() -> Parser:
    """Return the arguments of ``experiment``."""
    parser = Parser(
        description="Run methods × seeds, each cell one command, and compare the methods in one table. What is "
        "finished is not run again, so a second start continues the first."
    )
    parser.add_argument("file", type=Path, help="the experiment: docs/experiments.md says what is in it")
    parser.add_argument("--jobs", type=PositiveInt, default=1, help="commands to run at a time on this machine")
    parser.add_argument("--list", action="store_true", help="print all commands, as a shell runs them, and end")
    parser.add_argument("--prepare", type=bool, default=False, help="run the preparing commands only")
    parser.add_argument("--cell", type=NonNegativeInt, help="run this cell only, by its number in --list, and end")
    parser.add_argument("--tables", type=bool, default=False, help="only write the tables of what has finished")
    parser.add_argument("--reference", help="the method to compare the others with, in place of the file's")
    return parser


def prepare(config: Namespace, parser: Parser) -> Callable[[], object]:
    """Prepare ``experiment``: all commands are read as they would be when run, so that none has a wrong option."""
    experiment = read_experiment(config.file, reference=config.reference)
    stages, cells = experiment.preparations(), experiment.cells()
    check_commands(cells)
    if config.list:
        return lambda: print("\n".join(_listed([job for stage in stages for job in stage], cells)))
    check_unchanged(cells)
    logs = experiment.folder / "logs"
    if config.cell is not None:
        if config.cell >= len(cells):
            raise ValueError(f"cell: expected 0 to {len(cells) - 1}, got {config.cell}")
        cell = cells[config.cell]
        needed = [job for stage in stages for job in stage if job.seed in (None, cell.seed) and not job.done]
        if needed:
            raise ValueError(f"cell: {cell.name} needs this first (--prepare true does it):\n{needed[0].line}")
        return lambda: _one(cell, logs)

    def work() -> None:
        well = config.tables or _run(stages, [] if config.prepare else cells, logs, config.jobs)
        if not config.prepare:
            print(_tables(experiment, cells))
        if not well:
            raise SystemExit(1)

    return work


def check_commands(cells: Sequence[Cell]) -> None:
    """Check the commands of one cell of each method; the others differ in the seed alone.

    Raises:
        ValueError: naming every method whose options are wrong.
    """
    first = {cell.method: cell for cell in reversed(cells)}
    problems = []
    for method, cell in reversed(first.items()):
        parser = test.parser() if cell.models else evolve.parser()
        parser.exit_on_error = False
        try:
            parser.parse_args(list(cell.arguments[2:]))
        except ValueError as error:
            problems.append(f"{method}: {error}")
    if problems:
        raise ValueError("\n".join(problems))


def _listed(preparations: Sequence[Job], cells: Sequence[Cell]) -> list[str]:
    lines = ["# preparing, in this order", *(job.line for job in preparations)] if preparations else []
    numbered = [f"{cell.line}  # cell {number}: {cell.name}" for number, cell in enumerate(cells)]
    return [*lines, "# cells, in any order", *numbered]


def _one(cell: Cell, logs: Path) -> None:
    if cell.done:
        print(f"{cell.name} has finished: {cell.folder}")
        return
    become(cell, logs)


def _run(stages: Sequence[Sequence[Job]], cells: Sequence[Cell], logs: Path, jobs: int) -> bool:
    """Run what has not been done, without what needs something that failed; return whether all went well."""
    unmade: list[Job] = []
    for stage in stages:
        unmade += run_batch(_ready(stage, unmade), logs, at_once=jobs, title="preparing")
    failed = run_batch(_ready(cells, unmade), logs, at_once=jobs)
    return not unmade and not failed


def _ready(jobs: Sequence[JobKind], unmade: Sequence[Job]) -> list[JobKind]:
    """Return the jobs that are still to do and do not need what could not be made for their seed, or for all."""
    found = []
    for job in jobs:
        needs = next((other for other in unmade if job.seed == other.seed or None in (job.seed, other.seed)), None)
        if needs and not job.done:
            tqdm.write(f"not run: {job.name}, since {needs.name} failed", file=sys.stderr)
        elif not job.done:
            found.append(job)
    return found


def _tables(experiment: Experiment, cells: Sequence[Cell]) -> str:
    """Write the tables of the cells that have finished; return what to print."""
    missing = [cell.name for cell in cells if not cell.done]
    if len(missing) == len(cells):
        return "no cell has finished yet, so there is no table"
    records = [read_cell(cell.method, cell.seed, cell.folder, cell.models) for cell in cells if cell.done]
    comparison = compare_methods(records, experiment.reference, budget=experiment.budget, missing=missing)
    return f"\n{write_comparison(experiment.folder, comparison)}\ntables: {experiment.folder}"

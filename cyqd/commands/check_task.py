"""Play gold, empty and wrong replies through the tasks of a config, with no model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lightning as L
from jsonargparse import Namespace
from tqdm import tqdm

from cyqd.commands import evolve
from cyqd.commands._common import Parser
from cyqd.evolution.storage import save_json
from cyqd.report.tables import align
from cyqd.training.run import SetupError


def parser() -> Parser:
    """Return the arguments of ``check-task``: those of ``evolve``, of which only ``data`` is needed and used."""
    parser = evolve.parser(required=("data",))
    parser.description = (
        "Check the tasks of a config without any model: gold replies must solve every problem, empty and wrong "
        "ones none. Environments are the real ones. Ends with exit code 1 where that is not so, or something broke."
    )
    parser.add_argument(
        "--out", type=Path, help="folder to write check.json to, and broken.json, which a task's `exclude` takes"
    )
    return parser


def prepare(config: Namespace, parser: Parser) -> Callable[[], object]:
    """Prepare ``check-task``; the config's model is not loaded."""
    only = Parser()
    only.add_subclass_arguments(L.LightningDataModule, "data")
    data = only.instantiate(Namespace(data=config.data)).data  # type: ignore[no-untyped-call]
    if not hasattr(data, "check_tasks"):
        raise ValueError(f"data: {type(data).__name__} has no tasks that replies could be played through")
    out: Path | None = config.out

    def work() -> None:
        try:
            with tqdm(desc="check", unit="problem") as bar:
                checks = list(data.check_tasks(bar.update))
        except (RuntimeError, OSError) as error:  # there is no sandbox, no daemon or no server
            raise SetupError(str(error)) from error
        lines = [
            [
                check.task,
                check.kind,
                f"{len(check.scores) - len(check.suspicious)}/{len(check.scores)}",
                str(len(check.faults)),
                str(len(check.retries)),
                f"{check.seconds / max(len(check.scores), 1):.3f}",
            ]
            for check in checks
        ]
        header = ["task", "replies", "judged as they should be", "faults", "retries", "seconds per problem"]
        print(align(header, lines))
        for check in checks:
            if check.suspicious:
                verb = "do not solve" if check.kind == "gold" else "solve"
                print(f"{check.task}: {check.kind} replies {verb} {', '.join(check.suspicious)}")
            if not check.scores:
                print(f"{check.task}: no problem names {check.kind} replies, so nothing was checked")
            for problem, reason in check.faults.items():
                print(f"{check.task}/{problem}: {reason}")
        if out:
            save_json(out / "check.json", [check.row() for check in checks])
            broken = {  # what an environment did wrong says nothing about a problem
                check.task: [problem for problem in check.suspicious if problem not in check.faults]
                for check in checks
                if check.kind == "gold"
            }
            save_json(out / "broken.json", broken)
        if any(check.suspicious or check.faults for check in checks):
            raise SystemExit(1)

    return work

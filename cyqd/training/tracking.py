"""Runs as Weights & Biases shows them: one W&B run per evolution or fit, its step the generation.

What imports wandb is imported where it is used: that takes a second, which no run shall pay that is not tracked.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import lightning as L
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from cyqd.evolution.storage import load_json, save_json
from cyqd.report.metrics import generation_metrics
from cyqd.report.record import STATE, read_run
from cyqd.training.run import SetupError, is_first_process

Mode = Literal["online", "offline", "disabled"]


@dataclass
class Wandb:
    """What is logged to Weights & Biases, and where.

    Args:
        mode: "online" needs an account, "offline" writes to RUN/wandb for a later `wandb sync`, "disabled" nothing;
            by default what WANDB_MODE says, else offline.
        project: the runs' project.
        entity: user or team; your own by default.
        group: shown together; the folder's name for pairs.
        tags: of the run.
        every: generations from one picture and table of the archives to the next.
        artifacts: keep genomes, archives and the final model as artifacts too; online they are uploaded.
    """

    mode: Mode | None = None
    project: str = "cyqd"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    every: int = 50
    artifacts: bool = True

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"wandb.every: expected at least 1 generation, got {self.every}")

    def chosen_mode(self) -> Mode:
        """Return the mode, WANDB_MODE considered.

        Raises:
            ValueError: if WANDB_MODE says something else.
        """
        if self.mode is not None:
            return self.mode
        said = os.environ.get("WANDB_MODE") or "offline"
        modes: dict[str, Mode] = {mode: mode for mode in get_args(Mode)}
        modes["dryrun"] = "offline"  # its older name
        if said not in modes:
            raise ValueError(f"WANDB_MODE: expected one of {', '.join(get_args(Mode))}, got {said}")
        return modes[said]


class RunLogger(WandbLogger):
    """Lightning's WandbLogger, with W&B's own step, and of a kind that no run depends on.

    Rows that W&B had stored before the run was resumed are left out, so that its history has no gaps and no row
    twice. Once W&B fails, this says so and logs no more; what is missing is logged when the run is resumed. As a
    context manager it finishes the W&B run, and says where it lies.

    Args:
        run: of W&B; None on all processes but the first.
        folder: the run's.
        first: the first step to log.
    """

    def __init__(self, run: Any, folder: Path, *, first: int = 0) -> None:
        super().__init__(experiment=run, save_dir=folder)
        self.folder = folder
        self.first = first
        self.last = first
        self.failed = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log at a step; by default, at the newest."""
        self.last = self.last if step is None else step
        if self.last >= self.first:
            self.attempt(lambda run: run.log(dict(metrics), step=self.last))

    @rank_zero_only
    def log_outcome(self, *, artifacts: bool) -> None:
        """Log what a finished or interrupted evolution left in the folder, unless W&B has it already.

        Args:
            artifacts: keep genomes, archives and the final model as artifacts too.
        """
        from cyqd.report.tracking import log_results

        record = read_run(self.folder)
        if record.evaluations[-1]["generation"] >= self.first:
            self.attempt(log_results, record, artifacts=artifacts)

    @rank_zero_only
    def log_pairs(self) -> None:
        """Log how the pairs of experts compare, from the folder's pairs.json."""
        from cyqd.report.tracking import log_pairs

        self.attempt(log_pairs, self.folder, step=self.last)

    @rank_zero_only
    def attempt(self, act: Callable[..., object], *arguments: Any, **options: Any) -> None:
        """Do something with the W&B run; its failures end the logging, not what is logged."""
        if self.failed or self._experiment is None:
            return
        try:
            act(self._experiment, *arguments, **options)
        except Exception as error:  # of W&B's client or its service, which name none; no run may end by them
            self.failed = True
            print(f"W&B failed, the run goes on without it ({type(error).__name__}: {error})", flush=True)

    def __enter__(self) -> RunLogger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from cyqd.report.tracking import finish_run

        self.attempt(lambda run: print(finish_run(run, self.folder, failed=kind is not None), flush=True))


def check_wandb(options: Wandb) -> None:
    """Check, before any work, what can be wrong with the options.

    Raises:
        ValueError: if the runs shall go online and there is no API key, or WANDB_MODE is none.
    """
    if options.chosen_mode() == "online" and is_first_process():
        from cyqd.report.tracking import require_key

        require_key()


def wandb_logger(
    options: Wandb,
    folder: Path,
    *,
    name: str,
    job_type: str,
    config: Mapping[str, Any],
    group: str | None = None,
) -> RunLogger | None:
    """Return the logger of a run, None where W&B is disabled; the first process starts or resumes the W&B run.

    Args:
        options: as the user gave them.
        folder: the run's; its ``wandb.json`` keeps the W&B run's id.
        name: the run's, as W&B shows it.
        job_type: what kind of run it is.
        config: what ran.
        group: of the run, unless the options say one.

    Raises:
        SetupError: if it shall go online, and there is no API key, or W&B cannot be reached.
    """
    mode = options.chosen_mode()
    if mode == "disabled":
        return None
    if not is_first_process():
        return RunLogger(None, folder)
    from cyqd.report.stored import last_step
    from cyqd.report.tracking import start_run

    known = folder / "wandb.json"
    id = load_json(known)["id"] if known.exists() else secrets.token_hex(4)
    where = {"project": options.project, "entity": options.entity}
    save_json(known, {"id": id, **where, "url": None})  # first, so that a kill cannot leave a run of no id
    stored = last_step(folder, id)
    try:
        run = start_run(
            folder,
            id=id,
            mode=mode,
            config=config,
            name=name,
            job_type=job_type,
            group=options.group or group,
            tags=options.tags,
            **where,
        )
    except (ValueError, OSError) as error:
        raise SetupError(str(error)) from error
    if mode == "offline":
        return RunLogger(run, folder, first=stored + 1)
    save_json(known, {"id": id, "project": run.project, "entity": run.entity, "url": run.url})
    return RunLogger(run, folder, first=run.starting_step)  # which the server knows, whatever is stored here


class WandbEvolution(L.Callback):
    """Logs an evolution's archives every so many generations, and at its start what W&B missed of it before.

    Args:
        folder: the run's.
        every: generations from one picture and table of the archives to the next.
    """

    def __init__(self, folder: Path, *, every: int = 50) -> None:
        self.folder = folder
        self.every = every

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the generations that W&B never heard of, or lost when it was killed."""
        if (logger := _logger(trainer)) is None or not (self.folder / STATE).exists():
            return
        from cyqd.report.tracking import log_archives

        record = read_run(self.folder)
        for number, line in enumerate(record.evaluations, start=1):
            if line["generation"] >= logger.first:
                archives = record.archives(number) if number >= len(record.experts) else []
                logger.log_metrics(generation_metrics(line, archives, record.tasks), step=line["generation"])
                if line["generation"] % self.every == 0:
                    logger.attempt(log_archives, record, number)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the archives, if it is time to."""
        if (logger := _logger(trainer)) is not None and logger.last % self.every == 0:
            from cyqd.report.tracking import log_archives

            logger.attempt(log_archives, read_run(self.folder))


def join_loggers(arguments: Mapping[str, Any], logger: RunLogger | None, every: int) -> dict[str, Any]:
    """Return a Trainer's arguments with a logger, and its callback, beside those that they have."""
    if logger is None:
        return dict(arguments)
    others = arguments.get("logger") or []
    others = [CSVLogger(logger.folder)] if others is True else others if isinstance(others, list) else [others]
    callbacks = arguments.get("callbacks") or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    return {
        **arguments,
        "logger": [logger, *others],
        "callbacks": [WandbEvolution(logger.folder, every=every), *callbacks],
    }


def _logger(trainer: L.Trainer) -> RunLogger | None:
    """Return the trainer's logger on the first process, where it has one of this kind."""
    return next((each for each in trainer.loggers if isinstance(each, RunLogger) and trainer.is_global_zero), None)

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
from typing import Any

import lightning as L
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from cyqd.evolution.storage import save_json
from cyqd.report.metrics import generation_metrics
from cyqd.report.record import STATE, RunRecord, read_run
from cyqd.report.tracked import KNOWN, Mode, chosen_mode, read_tracked
from cyqd.training.run import SetupError, is_first_process


@dataclass
class Wandb:
    """What is logged to Weights & Biases, and where.

    Args:
        mode: "online" needs an account, "offline" writes to RUN/wandb for a later `wandb sync`, "disabled" nothing;
            by default what WANDB_MODE says, else offline. A WandbLogger among the Trainer's own takes this one's
            place.
        project: the runs' project; by default what WANDB_PROJECT says, else cyqd.
        entity: user or team; by default what WANDB_ENTITY says, else your own.
        group: shown together; the folder's name for pairs.
        tags: of the run.
        every: generations from one picture and table of the archives to the next.
        artifacts: keep genomes, archives and the final model as artifacts too; online they are uploaded.
    """

    mode: Mode | None = None
    project: str | None = None
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
        return self.mode or chosen_mode("offline")

    def place(self) -> dict[str, str | None]:
        """Return project and entity, WANDB_PROJECT and WANDB_ENTITY considered."""
        return {
            "project": self.project or os.environ.get("WANDB_PROJECT") or "cyqd",
            "entity": self.entity or os.environ.get("WANDB_ENTITY") or None,
        }


class RunLogger(WandbLogger):
    """Lightning's WandbLogger, with W&B's own step, and of a kind that no run depends on.

    Of a resumed run, what W&B had stored is left out, but for the last row, which may have been stored in part:
    W&B merges it with what is logged at its step again. (Its server takes no step twice: there a row that an
    interruption cut short stays as it is.) Once W&B fails, this says so and logs no more; what is missing is logged
    when the run is resumed. As a context manager it finishes the W&B run, and says where it lies.

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
        self.finished = 0

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log at a step; by default, at the newest."""
        self.last = self.last if step is None else step
        if self.last >= self.first:
            self.attempt(lambda run: run.log(dict(metrics), step=self.last))

    @rank_zero_only
    def log_hyperparams(self, *arguments: Any, **options: Any) -> None:
        """As WandbLogger's."""
        log = super().log_hyperparams
        self.attempt(lambda run: log(*arguments, **options))

    @rank_zero_only
    def log_table(self, *arguments: Any, **options: Any) -> None:
        """As WandbLogger's."""
        log = super().log_table
        self.attempt(lambda run: log(*arguments, **options))

    @rank_zero_only
    def log_image(self, *arguments: Any, **options: Any) -> None:
        """As WandbLogger's."""
        log = super().log_image
        self.attempt(lambda run: log(*arguments, **options))

    @rank_zero_only
    def catch_up(self, *, every: int) -> None:
        """Log the generations of a continued evolution that W&B never heard of, or lost when it was killed.

        Args:
            every: generations from one picture and table of the archives to the next.
        """
        if not (self.folder / STATE).exists():
            return
        record = read_run(self.folder)
        for number, line in enumerate(record.evaluations, start=1):
            if line["generation"] >= self.first:
                archives = record.archives(number) if number >= len(record.experts) else []
                self.log_metrics(generation_metrics(line, archives, record.tasks), step=line["generation"])
                if line["generation"] % every == 0:
                    self.log_archives(record, number)

    @rank_zero_only
    def log_archives(self, record: RunRecord, evaluations: int) -> None:
        """Log the archives as they were after so many evaluations."""
        from cyqd.report.tracking import archive_content

        if not self.failed and (content := archive_content(record, evaluations)):
            self.log_metrics(content, step=record.evaluations[evaluations - 1]["generation"])

    @rank_zero_only
    def log_outcome(self, *, artifacts: bool) -> None:
        """Log what a finished or interrupted evolution left in the folder, in its last row.

        Args:
            artifacts: keep genomes, archives and the final model of a finished one as artifacts too.
        """
        from cyqd.report.tracking import evolution_artifacts, final_scores, log_artifact, results_content

        if self.failed:
            return
        record = read_run(self.folder)
        results = record.results
        step = max(record.evaluations[-1]["generation"], self.first)
        self.log_metrics(results_content(record), step=step)
        self.attempt(lambda run: run.summary.update(final_scores(record)))
        if artifacts and results["evaluations"] >= results["budget"]:
            for artifact in evolution_artifacts(record, read_tracked(self.folder)["id"]):
                self.attempt(log_artifact, artifact)
        self.finished = results["evaluations"]

    @rank_zero_only
    def log_pairs(self) -> None:
        """Log how the pairs of experts compare, from the folder's pairs.json."""
        from cyqd.report.tracking import pairs_content, pairs_correlation

        self.log_metrics(pairs_content(self.folder))
        self.attempt(lambda run: run.summary.update(pairs_correlation(self.folder)))

    @rank_zero_only
    def attempt(self, act: Callable[..., object], *arguments: Any) -> None:
        """Do something with the W&B run; its failures end the logging, not what is logged."""
        if self.failed or self._experiment is None:
            return
        try:
            act(self._experiment, *arguments)
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
        if self.finished and not self.failed and is_first_process():
            save_json(self.folder / KNOWN, {**read_tracked(self.folder), "finished": self.finished})


def check_wandb(options: Wandb) -> None:
    """Check, before any work, what can be wrong with the options.

    Raises:
        ValueError: if W&B takes no such project or tags, WANDB_MODE is none, or the runs shall go online and the
            API key is missing or no key.
    """
    mode = options.chosen_mode()
    if mode == "disabled" or not is_first_process():
        return
    from cyqd.report.tracking import require_key, settings

    settings(**options.place(), run_tags=options.tags, run_group=options.group)
    if mode == "online":
        require_key()


def wandb_logger(
    options: Wandb,
    folder: Path,
    *,
    name: str,
    job_type: str,
    config: Mapping[str, Any],
    group: str | None = None,
    resume: bool = False,
    budget: int | None = None,
    others: object = None,
) -> RunLogger | None:
    """Return the logger of a run; the first process starts or resumes the W&B run.

    Args:
        options: as the user gave them.
        folder: the run's; its ``wandb.json`` keeps the W&B run's id.
        name: the run's, as W&B shows it.
        job_type: what kind of run it is.
        config: what ran.
        group: of the run, unless the options say one.
        resume: the run is continued, and so is its W&B run, if any; else it gets a new one.
        budget: models that the run evaluates in all, if that is known.
        others: the Trainer's own logger or loggers.

    Returns:
        None where W&B is disabled, has a logger already, or has all of the run.

    Raises:
        SetupError: if it shall go online, and there is no API key, or W&B cannot be reached.
    """
    mode = options.chosen_mode()
    beside = others if isinstance(others, list) else [others]
    if mode == "disabled" or any(isinstance(other, WandbLogger) for other in beside):
        return None
    if not is_first_process():
        return RunLogger(None, folder)
    from cyqd.report.stored import last_step
    from cyqd.report.tracking import start_run

    known = folder / KNOWN
    where = options.place()
    tracked: dict[str, Any] = {"id": secrets.token_hex(4), **where, "url": None}
    try:
        if resume and known.exists():
            before = read_tracked(folder)
            if before.pop("finished", 0) == budget and (mode == "offline" or before["url"]):
                return None
            tracked = before if before["url"] else {**tracked, "id": before["id"]}
        save_json(known, tracked)  # first, so that a kill cannot leave a run of no id
        stored = last_step(folder, tracked["id"])
        run = start_run(
            folder,
            id=tracked["id"],
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
        return RunLogger(run, folder, first=max(stored, 0))
    save_json(known, {"id": tracked["id"], "project": run.project, "entity": run.entity, "url": run.url})
    return RunLogger(run, folder, first=run.starting_step)  # which the server knows, whatever is stored here


class WandbEvolution(L.Callback):
    """Logs an evolution's archives every so many generations.

    Args:
        folder: the run's.
        every: generations from one picture and table of the archives to the next.
    """

    def __init__(self, folder: Path, *, every: int = 50) -> None:
        self.folder = folder
        self.every = every

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the archives, if it is time to."""
        if (logger := _logger(trainer)) is not None and logger.last % self.every == 0:
            record = read_run(self.folder)
            logger.log_archives(record, len(record.evaluations))


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

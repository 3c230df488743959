"""What a fit logs beside losses and scores: learning rates, speed, and answers to look at."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import LearningRateMonitor
from numpy.typing import NDArray
from torch import Tensor

from cyqd.training.module import EvolvableModule, Picture, Transcript
from cyqd.training.sharding import gather

COLUMNS = ["problem", "prompt", "reply", "score"]


def monitors(trainer: L.Trainer) -> list[L.Callback]:
    """Return the callbacks of a fit that write to its loggers; they neither draw random numbers nor keep state."""
    rates = [LearningRateMonitor("step"), SpeedMonitor()] if trainer.loggers else []
    return [*rates, AnswerMonitor()]


def _step(trainer: L.Trainer) -> int:
    """Return the step that Lightning itself gives its loggers now."""
    return trainer.fit_loop.epoch_loop._batches_that_stepped


class SpeedMonitor(L.Callback):
    """Logs speed as train/KIND_per_second, whenever the loss is logged: the first process's, times their number.

    The time that training waits for data is counted, validation is not. (Lightning's ThroughputMonitor would count
    and log validation as well, under a step that runs backwards, and waits for the device at every batch.)
    """

    def __init__(self) -> None:
        self._restart()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._restart()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch; log after every ``log_every_n_steps`` steps."""
        assert isinstance(pl_module, EvolvableModule)
        for kind, number in pl_module.batch_sizes(batch).items():
            self.counts[kind] = self.counts.get(kind, 0) + number
        if trainer.fit_loop._should_accumulate() or not trainer._logger_connector.should_update_logs:
            return
        counts = {kind: int(number) for kind, number in self.counts.items()}  # waits for the device
        seconds = time.perf_counter() - self.start
        rates = {f"train/{kind}_per_second": n * trainer.world_size / seconds for kind, n in counts.items()}
        for logger in trainer.loggers:
            logger.log_metrics(rates, step=_step(trainer))
        self._restart()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        self.stopped = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Let the clock run on."""
        self.start += time.perf_counter() - self.stopped

    def _restart(self) -> None:
        self.start = time.perf_counter()
        self.counts: dict[str, int | Tensor] = {}


class AnswerMonitor(L.Callback):
    """Logs what the model made of a few problems of each task, the same at every validation, as answers/TASK.

    Conversations become a table, masks images (the problem, its truth and the prediction, side by side). It takes
    loggers that have ``log_table`` and ``log_image``, as Lightning's WandbLogger; without one it does nothing.

    Args:
        count: problems of each task.
    """

    def __init__(self, count: int = 4) -> None:
        self.count = count

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Choose the problems: the first ones of each task, in its own order."""
        assert isinstance(pl_module, EvolvableModule)
        self.loggers: list[Any] = [
            logger for logger in trainer.loggers if hasattr(logger, "log_table") and hasattr(logger, "log_image")
        ]
        self.active = trainer.strategy.broadcast(bool(self.loggers))  # all processes gather, or none
        tasks = getattr(trainer.datamodule, "tasks", ()) if self.active else ()  # type: ignore[attr-defined]
        chosen = {t.name: t.problems("optimisation")[: self.count] for t in tasks if hasattr(t, "problems")}
        pl_module.watched = [f"{task}/{problem.id}" for task, problems in chosen.items() for problem in problems]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the answers, in the row of the scores."""
        assert isinstance(pl_module, EvolvableModule)
        if not self.active or trainer.sanity_checking:
            return
        scored = {name: (answer, pl_module.outcomes[name]) for name, answer in pl_module.answers.items()}
        found = gather(scored)
        tables: dict[str, list[list[object]]] = {}
        images: dict[str, list[tuple[NDArray[np.uint8], str]]] = {}
        for name in (name for name in pl_module.watched if name in found):
            answer, score = found[name]
            task, _, problem = name.partition("/")
            if isinstance(answer, Transcript):
                tables.setdefault(task, []).append([problem, *_texts(answer), score])
            else:
                images.setdefault(task, []).append((_strip(answer), f"{problem}: {score:.3f}"))
        for logger in self.loggers:
            for task, rows in tables.items():
                logger.log_table(f"answers/{task}", columns=COLUMNS, data=rows, step=_step(trainer))
            for task, strips in images.items():
                pixels, captions = map(list, zip(*strips, strict=True))
                logger.log_image(f"answers/{task}", pixels, step=_step(trainer), caption=captions)


def _texts(transcript: Transcript) -> tuple[str, str]:
    """Return what the model was given, and all that follows, with the environment's part."""
    given, rest = transcript.messages[: transcript.given], transcript.messages[transcript.given :]
    return _text(given), _text(rest)


def _text(messages: Sequence[dict[str, str]]) -> str:
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"[{message['role']}] {message['content']}" for message in messages)


def _strip(picture: Picture) -> NDArray[np.uint8]:
    """Return a problem, its truth and its prediction side by side: uint8 [H, 3 W + 16, 3]."""
    gap = np.full((picture.truth.shape[0], 8, 3), 128, np.uint8)
    masks = [np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255 for mask in picture[1:]]
    return np.concatenate([picture.problem, gap, masks[0], gap, masks[1]], axis=1)

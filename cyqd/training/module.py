"""The seam between the engine and a domain: what a LightningModule must offer to be evolved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.data import extract_batch_size
from numpy.typing import NDArray
from torch import Tensor, nn

from cyqd.training.metrics import MeanScore


class Picture(NamedTuple):
    """A problem whose answer is a mask, to look at; all equally large, and small enough to print.

    Attributes:
        problem: uint8 [H, W, 3], RGB.
        truth: bool [H, W].
        prediction: bool [H, W].
    """

    problem: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    prediction: NDArray[np.bool_]


class Transcript(NamedTuple):
    """A problem that is answered in a conversation, to look at.

    Attributes:
        messages: of "role" and "content"; may grow until the evaluation ends.
        given: how many of them, the first ones, are the problem.
    """

    messages: Sequence[dict[str, str]]
    given: int


class EvolvableModule(L.LightningModule, ABC):
    """A LightningModule whose weights the engine may rewrite and whose tasks it scores.

    A domain subclasses it and pairs it with a LightningDataModule that has

    - ``tasks``: a sequence whose items have a ``name``, one per task, and may have ``measures``, names of what is
      reported beside the score, and ``derived(means)``, which makes what is reported out of the means of those that
      any problem has; likewise ``problems(split)``, its problems in a fixed order, each with an ``id``, of which
      the first ones are shown when a fit is logged;
    - ``val_dataloader()`` and ``test_dataloader()``: a list of one loader per task, in that order, sharded by
      :class:`cyqd.training.ShardedBatchSampler`;
    - optionally ``selection_dataloader()``, likewise, over fresh problems of the half that drives the search: final
      rules judge their candidates on them;
    - optionally ``splits()``, which returns the ids of each task's problems: task → "optimisation", "selection" or
      "test" → ids, and a hash of all that they are; without it, scores are not kept for other runs;
    - optionally ``draws``, False where scores do not depend on the run's seed;
    - optionally ``close()``, which ends what its environments have under way; called when an evaluation fails.

    ``validation_step(batch, batch_idx, dataloader_idx)`` feeds the scores of a batch's problems to
    ``self.metrics[dataloader_idx]``, or a problem's score with its name to :meth:`record`. What it makes of a
    problem that is in :attr:`watched` it may add to :attr:`answers`. Nothing else is asked of a domain.
    """

    evolved_prefix: str = ""
    """Only parameters whose name starts with this evolve; the rest keep the base's values."""

    base: Path
    """The saved base model, as :meth:`read_weights` takes it."""

    metrics: nn.ModuleList

    def __init__(self) -> None:
        super().__init__()
        self.timings: dict[str, float] = {}
        """Seconds per part of an evaluation, by name; the engine reads and clears them every generation."""
        self.outcomes: dict[str, float] = {}
        """Score by problem, as "task/id", of this process's problems since :meth:`reset_scores`."""
        self.faults: dict[str, str] = {}
        """What broke in evaluating a problem, likewise; the problem scored 0."""
        self.retries: dict[str, str] = {}
        """What broke in evaluating a problem and went well on a fresh environment, likewise."""
        self.watched: Sequence[str] = ()
        """Problems, as "task/id", whose answers are kept."""
        self.answers: dict[str, Picture | Transcript] = {}
        """What was made of them, by problem, likewise; only by domains that have something to show."""

    def setup(self, stage: str) -> None:
        """Create one metric per task of the attached data module, and one per measure."""
        self._tasks: Sequence[Any] = getattr(self.trainer.datamodule, "tasks", ())  # type: ignore[attr-defined]
        self.metrics = nn.ModuleList(MeanScore() for _ in self._tasks)
        self._measured = [{name: MeanScore() for name in getattr(task, "measures", ())} for task in self._tasks]
        self._on_device = nn.ModuleList(metric for metrics in self._measured for metric in metrics.values())

    def reset_scores(self) -> None:
        """Forget all scores, before models are evaluated anew."""
        for metric in [*self.metrics, *self._on_device]:
            metric.reset()
        for notes in self.timings, self.outcomes, self.faults, self.retries, self.answers:
            notes.clear()

    def record(self, task: int, problem: str, score: float, measures: Mapping[str, float] | None = None) -> None:
        """Add a problem's score.

        Args:
            task: its index.
            problem: its name in the results, "task/id".
            score: in [0, 1].
            measures: those of the task's measures that the problem has, each in [0, 1].
        """
        self.metrics[task].update(torch.tensor(score, dtype=torch.float64))  # type: ignore[operator]
        self.outcomes[problem] = score
        for name, value in (measures or {}).items():
            self._measured[task][name].update(torch.tensor(value, dtype=torch.float64))

    def measures(self) -> dict[str, dict[str, float]]:
        """Return the means of the measures over all processes, by task; to be called on every process.

        A measure that no problem has is left out.
        """
        found = {}
        for task, metrics in zip(self._tasks, self._measured, strict=True):
            scores = {name: metric.score() for name, metric in metrics.items()}
            means = {name: score.mean for name, score in scores.items() if score.n}
            if means:
                found[task.name] = task.derived(means)
        return found

    def log_scores(self) -> None:
        """Log scores and measures, as val/TASK or test/TASK, where this is the Trainer's own module."""
        if self.trainer.lightning_module is self:
            split = "test" if self.trainer.testing else "val"
            for task, metric in zip(self._tasks, self.metrics, strict=True):
                self.log(f"{split}/{task.name}", float(metric.compute()), prog_bar=True)  # type: ignore[operator]
            for name, means in self.measures().items():
                self.log_dict({f"{split}/{name}/{measure}": mean for measure, mean in means.items()})

    def evolved_parameters(self) -> dict[str, nn.Parameter]:
        """Return the live parameters that evolve, by the names that :meth:`read_weights` uses."""
        return {name: p for name, p in self.named_parameters() if name.startswith(self.evolved_prefix)}

    def batch_sizes(self, batch: Any) -> dict[str, int | Tensor]:
        """Return how much a training batch holds, by kind, to measure speed; by default its ``samples``."""
        return {"samples": extract_batch_size(batch)}

    @abstractmethod
    def read_weights(self, path: Path) -> Mapping[str, Tensor]:
        """Return a saved model's weights by name, memory-mapped where the format allows it.

        Raises:
            FileNotFoundError: if there is no model at ``path``.
        """

    @abstractmethod
    def check_compatible(self, base: Path, expert: Path) -> None:
        """Check what weights alone do not show (tokenizer, vocabulary, configuration).

        Raises:
            ValueError: naming the file and what differs.
        """

    def pictures(self, data: L.LightningDataModule, problems: Sequence[str]) -> dict[str, Picture]:
        """Return what the live model makes of problems of the test split, to look at; by default there is nothing.

        Args:
            data: the data module that has them.
            problems: their names, "task/id".
        """
        return {}

    def hub(self) -> dict[str, str]:
        """Return what model cards say of the domain's models.

        Returns:
            ``library`` and ``pipeline``, what loads them and what they do, by the Hugging Face hub's names, and
            ``code``, Python lines that load a saved one from the current folder.
        """
        return {}

    @abstractmethod
    def save_model(self, path: Path, card: str) -> None:
        """Write the live model in its ecosystem's format.

        ``fit`` calls it on every process while the Trainer still holds the model together, and the first one
        writes; ``evolve`` calls it on the first process alone, after the run.

        Args:
            path: folder to write; what else lies in it stays.
            card: Markdown text of the model card.
        """

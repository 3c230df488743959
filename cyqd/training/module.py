"""The seam between the engine and a domain: what a LightningModule must offer to be evolved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import lightning as L
from torch import Tensor, nn

from cyqd.training.metrics import MeanScore


class EvolvableModule(L.LightningModule, ABC):
    """A LightningModule whose weights the engine may rewrite and whose tasks it scores.

    A domain subclasses it and pairs it with a LightningDataModule that has

    - ``tasks``: a sequence whose items have a ``name``, one per task, and
    - ``val_dataloader()`` and ``test_dataloader()``: a list of one loader per task, in that order, sharded by
      :class:`cyqd.training.ShardedBatchSampler`.

    ``validation_step(batch, batch_idx, dataloader_idx)`` feeds the scores of a batch's problems to
    ``self.metrics[dataloader_idx]``. Nothing else is asked of a domain.
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
        self.faults: dict[str, str] = {}
        """What broke in evaluating a problem, by problem; the engine reads and clears them every generation."""

    def setup(self, stage: str) -> None:
        """Create one metric per task of the attached data module."""
        tasks = getattr(self.trainer.datamodule, "tasks", ())  # type: ignore[attr-defined]
        self.metrics = nn.ModuleList(MeanScore() for _ in tasks)

    def evolved_parameters(self) -> dict[str, nn.Parameter]:
        """Return the live parameters that evolve, by the names that :meth:`read_weights` uses."""
        return {name: p for name, p in self.named_parameters() if name.startswith(self.evolved_prefix)}

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

    @abstractmethod
    def save_model(self, path: Path, card: str) -> None:
        """Write the live model in its ecosystem's format.

        ``fit`` calls it on every process while the Trainer still holds the model together, and the first one
        writes; ``evolve`` calls it on the first process alone, after the run.

        Args:
            path: folder to write; what else lies in it stays.
            card: Markdown text of the model card.
        """

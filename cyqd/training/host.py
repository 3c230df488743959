"""How one Trainer.fit hosts a whole evolution: a generation is an epoch of one empty step and a validation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

import cyqd
from cyqd.training.module import EvolvableModule
from cyqd.training.sharding import gather
from cyqd.training.splits import Split


class EvolutionHost(L.LightningModule):
    """Stands between the Trainer and a domain's module: evaluates it, never trains it.

    Args:
        domain: the module whose weights the evolution callback writes.
    """

    def __init__(self, domain: EvolvableModule) -> None:
        super().__init__()
        self.domain = domain
        self.automatic_optimization = False
        # More processes than batches is no error: the scores are the same, some processes just have no work.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.requires_grad_(False)

    def setup(self, stage: str) -> None:
        """Set up the domain's module."""
        self.domain.setup(stage)

    def configure_optimizers(self) -> None:
        """Return no optimizer."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Do nothing."""

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Leave it to the domain."""
        return self.domain.transfer_batch_to_device(batch, device, dataloader_idx)

    def on_validation_epoch_start(self) -> None:
        """Leave it to the domain."""
        self.domain.on_validation_epoch_start()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Leave it to the domain."""
        self.domain.validation_step(batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Leave it to the domain."""
        self.domain.on_validation_epoch_end()


class EvaluationData(L.LightningDataModule):
    """A domain's data module as an evolution sees it: one loader per task, of one split.

    Args:
        data: the domain's data module.
        split: which of the evaluation problems to score on.
    """

    def __init__(self, data: L.LightningDataModule, split: Split) -> None:
        super().__init__()
        self.data = data
        self.split = split
        self.stage = "test" if split == "test" else "validate"

    @property
    def tasks(self) -> Sequence[Any]:
        """The tasks, each with a ``name``."""
        return self.data.tasks  # type: ignore[attr-defined, no-any-return]

    def prepare_data(self) -> None:
        """Leave it to the domain."""
        self.data.prepare_data()

    def setup(self, stage: str) -> None:
        """Set up the domain's data for evaluation alone.

        Raises:
            RuntimeError: if not all processes have the same problems: each would score a share of its own, and the
                sum would be wrong.
        """
        self.data.trainer = self.trainer
        self.data.setup(self.stage)
        if self.trainer.world_size > 1:  # type: ignore[union-attr]
            problems = self.data.splits() if hasattr(self.data, "splits") else {}
            text = json.dumps([cyqd.__version__, [task.name for task in self.tasks], problems])
            all_texts = gather({self.trainer.global_rank: text})  # type: ignore[union-attr]
            if other := [rank for rank, theirs in all_texts.items() if theirs != all_texts[0]]:
                raise RuntimeError(
                    f"process {other[0]} has other problems, or another version of cyqd, than process 0; give "
                    "every machine the same data and packages"
                )

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the one empty step of a generation."""
        return DataLoader([0])  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        """Return the split's loaders."""
        if self.split == "selection":
            return self.data.selection_dataloader()  # type: ignore[attr-defined]
        return self.data.test_dataloader() if self.split == "test" else self.data.val_dataloader()

    def teardown(self, stage: str) -> None:
        """Leave it to the domain."""
        self.data.teardown(self.stage)

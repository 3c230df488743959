"""What the command `fit` does: fine-tune an expert, write it, score it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import cyqd
from cyqd.evolution.storage import save_json
from cyqd.report.card import model_card, public_name
from cyqd.training.module import EvolvableModule
from cyqd.training.monitors import monitors
from cyqd.training.run import SetupError, clear_errors, is_first_process


def fit(
    model: EvolvableModule,
    data: L.LightningDataModule,
    trainer: L.Trainer,
    *,
    out: Path,
    record: Mapping[str, Any],
    ckpt_path: str | None = None,
) -> None:
    """Fine-tune an expert, score it where the data has tasks, and write it with a record of how it came about.

    Learning rates, speed and answers to look at go to the Trainer's loggers; see :mod:`cyqd.training.monitors`.

    Args:
        model: the expert, at the base's weights.
        data: training data, and evaluation problems for the score.
        trainer: a Trainer.
        out: folder to write.
        record: what else to keep in ``out/cyqd.json`` (base, seed, tasks).
        ckpt_path: Lightning checkpoint to continue from.
    """
    writer = ExpertWriter(out)
    trainer.callbacks += [*monitors(trainer), writer]  # type: ignore[attr-defined]
    for kept in trainer.checkpoint_callbacks:
        if isinstance(kept, ModelCheckpoint) and kept.dirpath is None:
            kept.dirpath = str(out / "checkpoints")  # a logger's folder would be another one after a resume
    if ckpt_path is not None and Path(ckpt_path).is_file():
        _check_continuable(ckpt_path)
    with clear_errors(trainer, data):
        trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
    if not writer.written:  # the checkpoint was of a fit that had ended
        writer.on_train_end(trainer, model)
    scores: dict[str, float] = {}
    if getattr(data, "tasks", ()):
        for part in trainer.validate(model, datamodule=data, verbose=False):
            scores |= {key.removeprefix("val/"): value for key, value in part.items()}
    if is_first_process():
        save_json(out / "cyqd.json", {"cyqd": cyqd.__version__, **record, "scores": scores})
        print(f"expert: {out}" + "".join(f"  {task} {score:.3f}" for task, score in scores.items()))


def _check_continuable(path: str) -> None:
    """Check that a checkpoint is whole, and holds more than weights.

    Raises:
        SetupError: naming the file.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # pickle's, zip's or torch's own, by what is wrong
        raise SetupError(f"ckpt_path: {path} is damaged, or no checkpoint of a fit") from error
    if "optimizer_states" not in checkpoint:
        raise SetupError(f"ckpt_path: {path} holds weights alone, from which no fit can be continued")


class ExpertWriter(L.Callback):
    """Writes the expert while the Trainer still holds it together, sharded or not.

    Where a ModelCheckpoint monitors a score, the expert is its best checkpoint (the first such callback's), else
    what training ended with.

    Args:
        out: folder to write.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.written = False

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the expert."""
        assert isinstance(pl_module, EvolvableModule)
        kept = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        if best := next((c.best_model_path for c in kept if c.monitor and c.best_model_path), None):
            checkpoint = trainer.strategy.load_checkpoint(best, weights_only=True)
            trainer.strategy.load_model_state_dict(checkpoint, strict=True)
        base = str(pl_module.base)
        card = model_card(
            base, f"An expert fine-tuned from {public_name(base)}.", relation="finetune", hub=pl_module.hub()
        )
        pl_module.save_model(self.out, card)
        self.written = True

"""The optimizer of every expert: AdamW with linear warm-up and a cosine."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from functools import partial

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler


def optimizer_steps(trainer: L.Trainer) -> int:
    """Return the number of optimizer steps of a whole ``fit`` with a data module.

    ``Trainer.estimated_stepping_batches`` would make Lightning set up the training loader before it restores the
    loader's state from a checkpoint, and then never restore it.

    Raises:
        ValueError: if nothing ends the training.
    """
    if trainer.max_epochs == -1 and trainer.max_steps == -1:
        raise ValueError("the cosine schedule needs an end: set trainer.max_epochs or trainer.max_steps")
    if trainer.max_epochs == -1:
        return trainer.max_steps
    batches = len(trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
    limit = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    assert trainer.max_epochs is not None  # Lightning's default is 1000, where max_steps is not given either
    steps = math.ceil(batches / trainer.accumulate_grad_batches) * trainer.max_epochs
    return steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)


def adamw_with_cosine(
    parameters: Iterable[tuple[str, torch.nn.Parameter]],
    *,
    steps: int,
    matrices: Collection[str],
    lr: float,
    min_lr_ratio: float,
    warmup_ratio: float,
    betas: tuple[float, float],
    weight_decay: float,
) -> OptimizerLRScheduler:
    """Return AdamW over what is trainable, and a schedule that is stepped every optimizer step.

    Args:
        parameters: (name, parameter).
        steps: optimizer steps of the whole run.
        matrices: names of the parameters that decay.
        lr: peak learning rate.
        min_lr_ratio: the cosine ends at this fraction of ``lr``.
        warmup_ratio: linear warm-up over this fraction of the steps.
        betas: AdamW's.
        weight_decay: AdamW's, on ``matrices`` only.
    """
    decayed: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in parameters:
        if parameter.requires_grad:
            (decayed if name in matrices else others).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, betas=betas)
    factor = partial(warmup_cosine, steps=steps, warmup_ratio=warmup_ratio, min_lr_ratio=min_lr_ratio)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def warmup_cosine(step: int, *, steps: int, warmup_ratio: float, min_lr_ratio: float) -> float:
    """Return the factor on the peak rate at ``step`` of ``steps``: linear up, then a cosine to ``min_lr_ratio``."""
    warmup = round(warmup_ratio * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return min_lr_ratio + (1 - min_lr_ratio) * (1 + math.cos(math.pi * progress)) / 2

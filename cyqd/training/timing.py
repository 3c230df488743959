"""How long the parts of an evolution take on this machine: each shape and each task is tried once."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch

from cyqd.evolution import ExpertSpace, materialise
from cyqd.evolution.genome import CompactGenome
from cyqd.evolution.spectrum import SingularBases, is_matrix
from cyqd.training.estimates import ShapeTimes
from cyqd.training.module import EvolvableModule
from cyqd.training.run import host_trainer
from cyqd.training.sizes import Shape, sides

AFFORDABLE = {"cpu": 1e10, "cuda": 1e13}
"""Floating-point operations of a decomposition up to which a shape is tried at its full size: about a second."""


def operations(shape: Shape) -> float:
    """Return about how many operations a decomposition takes: 2·l·s² for the Gram matrix, 9·s³ for eigenvectors.

    Source: Golub and Van Loan, Matrix Computations, section 8.3 (symmetric QR with vectors).
    """
    longer, shorter = sides(shape)
    return 2.0 * longer * shorter**2 + 9.0 * shorter**3


def time_shapes(
    space: ExpertSpace, *, spectral: bool, dtype: torch.dtype, device: torch.device, folder: Path
) -> ShapeTimes:
    """Try each shape of the model once, with random weights, and add up.

    Matrices beyond :data:`AFFORDABLE` are tried smaller, both sides alike, and scaled by :func:`operations`.

    Args:
        space: for the shapes, the dtypes, the rank and the number of experts.
        spectral: whether genomes use singular bases.
        dtype: of the live weights.
        device: where the work will be done.
        folder: for the files that are tried, on the disk where singular bases are kept.
    """
    counts = Counter((tuple(space.base[name].shape), space.base[name].dtype) for name in space.names)
    affordable = AFFORDABLE.get(device.type, AFFORDABLE["cuda"])
    total = {"bases": 0.0, "materialise": 0.0}
    warm = False
    for number, ((shape, stored), count) in enumerate(sorted(counts.items(), key=str)):
        scale = 1.0
        tried = shape
        if is_matrix(shape) and spectral and operations(shape) > affordable:
            longer, shorter = sides(shape)
            factor = (affordable / operations(shape)) ** (1 / 3)
            tried = (max(int(longer * factor), 2), max(int(shorter * factor), 2))
            scale = operations(shape) / operations(tried)
        for _ in range(1 if warm else 2):  # what is first used is first loaded
            times = _time_shape(tried, stored, space, spectral, dtype, device, folder / str(number))
        warm = warm or is_matrix(shape)
        total = {part: total[part] + count * scale * seconds for part, seconds in times._asdict().items()}
    return ShapeTimes(**total)


def _time_shape(
    shape: Shape,
    stored: torch.dtype,
    space: ExpertSpace,
    spectral: bool,
    dtype: torch.dtype,
    device: torch.device,
    folder: Path,
) -> ShapeTimes:
    generator = torch.Generator().manual_seed(0)
    base, expert = (torch.randn(shape, generator=generator).to(stored) for _ in range(2))
    tasks = space.tasks
    trial = ExpertSpace({"x": base}, [{"x": expert}] * len(tasks), tasks, rank=space.rank)
    trial.to(device)
    matrices = trial.matrices() if spectral else {}
    bases = SingularBases(folder, matrices, rank=space.rank)
    trial.bases = [bases] * len(tasks)
    start = time.perf_counter()
    for name in matrices:
        bases.compute(name, trial.task_vector(0, name))
    decomposed = time.perf_counter()
    omega = torch.rand(bases.size, generator=generator)
    child = CompactGenome(trial, [1 / len(tasks)] * len(tasks), [omega] * len(tasks) if spectral else None)
    live = torch.nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False)
    started = time.perf_counter()
    materialise(child, {"x": live})
    live.flatten()[0].item()  # waits for the device
    return ShapeTimes(decomposed - start, time.perf_counter() - started)


def time_tasks(
    model: EvolvableModule, data: L.LightningDataModule, space: ExpertSpace, arguments: Mapping[str, Any]
) -> dict[str, float]:
    """Evaluate one batch of every task with the experts' average, on one process of the real Trainer.

    Args:
        model: the live module, with its weights.
        data: the tasks.
        space: the experts; their average is what the children resemble.
        arguments: of the hosting Trainer.

    Returns:
        Seconds per batch, by task.
    """
    options = {**arguments, "logger": False, "callbacks": [], "devices": 1, "num_nodes": 1, "limit_val_batches": 1}
    found = {}
    for genome in (space.origin(), space.mean()):  # the first loads what is first used; its times are forgotten
        materialise(genome, model.evolved_parameters())
        for task in data.tasks:  # type: ignore[attr-defined]
            part, clock = copy.copy(data), _Clock()
            part.tasks = [task]  # type: ignore[attr-defined]
            trainer, host, problems = host_trainer(model, part, "optimisation", [clock], options)
            trainer.validate(host, datamodule=problems, verbose=False)
            found[task.name] = clock.seconds
    return found


class _Clock(L.Callback):
    """Times a validation, without what comes before and after it."""

    seconds: float

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds = time.perf_counter() - self._start

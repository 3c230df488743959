"""The experts' singular bases, computed once and kept for all runs that share experts."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from tqdm import tqdm

from cyqd.evolution import ExpertSpace
from cyqd.evolution.spectrum import SingularBases


def prepare_bases(space: ExpertSpace, cache: Path, trainer: L.Trainer | None = None) -> None:
    """Give a space its experts' singular bases; what the cache lacks is computed first.

    Args:
        space: the experts; its ``identity`` must be known.
        cache: folder of all bases, under the fingerprints of base and expert.
        trainer: whose processes share the matrices among them, on their devices; by default this process computes
            all of them, on the space's device.
    """
    shapes = space.matrices()
    base, *experts = space.identity.split()
    kept = "" if space.rank is None else f"-rank{space.rank}"
    folders = [cache / f"{base}-{expert}{kept}" for expert in experts]
    space.bases = [SingularBases(folder, shapes, rank=space.rank) for folder in folders]
    missing = [(k, name) for k, bases in enumerate(space.bases) for name in bases.missing()]
    if trainer is not None:
        space.to(trainer.strategy.root_device)
        missing = missing[trainer.global_rank :: trainer.world_size]
        trainer.strategy.barrier("singular bases counted")
    first = trainer is None or trainer.is_global_zero
    for k, name in tqdm(missing, desc="singular bases", unit="matrix", disable=not first or not missing):
        space.bases[k].compute(name, space.task_vector(k, name))
    if trainer is not None:
        trainer.strategy.barrier("singular bases")

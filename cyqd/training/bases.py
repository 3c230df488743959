"""What a search needs of experts beside their weights, computed once and kept for all runs that share experts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import lightning as L
from tqdm import tqdm

from cyqd.evolution import ExpertSpace, Strategy
from cyqd.evolution.orthogonal import OrthogonalVectors
from cyqd.evolution.spectrum import SingularBases

Part = TypeVar("Part")


def attach_cache(space: ExpertSpace, strategy: Strategy, cache: Path) -> None:
    """Tell a space where what a search mixes and mutates with lies, so that its genomes can be read.

    Args:
        space: the experts; its ``identity`` must be known.
        strategy: the search.
        cache: folder of all singular bases and orthogonal task vectors, under the fingerprints of base and experts.
    """
    matrices, (base, *experts) = space.matrices(), space.identity.split()
    folders = [f"{base}-{expert}" for expert in experts]
    if strategy.task_vectors != "plain":
        digest = hashlib.blake2b(space.identity.encode(), digest_size=16).hexdigest()
        space.orthogonal = OrthogonalVectors(cache / f"orthogonal-{digest}", list(matrices))
        folders += [f"orthogonal-{digest}-{k}" for k in range(len(experts))]
    if strategy.spectral:
        kept = "" if space.rank is None else f"-rank{space.rank}"
        space.bases = [SingularBases(cache / (name + kept), matrices, rank=space.rank) for name in folders]


def prepare_space(space: ExpertSpace, strategy: Strategy, cache: Path, trainer: L.Trainer | None = None) -> None:
    """Give a space what a search mixes and mutates with; what the cache lacks is computed first.

    Args:
        space: the experts; its ``identity`` must be known.
        strategy: the search.
        cache: as of :func:`attach_cache`.
        trainer: whose processes share the matrices among them, on their devices; by default this process computes
            all of them, on the space's device.
    """
    if trainer is not None:
        space.to(trainer.strategy.root_device)
    attach_cache(space, strategy, cache)
    if (vectors := space.orthogonal) is not None:
        for name in _due("orthogonal task vectors", vectors.names, vectors.missing(), trainer):
            vectors.compute(name, [space.task_vector(k, name) for k in range(len(space.experts))])
        _wait("orthogonal task vectors", trainer)
    if strategy.spectral:
        matrices = [(k, name) for k, bases in enumerate(space.bases) for name in bases.names]
        missing = [(k, name) for k, bases in enumerate(space.bases) for name in bases.missing()]
        for k, name in _due("singular bases", matrices, missing, trainer):
            space.bases[k].compute(name, space.task_vector(k, name))
        _wait("singular bases", trainer)


def _due(
    what: str, everything: Sequence[Part], missing: Sequence[Part], trainer: L.Trainer | None
) -> Iterable[Part]:
    """Return this process's share of what is missing, with a progress bar on the first process.

    Everything is dealt out, not what is missing: other runs may fill the cache while processes look.
    """
    mine = everything if trainer is None else everything[trainer.global_rank :: trainer.world_size]
    lacking = set(missing)
    due = [part for part in mine if part in lacking]
    first = trainer is None or trainer.is_global_zero
    yield from tqdm(due, desc=what, unit="matrix", disable=not first or not due)


def _wait(what: str, trainer: L.Trainer | None) -> None:
    if trainer is not None:
        trainer.strategy.barrier(what)

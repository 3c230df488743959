"""Baselines behind the same ask/tell as CycleQD."""

from __future__ import annotations

from collections.abc import Sequence

from cyqd.evolution.genome import ExpertSpace, GenomeStore
from cyqd.evolution.strategy import Roster


class TaskVectorAverage(Roster):
    """θ_b + (1/K) Σ_k τ_k: nothing to search, one evaluation."""

    rules = ("task-vector average",)

    def __init__(self) -> None:  # takes no genomes: the command line shall not offer them
        super().__init__()

    def setup(self, space: ExpertSpace, store: GenomeStore, seed: int, tasks: Sequence[str] | None = None) -> None:
        """Attach to the experts; see :class:`cyqd.evolution.strategy.Strategy`."""
        super().setup(space, store, seed, tasks)
        self.genomes = {"task-vector average": space.mean()}

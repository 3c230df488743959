"""Baselines behind the same ask/tell as CycleQD."""

from __future__ import annotations

from cyqd.evolution.genome import ExpertSpace, GenomeStore
from cyqd.evolution.strategy import Roster


class TaskVectorAverage(Roster):
    """θ_b + (1/K) Σ_k τ_k: nothing to search, one evaluation."""

    rules = ("task-vector average",)

    def __init__(self) -> None:
        super().__init__()

    def setup(self, space: ExpertSpace, store: GenomeStore, seed: int) -> None:
        """Attach to the experts; see :class:`cyqd.evolution.strategy.Strategy`."""
        super().setup(space, store, seed)
        self.genomes = {"task-vector average": space.mean()}

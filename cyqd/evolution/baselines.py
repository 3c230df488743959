"""Baselines behind the same ask/tell as CycleQD; those that learn coefficients lie in ``optimisers.py``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from cyqd.evolution.archive import Archive
from cyqd.evolution.cycleqd import CycleQD
from cyqd.evolution.genome import Genome
from cyqd.evolution.space import ExpertSpace
from cyqd.evolution.store import GenomeStore
from cyqd.evolution.strategy import Candidate, Roster


class OneModel(Roster):
    """A model that needs no search: one evaluation."""

    def __init__(self) -> None:  # takes no genomes: the command line shall not offer them
        super().__init__()

    def setup(self, space: ExpertSpace, store: GenomeStore, seed: int, tasks: Sequence[str] | None = None) -> None:
        """Attach to the experts; see :class:`cyqd.evolution.strategy.Strategy`."""
        super().setup(space, store, seed, tasks)
        self.genomes = {self.rules[0]: self._model()}

    @abstractmethod
    def _model(self) -> Genome:
        """Return the model."""


class TaskVectorAverage(OneModel):
    """θ_b + (1/K) Σ_k τ_k."""

    rules = ("task-vector average",)

    def _model(self) -> Genome:
        return self.space.mean()


class TSVMerge(OneModel):
    """θ_b + Σ_k τ'_k, the sum of the experts' orthogonal task vectors (Gargiulo et al. 2025)."""

    rules = ("sum",)
    task_vectors = "orthogonal"

    def _model(self) -> Genome:
        return self.mixture([1.0] * len(self.space.experts))


class PlainQD(CycleQD):
    """K quality-diversity searches, each with one fixed quality axis and 1/K of the budget (paper, ablations).

    They start from the same experts and take turns, but no child leaves its own archive. Hyper-parameters and the
    rules for a final model are CycleQD's.
    """

    def _archives_offered(self, candidate: Candidate) -> Sequence[Archive]:
        """Return the one archive that bred the child; of generation t, t mod K."""
        return [self.archives[candidate.origin["generation"] % len(self.tasks)]]

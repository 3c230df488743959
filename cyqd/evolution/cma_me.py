"""CMA-ME over merge coefficients: CycleQD's archives, filled by evolution strategies in place of its operators."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from cyqd.evolution.archive import Archive, Scores
from cyqd.evolution.coefficients import Batches, Points
from cyqd.evolution.cycleqd import CycleQD
from cyqd.evolution.orthogonal import TaskVectors
from cyqd.evolution.parts import Granularity
from cyqd.evolution.space import ExpertSpace
from cyqd.evolution.store import GenomeStore
from cyqd.evolution.strategy import Candidate, one_of


class CMAME(CycleQD):
    """CMA-ME (Fontaine et al. 2020, "Covariance Matrix Adaptation for the Rapid Illumination of Behavior Space").

    Each of the K archives has an evolution strategy of its own over α in θ_b + Σ_k α_k τ_k, pyribs' emitter with
    two-stage improvement ranking. They take turns batch by batch, and every child is offered to all K archives. The
    experts are scored first, as in CycleQD, and the rules for a final model are CycleQD's.

    Args:
        generations: children to evaluate after the experts.
        granularity: whether an expert has one coefficient, or one for each layer or group of parameters.
        sigma: the first step size, and that of every restart; all strategies start at the average.
        batch: children of a strategy's turn; 4 + ⌊3 ln(number of coefficients)⌋ by default.
        task_vectors: α mixes the experts' "plain" task vectors, their "orthogonal" ones, or "both".
        bins: bins on each behaviour axis.
        bound_low: an axis starts at this share of the lowest expert score on its task.
        bound_high: and ends at this share of the highest.
        alpha_low: γ's factor of the worst model on a task, for the rule "gamma".
        alpha_high: γ's factor of the best.

    Raises:
        ValueError: if a hyper-parameter is out of its range.
    """

    def __init__(
        self,
        *,
        generations: int = 1200,
        granularity: Granularity = "model",
        sigma: float = 0.3,
        batch: int | None = None,
        task_vectors: TaskVectors = "plain",
        bins: int = 15,
        bound_low: float = 0.85,
        bound_high: float = 1.15,
        alpha_low: float = 0.5,
        alpha_high: float = 0.8,
    ) -> None:
        lattice: dict[str, Any] = {"bins": bins, "bound_low": bound_low, "bound_high": bound_high}
        lattice |= {"alpha_low": alpha_low, "alpha_high": alpha_high}
        super().__init__(generations=generations, mutation="none", task_vectors=task_vectors, **lattice)
        self.granularity = granularity
        self.sigma, self.batch = sigma, batch
        self._require(
            granularity=one_of(Granularity, granularity),
            sigma=(0 < sigma < math.inf, "a number greater than 0"),
            batch=(batch is None or batch >= 2, "at least 2, or none"),
        )
        self.batches: Batches

    def setup(self, space: ExpertSpace, store: GenomeStore, seed: int, tasks: Sequence[str] | None = None) -> None:
        """Attach to the experts; see the base class."""
        super().setup(space, store, seed, tasks)
        self.shape = (self.mixed, len(space.part_names(self.granularity)))

    def ask(self) -> Candidate:
        """Return the next expert, else the next child of the strategy whose turn it is."""
        if self.evaluated < len(self.tasks):
            return super().ask()
        alpha = self.batches.due().reshape(self.shape)
        origin = {
            "generation": self.evaluated - len(self.tasks) + 1,
            "active": self.tasks[self._active],
            "alpha": alpha.tolist(),
        }
        child = self.mixture(torch.from_numpy(alpha), self.granularity)
        return Candidate(self.evaluated, child, origin)

    def _accept(self, candidate: Candidate, scores: Scores) -> Mapping[str, Any]:
        report = super()._accept(candidate, scores)
        if candidate.id >= len(self.tasks):
            self.batches.tell(tuple(scores))
        elif self.archives:
            self._open()
        return report

    def _open(self) -> None:
        """Start the strategies, beside archives of pyribs' own, which rank their children."""
        from ribs.emitters import EvolutionStrategyEmitter  # takes seconds: no other command shall wait for it

        size = math.prod(self.shape)
        start = np.full(size, 1 / self.mixed)
        own: dict[str, Any] = {"x0": start, "sigma0": self.sigma, "ranker": "2imp", "batch_size": self.batch}
        self._lattices = [self._lattice(archive, size) for archive in self.archives]
        self._emitters = [
            EvolutionStrategyEmitter(lattice, seed=self._seed(task, 1), **own)
            for task, lattice in enumerate(self._lattices)
        ]
        self._active = 0
        self._add(
            np.repeat(np.eye(len(self.tasks), self.mixed), self.shape[1], axis=1),
            np.array([e.scores for e in self.experts]),
        )
        self.batches = Batches(self._propose, self._learn)

    def _lattice(self, archive: Archive, size: int) -> Any:
        from ribs.archives import GridArchive

        ranges = [(axis[0], axis[-1]) for task, axis in enumerate(archive.edges) if task != archive.task]
        return GridArchive(solution_dim=size, dims=archive.shape, ranges=ranges, seed=self._seed(archive.task, 0))

    def _seed(self, task: int, part: int) -> int:
        return int(np.random.SeedSequence([self.seed, task, part]).generate_state(1)[0])

    def _add(self, points: Points, scores: Points) -> list[dict[str, Any]]:
        """Offer models to pyribs' archives; return what each of these says of them."""
        return [
            lattice.add(points, scores[:, task], np.delete(scores, task, axis=1))
            for task, lattice in enumerate(self._lattices)
        ]

    def _propose(self) -> Points:
        return np.array(self._emitters[self._active].ask())

    def _learn(self, points: Points, scores: Points) -> None:
        task = self._active
        entered = self._add(points, scores)[task]
        self._emitters[task].tell(points, scores[:, task], np.delete(scores, task, axis=1), entered)
        self._active = (task + 1) % len(self.tasks)

    def state_dict(self) -> dict[str, Any]:
        """Return CycleQD's state and the children's scores, which the strategies are played from once more."""
        return {**super().state_dict(), **(self.batches.state_dict() if self.archives else {})}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue a search; see the base class.

        Raises:
            ValueError: if a setting differs, or the replay does not lead to where the search was.
        """
        super().load_state_dict(state)
        if self.archives:
            self._open()
            self.batches.replay(state)

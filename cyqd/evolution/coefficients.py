"""What searches over α in θ_b + Σ_k α_k τ_k have in common; the optimisers themselves are in ``optimisers.py``.

A search is fixed by its settings and by the scores that it was told, so these are its whole state: to continue, it
is played once more from the start. No optimiser is ever saved, and no genome either: α follows from the scores.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cyqd.evolution.archive import Elite, Scores
from cyqd.evolution.genome import CompactGenome, Genome
from cyqd.evolution.orthogonal import TaskVectors
from cyqd.evolution.parts import Granularity
from cyqd.evolution.space import ExpertSpace
from cyqd.evolution.store import GenomeStore
from cyqd.evolution.strategy import Candidate, Strategy, at_least, one_of

Points = NDArray[np.float64]
"""Models as flat coefficients, [models, experts · parts]; the parts of one expert lie side by side."""


class Batches:
    """Hands out one by one what an optimiser proposes in batches, and remembers everything.

    Args:
        propose: returns the next batch, [n, size].
        learn: takes a batch and its scores, [n, tasks].
    """

    def __init__(self, propose: Callable[[], Points], learn: Callable[[Points, Points], object]) -> None:
        self.points: list[NDArray[np.float64]] = []
        self.scores: list[Scores] = []
        self._propose, self._learn = propose, learn
        self._start = 0

    def due(self) -> NDArray[np.float64]:
        """Return the point whose scores are due, [size]."""
        if len(self.scores) == len(self.points):
            self._start = len(self.points)
            self.points.extend(self._propose())
        return self.points[len(self.scores)]

    def tell(self, scores: Scores) -> None:
        """Take the scores of the point that is due; those of a whole batch are learned from."""
        self.scores.append(scores)
        if len(self.scores) == len(self.points):
            self._learn(np.array(self.points[self._start :]), np.array(self.scores[self._start :]))

    def state_dict(self) -> dict[str, Any]:
        """Return all scores told, and the last point, by which a replay is checked."""
        last = self.points[len(self.scores) - 1].tolist() if self.scores else []
        return {"scores": [list(scores) for scores in self.scores], "last": last}

    def replay(self, state: Mapping[str, Any]) -> None:
        """Take the scores of :meth:`state_dict` once more.

        Raises:
            ValueError: if this does not lead to the same point.
        """
        last: Any = []
        for scores in state["scores"]:
            last = self.due()
            self.tell(tuple(scores))
        if not np.allclose(last, state["last"]):
            raise ValueError(
                f"cannot continue: expected the search to come to α = {state['last']} once more, got {list(last)}; "
                "install the versions of torch, numpy, cma, pymoo and ribs that it was started with"
            )


class CoefficientSearch(Strategy):
    """Searches α ∈ ℝ^{I×G}, one per task vector and part: θ = θ_b + Σ_i α_i τ_i; starts at 1/I, the average.

    Args:
        generations: models to evaluate, all of them children: the experts are not scored.
        granularity: whether an expert has one coefficient, or one for each layer or group of parameters.
        sigma: the first step size, a standard deviation of each coefficient.
        task_vectors: α mixes the experts' "plain" task vectors, their "orthogonal" ones, or "both".

    Raises:
        ValueError: if a hyper-parameter is out of its range.
    """

    rules: tuple[str, ...] = ("best_mean",)

    def __init__(
        self,
        *,
        generations: int = 1200,
        granularity: Granularity = "model",
        sigma: float = 0.3,
        task_vectors: TaskVectors = "plain",
    ) -> None:
        self.generations = generations
        self.task_vectors: TaskVectors = task_vectors
        self.granularity: Granularity = granularity
        self.sigma = sigma
        self._require(
            generations=at_least(0, generations),
            granularity=one_of(Granularity, granularity),
            sigma=(0 < sigma < math.inf, "a number greater than 0"),
            task_vectors=one_of(TaskVectors, task_vectors),
        )

    def setup(self, space: ExpertSpace, store: GenomeStore, seed: int, tasks: Sequence[str] | None = None) -> None:
        """Attach to the experts, at the start of the search; see the base class."""
        super().setup(space, store, seed, tasks)
        self.shape = (self.mixed, len(space.part_names(self.granularity)))
        self.start = np.full(math.prod(self.shape), 1 / self.mixed)
        self._open()
        self.batches = Batches(self._propose, self._learn)

    @abstractmethod
    def _open(self) -> None:
        """Make the optimiser anew."""

    @abstractmethod
    def _propose(self) -> Points:
        """Return the next batch."""

    @abstractmethod
    def _learn(self, points: Points, scores: Points) -> None:
        """Learn from a batch, [n, size], and its scores, [n, tasks]."""

    def numpy_generator(self) -> np.random.Generator:
        """Return a source of randomness for libraries that want numpy's, seeded by the search's seed."""
        return np.random.default_rng([self.seed, 0])

    def genome(self, point: NDArray[np.float64]) -> CompactGenome:
        """Return the model of flat coefficients."""
        alpha = torch.from_numpy(np.array(point)).reshape(self.shape)
        return self.mixture(alpha, self.granularity)

    @property
    def budget(self) -> int:
        """One child a generation."""
        return self.generations

    @property
    def elites(self) -> list[Elite]:
        """Every model that was evaluated, by its number."""
        return [Elite(id, scores) for id, scores in enumerate(self.batches.scores)]

    def ask(self) -> Candidate:
        """Return the model of the coefficients that are due."""
        point = self.batches.due()
        origin = {"generation": self.evaluated + 1, "alpha": point.reshape(self.shape).tolist()}
        return Candidate(self.evaluated, self.genome(point), origin)

    def _accept(self, candidate: Candidate, scores: Scores) -> Mapping[str, Any]:
        self.batches.tell(tuple(scores))
        return {}

    def finalists(self, count: int) -> list[Elite]:
        """Return the models of highest mean score, of all that were evaluated; see the base class."""
        return sorted(self.elites, key=lambda elite: (elite.mean, elite.id), reverse=True)[:count]

    def individual(self, id: int) -> Genome:
        """Return a model that was evaluated, any of them."""
        return self.genome(self.batches.points[id])

    def chosen(self) -> Mapping[str, Sequence[Elite]]:
        """Return the model of best mean score; see the base class."""
        return {"best_mean": self.finalists(1)} if self.evaluated else {}

    def result(self) -> Mapping[str, Genome]:
        """Return the model of best mean score; see the base class."""
        return {rule: self.individual(elites[0].id) for rule, elites in self.chosen().items()}

    def best(self) -> Scores:
        """Return the best score on each task so far."""
        return tuple(max(column) for column in zip(*self.batches.scores, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return the scores so far; see the base class."""
        return {**super().state_dict(), **self.batches.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue a search; see the base class.

        Raises:
            ValueError: if a setting differs, or the replay does not lead to where the search was.
        """
        super().load_state_dict(state)
        self.batches.replay(state)


class GaussianSearch(CoefficientSearch):
    """A search by a Gaussian over α that maximises the mean score.

    Beside the best model evaluated, the Gaussian's mean is a result; it is never scored in the search.
    """

    rules = ("best_mean", "distribution_mean")

    @abstractmethod
    def _mean(self) -> NDArray[np.float64]:
        """Return the Gaussian's mean, [size]."""

    def result(self) -> Mapping[str, Genome]:
        """Return the model of best mean score, and the Gaussian's mean; see the base class."""
        found = super().result()
        return {**found, "distribution_mean": self.genome(self._mean())} if found else {}

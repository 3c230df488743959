"""Learned linear coefficients (paper, baselines): α in θ_b + Σ_k α_k τ_k by CMA-ES, policy gradient and NSGA-II."""

from __future__ import annotations

import math
from typing import Any

import moocore
import numpy as np
import torch
from numpy.typing import NDArray

from cyqd.evolution.archive import Elite
from cyqd.evolution.coefficients import CoefficientSearch, GaussianSearch, Points
from cyqd.evolution.orthogonal import TaskVectors
from cyqd.evolution.parts import Granularity
from cyqd.evolution.strategy import at_least


class CMAES(GaussianSearch):
    """Covariance matrix adaptation (Hansen 2016, "The CMA Evolution Strategy: A Tutorial"), by pycma.

    It runs until the budget is spent, without pycma's stopping rules and without restarts.

    Args:
        generations: models to evaluate.
        granularity: whether an expert has one coefficient, or one for each layer or group of parameters.
        sigma: the first step size.
        task_vectors: α mixes the experts' "plain" task vectors, their "orthogonal" ones, or "both".
        population: models from one update to the next; 4 + ⌊3 ln(number of coefficients)⌋ by default.

    Raises:
        ValueError: if a hyper-parameter is out of its range.
    """

    def __init__(
        self,
        *,
        generations: int = 1200,
        granularity: Granularity = "model",
        sigma: float = 0.3,
        task_vectors: TaskVectors = "plain",
        population: int | None = None,
    ) -> None:
        super().__init__(generations=generations, granularity=granularity, sigma=sigma, task_vectors=task_vectors)
        self.population = population
        self._require(population=(population is None or population >= 4, "at least 4, or none"))

    def _open(self) -> None:
        import cma  # takes a second, which no other command shall wait for

        generator = self.numpy_generator()
        options: dict[str, Any] = {
            "randn": lambda *shape: generator.standard_normal(shape),
            "seed": math.nan,  # leaves numpy's global generator alone
            "verbose": -10,  # neither prints nor reads files
            "verb_log": 0,
        }
        if self.population is not None:
            options["popsize"] = self.population
        self._search = cma.CMAEvolutionStrategy(self.start, self.sigma, options)

    def _propose(self) -> Points:
        return np.array(self._search.ask())

    def _learn(self, points: Points, scores: Points) -> None:
        self._search.tell(list(points), [-math.fsum(row) / len(row) for row in scores])

    def _mean(self) -> NDArray[np.float64]:
        return np.array(self._search.result.xfavorite)


class PolicyGradient(GaussianSearch):
    """REINFORCE (Williams 1992) with a Gaussian policy N(μ, diag(s²)) over α; μ and ln s are learned by Adam.

    With z = (α − μ) / s and the advantage A, which is a model's mean score less the batch's, over the batch's
    standard deviation, the gradients are E[A · z / s] for μ and E[A · (z² − 1)] for ln s.

    Args:
        generations: models to evaluate.
        granularity: whether an expert has one coefficient, or one for each layer or group of parameters.
        sigma: the first s.
        task_vectors: α mixes the experts' "plain" task vectors, their "orthogonal" ones, or "both".
        batch: models from one update to the next.
        lr: Adam's step size.

    Raises:
        ValueError: if a hyper-parameter is out of its range.
    """

    def __init__(
        self,
        *,
        generations: int = 1200,
        granularity: Granularity = "model",
        sigma: float = 0.3,
        task_vectors: TaskVectors = "plain",
        batch: int = 8,
        lr: float = 0.05,
    ) -> None:
        super().__init__(generations=generations, granularity=granularity, sigma=sigma, task_vectors=task_vectors)
        self.batch, self.lr = batch, lr
        self._require(batch=at_least(2, batch), lr=(0 < lr < math.inf, "a number greater than 0"))

    def _open(self) -> None:
        self._mu = torch.tensor(self.start)
        self._log_s = torch.full_like(self._mu, math.log(self.sigma))
        self._adam = torch.optim.Adam([self._mu, self._log_s], lr=self.lr)
        self._updates = 0

    def _propose(self) -> Points:
        shape = (self.batch, len(self.start))
        z = torch.randn(shape, dtype=torch.float64, generator=self.generator(self._updates))
        return np.asarray((self._mu + self._log_s.exp() * z).numpy())

    def _learn(self, points: Points, scores: Points) -> None:
        means = torch.tensor([math.fsum(row) / len(row) for row in scores], dtype=torch.float64)
        spread = means.std()
        advantage = (means - means.mean()) / torch.where(spread > 0, spread, 1.0)
        z = (torch.from_numpy(points) - self._mu) / self._log_s.exp()
        # Written out, since evolution runs where torch records no gradients; Adam descends, hence the sign.
        self._mu.grad = -(advantage[:, None] * z / self._log_s.exp()).mean(dim=0)
        self._log_s.grad = -(advantage[:, None] * (z.square() - 1)).mean(dim=0)
        self._adam.step()
        self._updates += 1

    def _mean(self) -> NDArray[np.float64]:
        return np.array(self._mu.numpy())


class NSGA2(CoefficientSearch):
    """NSGA-II (Deb et al. 2002), by pymoo; its objectives are the tasks' scores.

    The first population is the average and a Gaussian cloud around it, clipped to the bounds. The result is the
    model of best mean score; the state also holds the front, any model of which can be exported by its number.

    Args:
        generations: models to evaluate.
        granularity: whether an expert has one coefficient, or one for each layer or group of parameters.
        sigma: standard deviation of the first population.
        task_vectors: α mixes the experts' "plain" task vectors, their "orthogonal" ones, or "both".
        population: size of the population, and models from one selection to the next.
        low: least coefficient.
        high: largest coefficient.

    Raises:
        ValueError: if a hyper-parameter is out of its range.
    """

    def __init__(
        self,
        *,
        generations: int = 1200,
        granularity: Granularity = "model",
        sigma: float = 0.3,
        task_vectors: TaskVectors = "plain",
        population: int = 20,
        low: float = -0.5,
        high: float = 1.5,
    ) -> None:
        super().__init__(generations=generations, granularity=granularity, sigma=sigma, task_vectors=task_vectors)
        self.population, self.low, self.high = population, low, high
        self._require(
            population=at_least(2, population),
            low=(-math.inf < low < high, "a number less than high"),
            high=(low < high < math.inf, "a number greater than low"),
        )

    def _open(self) -> None:
        from pymoo.algorithms.moo.nsga2 import NSGA2 as Search
        from pymoo.core.problem import Problem

        cloud = self.numpy_generator().standard_normal((self.population, len(self.start)))
        cloud[0] = 0
        first = np.clip(self.start + self.sigma * cloud, self.low, self.high)
        problem = Problem(n_var=len(self.start), n_obj=len(self.tasks), xl=self.low, xu=self.high)
        seed = int(self.numpy_generator().integers(2**31))
        self._search = Search(pop_size=self.population, sampling=first).setup(problem, seed=seed)

    def _propose(self) -> Points:
        self._asked = self._search.ask()
        return np.array(self._asked.get("X"))

    def _learn(self, points: Points, scores: Points) -> None:
        from pymoo.core.evaluator import Evaluator
        from pymoo.problems.static import StaticProblem

        Evaluator().eval(StaticProblem(self._search.problem, F=-scores), self._asked)
        self._search.tell(infills=self._asked)

    def front(self) -> list[Elite]:
        """Return the models of all evaluated that no other beats on one task and equals or beats on the rest."""
        elites = self.elites
        if not elites:
            return []
        scores = np.array([elite.scores for elite in elites])
        mask = moocore.is_nondominated(scores, maximise=True, keep_weakly=True)
        return [elite for elite, best in zip(elites, mask, strict=True) if best]

    def state_dict(self) -> dict[str, Any]:
        """Return the scores so far, and the front's ids and scores; see the base class."""
        front = [{"id": elite.id, "scores": list(elite.scores)} for elite in self.front()]
        return {**super().state_dict(), "front": front}

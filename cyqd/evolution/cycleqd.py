"""CycleQD, Algorithm 1 of the paper: quality diversity with cyclically swapped quality and behaviour axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cyqd.evolution.aggregation import aggregate, final_elites
from cyqd.evolution.archive import Archive, Elite, Scores, open_archives
from cyqd.evolution.crossover import Crossover, crossover
from cyqd.evolution.genome import CompactGenome, Genome
from cyqd.evolution.mutation import Variant, mutate
from cyqd.evolution.orthogonal import TaskVectors, sums
from cyqd.evolution.parts import Granularity
from cyqd.evolution.selection import Selection, select_parents
from cyqd.evolution.space import ExpertSpace
from cyqd.evolution.store import GenomeStore
from cyqd.evolution.strategy import Candidate, Strategy, at_least, one_of


class CycleQD(Strategy):
    """Evolves merged models in K archives, one per task; in generation t the archive t mod K breeds.

    Args:
        generations: N, children to breed after the experts.
        bins: bins on each behaviour axis.
        bound_low: an axis starts at this share of the lowest expert score on its task.
        bound_high: and ends at this share of the highest.
        selection: "elite" draws parents by γ, "random" uniformly.
        alpha_low: γ's factor of the worst model on a task.
        alpha_high: γ's factor of the best.
        crossover: "linear" (the paper), "ties", "dare" or "split"; see :func:`cyqd.evolution.crossover.crossover`.
        crossover_mu: mean of the crossover's mixing weights.
        crossover_sigma: their standard deviation.
        crossover_stretch: largest factor by which crossover lengthens a child's task vector; 1 in the paper.
        granularity: what has mixing weights of its own: the "model" (the paper), each "layer" or each "group".
        density: share of a task vector's entries that crossover by "ties" or "dare" keeps.
        mutation: "expert" (the paper's published code), "child", "literal" (the printed formula), "gaussian",
            "lognormal" or "none"; see :func:`cyqd.evolution.mutation.mutate`.
        w_max: largest stretch of a singular value by mutation.
        mutation_sigma: standard deviation of the "gaussian" and of the "lognormal" mutation.
        founders: the first children are the sums of all task vectors times each of these; the paper has none.
        task_vectors: children mix "plain" task vectors (as in the paper), "orthogonal" ones, or "both".

    Raises:
        ValueError: if a hyper-parameter is out of its range.
    """

    rules = ("aggregate", "gamma", "best_mean")

    def __init__(
        self,
        *,
        generations: int = 1200,
        bins: int = 15,
        bound_low: float = 0.85,
        bound_high: float = 1.15,
        selection: Selection = "elite",
        alpha_low: float = 0.5,
        alpha_high: float = 0.8,
        crossover: Crossover = "linear",
        crossover_mu: float = 1.0,
        crossover_sigma: float = 0.03,
        crossover_stretch: float = 1.0,
        granularity: Granularity = "model",
        density: float = 0.5,
        mutation: Variant = "expert",
        w_max: float = 0.3,
        mutation_sigma: float = 0.01,
        founders: Sequence[float] = (),
        task_vectors: TaskVectors = "plain",
    ) -> None:
        self.generations, self.bins, self.bound_low, self.bound_high = generations, bins, bound_low, bound_high
        self.selection, self.alpha_low, self.alpha_high = selection, alpha_low, alpha_high
        self.crossover, self.crossover_mu, self.crossover_sigma = crossover, crossover_mu, crossover_sigma
        self.crossover_stretch, self.density, self.granularity = crossover_stretch, density, granularity
        self.mutation, self.mutation_sigma, self.w_max = mutation, mutation_sigma, w_max
        self.task_vectors, self.founders = task_vectors, list(founders)
        self._require(
            generations=at_least(0, generations),
            bins=at_least(1, bins),
            bound_low=(0 <= bound_low < bound_high, "a number from 0 that is less than bound_high"),
            bound_high=(bound_low < bound_high < math.inf, "a number greater than bound_low"),
            selection=one_of(Selection, selection),
            alpha_low=(0 < alpha_low <= alpha_high, "a number greater than 0, at most alpha_high"),
            alpha_high=at_least(alpha_low, alpha_high),
            crossover=one_of(Crossover, crossover),
            crossover_mu=(math.isfinite(crossover_mu), "a finite number"),
            crossover_sigma=at_least(0, crossover_sigma),
            crossover_stretch=at_least(1, crossover_stretch),
            granularity=one_of(Granularity, granularity),
            density=(0 < density <= 1, "a number greater than 0, at most 1"),
            mutation=one_of(Variant, mutation),
            w_max=at_least(0, w_max),
            mutation_sigma=at_least(0, mutation_sigma),
            founders=(all(map(math.isfinite, founders)), "finite factors"),
            task_vectors=one_of(TaskVectors, task_vectors),
        )
        self.experts: list[Elite] = []
        self.archives: list[Archive] = []

    @property
    def budget(self) -> int:
        """The K experts of generation 0, then one child a generation."""
        return len(self.tasks) + self.generations

    def setup(self, space: ExpertSpace, store: GenomeStore, seed: int, tasks: Sequence[str] | None = None) -> None:
        """Attach to the experts; see the base class.

        Raises:
            ValueError: if there are fewer than two tasks, or not one expert for each.
        """
        super().setup(space, store, seed, tasks)
        if len(self.tasks) < 2 or self.tasks != space.tasks:
            raise ValueError(f"expected at least two tasks, one expert each; got {space.tasks} for {self.tasks}")

    @property
    def spectral(self) -> bool:
        """Only the "expert" mutation uses the experts' singular bases."""
        return self.mutation == "expert"

    def ask(self) -> Candidate:
        """Return the next expert in generation 0, else breed a child from the active archive."""
        tasks, generation = len(self.tasks), max(self.evaluated - len(self.tasks) + 1, 0)
        if generation == 0:
            origin: dict[str, Any] = {"generation": generation, "expert": self.tasks[self.evaluated]}
            return Candidate(self.evaluated, self.space.expert(self.evaluated), origin)
        if generation <= len(founders := sums(self.founders, self.task_vectors, tasks)):
            alpha = founders[generation - 1]
            origin = {"generation": generation, "alpha": [[coefficient] for coefficient in alpha]}
            return Candidate(self.evaluated, self.mixture(alpha), origin)
        active, generator = generation % tasks, self.generator(generation)
        first, second = select_parents(self.archives[active].elites, generator, rule=self.selection, **self.alphas)
        child, drawn = crossover(
            self.parent(first.id),
            self.parent(second.id),
            generator,
            variant=self.crossover,
            granularity=self.granularity,
            mu=self.crossover_mu,
            sigma=self.crossover_sigma,
            stretch=self.crossover_stretch,
            density=self.density,
        )
        child = mutate(child, active, generator, variant=self.mutation, w_max=self.w_max, sigma=self.mutation_sigma)
        origin = {"generation": generation, "active": self.tasks[active], "parents": [first.id, second.id], **drawn}
        if self.mutation == "lognormal" and isinstance(child, CompactGenome):
            origin["alpha"] = child.alpha.tolist()  # it no longer follows from the parents' coefficients
        return Candidate(self.evaluated, child, origin)

    def _accept(self, candidate: Candidate, scores: Scores) -> Mapping[str, Any]:
        """Offer the model to the archives; the experts' scores first fix where the bins lie."""
        newcomer = Elite(candidate.id, tuple(scores))
        if candidate.id < len(self.tasks):
            self.experts.append(newcomer)
            self.store.save(candidate.id, candidate.genome)
            if len(self.experts) == len(self.tasks):
                self.archives = open_archives(self.experts, self.bins, self.bound_low, self.bound_high)
            return {}
        entered = [archive.task for archive in self._archives_offered(candidate) if archive.add(newcomer)]
        if entered:
            self.store.save(candidate.id, candidate.genome)
        return {"entered": [self.tasks[task] for task in entered]}

    def _archives_offered(self, candidate: Candidate) -> Sequence[Archive]:
        """Return the archives that a child may enter: all K."""
        return self.archives

    @property
    def alphas(self) -> dict[str, float]:
        """The range of γ's factors."""
        return {"alpha_low": self.alpha_low, "alpha_high": self.alpha_high}

    def chosen(self) -> Mapping[str, Sequence[Elite]]:
        """Return each archive's best elite by quality and by γ, and the elite of best mean; see the base class."""
        return final_elites(self.archives, **self.alphas)

    def result(self) -> Mapping[str, Genome]:
        """Return the aggregated model by the paper's rule and by the γ rule, and the elite of best mean."""
        models = {}
        for rule, elites in self.chosen().items():
            qualities = [elite.scores[task] for task, elite in enumerate(elites)]
            models[rule] = aggregate([self.store.load(elite.id) for elite in elites], qualities)
        return models

    def kept(self) -> set[int]:
        """Return the ids of the elites and experts."""
        return {elite.id for elite in self.experts} | {elite.id for archive in self.archives for elite in archive}

    def state_dict(self) -> dict[str, Any]:
        """Return the experts' scores and the archives; see the base class."""
        experts = [list(expert.scores) for expert in self.experts]
        return {**super().state_dict(), "experts": experts, "archives": [a.state_dict() for a in self.archives]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue an evolution; see the base class."""
        super().load_state_dict(state)
        self.experts = [Elite(id, tuple(scores)) for id, scores in enumerate(state["experts"])]
        self.archives = [Archive.from_state_dict(archive) for archive in state["archives"]]

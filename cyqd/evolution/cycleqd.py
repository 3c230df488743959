"""CycleQD, Algorithm 1 of the paper: quality diversity with cyclically swapped quality and behaviour axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, get_args

from cyqd.evolution.aggregation import aggregate, best_mean_elite, best_quality_elite, largest_gamma_elite
from cyqd.evolution.archive import Archive, Elite, Scores, behaviour_edges
from cyqd.evolution.crossover import crossover_coefficients
from cyqd.evolution.genome import ExpertSpace, Genome, GenomeStore
from cyqd.evolution.mutation import Variant, mutate
from cyqd.evolution.selection import Selection, select_parents
from cyqd.evolution.strategy import Candidate, Strategy


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
        crossover_mu: mean of the crossover's mixing weights.
        crossover_sigma: their standard deviation.
        mutation: "expert" (the paper's published code), "child", "literal" (the printed formula), "gaussian" or
            "none"; see :func:`cyqd.evolution.mutation.mutate`.
        w_max: largest stretch of a singular value by mutation.
        mutation_sigma: standard deviation of the "gaussian" mutation.

    Raises:
        ValueError: if a number is out of its range.
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
        crossover_mu: float = 1.0,
        crossover_sigma: float = 0.03,
        mutation: Variant = "expert",
        w_max: float = 0.3,
        mutation_sigma: float = 0.01,
    ) -> None:
        self.generations = generations
        self.bins = bins
        self.bound_low, self.bound_high = bound_low, bound_high
        self.selection: Selection = selection
        self.alphas = {"alpha_low": alpha_low, "alpha_high": alpha_high}
        self.crossover_mu, self.crossover_sigma = crossover_mu, crossover_sigma
        self.mutation: Variant = mutation
        self.w_max, self.mutation_sigma = w_max, mutation_sigma
        self._check()
        self.experts: list[Elite] = []
        self.archives: list[Archive] = []

    def _check(self) -> None:
        """Check every hyper-parameter's range; a comparison with NaN is false."""
        fine = {
            "generations": self.generations >= 0,
            "bins": self.bins >= 1,
            "bound_low": 0 <= self.bound_low < self.bound_high,
            "bound_high": self.bound_low < self.bound_high < math.inf,
            "selection": self.selection in get_args(Selection),
            "alpha_low": 0 < self.alphas["alpha_low"] <= self.alphas["alpha_high"],
            "alpha_high": self.alphas["alpha_high"] < math.inf,
            "crossover_mu": math.isfinite(self.crossover_mu),
            "crossover_sigma": 0 <= self.crossover_sigma < math.inf,
            "mutation": self.mutation in get_args(Variant),
            "w_max": 0 <= self.w_max < math.inf,
            "mutation_sigma": 0 <= self.mutation_sigma < math.inf,
        }
        wrong = [name for name, is_fine in fine.items() if not is_fine]
        if wrong:
            raise ValueError(f"strategy: out of range: {', '.join(wrong)}; see --strategy.help for what is allowed")

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
        tasks = len(self.tasks)
        if self.evaluated < tasks:
            origin: dict[str, Any] = {"generation": 0, "expert": self.tasks[self.evaluated]}
            return Candidate(self.evaluated, self.space.expert(self.evaluated), origin)

        generation = self.evaluated - tasks + 1
        active = generation % tasks
        generator = self.generator(generation)
        first, second = select_parents(self.archives[active].elites, generator, rule=self.selection, **self.alphas)
        a, b = crossover_coefficients(generator, mu=self.crossover_mu, sigma=self.crossover_sigma)
        child = a * self.store.load(first.id) + b * self.store.load(second.id)
        child = mutate(child, active, generator, variant=self.mutation, w_max=self.w_max, sigma=self.mutation_sigma)
        origin = {
            "generation": generation,
            "active": self.tasks[active],
            "parents": [first.id, second.id],
            "coefficients": [a, b],
        }
        return Candidate(self.evaluated, child, origin)

    def _accept(self, candidate: Candidate, scores: Scores) -> Mapping[str, Any]:
        """Offer the model to all K archives; the experts' scores first fix where the bins lie."""
        newcomer = Elite(candidate.id, tuple(scores))
        if candidate.id < len(self.tasks):
            self.experts.append(newcomer)
            self.store.save(candidate.id, candidate.genome)
            if len(self.experts) == len(self.tasks):
                self._open_archives()
            return {}
        entered = [archive.task for archive in self.archives if archive.add(newcomer)]
        if entered:
            self.store.save(candidate.id, candidate.genome)
        return {"entered": [self.tasks[task] for task in entered]}

    def _open_archives(self) -> None:
        columns = zip(*(expert.scores for expert in self.experts), strict=True)
        edges = [
            behaviour_edges(column, bins=self.bins, low=self.bound_low, high=self.bound_high) for column in columns
        ]
        self.archives = [Archive(task, edges) for task in range(len(edges))]
        for expert in self.experts:
            for archive in self.archives:
                archive.add(expert)

    def chosen(self) -> Mapping[str, Sequence[Elite]]:
        """Return each archive's best elite by quality and by γ, and the elite of best mean; see the base class."""
        if not self.archives:
            return {}
        return {
            "aggregate": [best_quality_elite(archive) for archive in self.archives],
            "gamma": [largest_gamma_elite(archive, **self.alphas) for archive in self.archives],
            "best_mean": [best_mean_elite(self.archives)],
        }

    def result(self) -> Mapping[str, Genome]:
        """Return the aggregated model by the paper's rule and by the γ rule, and the elite of best mean."""
        models = {}
        for rule, elites in self.chosen().items():
            qualities = [elite.scores[task] for task, elite in enumerate(elites)]
            models[rule] = aggregate([self.store.load(elite.id) for elite in elites], qualities)
        return models

    def best(self) -> Scores:
        """Return the quality of each archive's best elite."""
        return tuple(archive.quality(best_quality_elite(archive)) for archive in self.archives)

    def kept(self) -> set[int]:
        """Return the ids of the elites and experts."""
        return {elite.id for elite in chain(self.experts, *self.archives)}

    def settings(self) -> dict[str, Any]:
        """Return all hyper-parameters but the number of generations, which may grow; see the base class."""
        names = "bins bound_low bound_high selection crossover_mu crossover_sigma mutation w_max mutation_sigma"
        own = {name: getattr(self, name) for name in names.split()}
        return {**super().settings(), **own, **self.alphas}

    def state_dict(self) -> dict[str, Any]:
        """Return the experts' scores and the archives; see the base class."""
        experts = [list(expert.scores) for expert in self.experts]
        return {**super().state_dict(), "experts": experts, "archives": [a.state_dict() for a in self.archives]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue an evolution; see the base class."""
        super().load_state_dict(state)
        self.experts = [Elite(id, tuple(scores)) for id, scores in enumerate(state["experts"])]
        self.archives = [Archive.from_state_dict(archive) for archive in state["archives"]]

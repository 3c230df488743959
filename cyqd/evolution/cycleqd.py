"""CycleQD, Algorithm 1 of the paper: quality diversity with cyclically swapped quality and behaviour axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator

from cyqd.evolution.aggregation import aggregate, best_mean_elite, best_quality_elite, largest_gamma_elite
from cyqd.evolution.archive import Archive, Elite, Scores, behaviour_edges
from cyqd.evolution.crossover import crossover_coefficients
from cyqd.evolution.genome import Genome
from cyqd.evolution.mutation import Variant, mutate
from cyqd.evolution.selection import select_parents
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
        selection: Literal["elite", "random"] = "elite",
        alpha_low: float = 0.5,
        alpha_high: float = 0.8,
        crossover_mu: float = 1.0,
        crossover_sigma: float = 0.03,
        mutation: Variant = "expert",
        w_max: float = 0.3,
        mutation_sigma: float = 0.01,
    ) -> None:
        if generations < 0 or bins < 1 or w_max < 0 or crossover_sigma < 0 or mutation_sigma < 0:
            raise ValueError("generations, w_max and the sigmas must not be negative, and bins be at least 1")
        if not 0 <= bound_low < bound_high or not 0 < alpha_low <= alpha_high:
            raise ValueError("expected 0 ≤ bound_low < bound_high and 0 < alpha_low ≤ alpha_high")
        self.generations = generations
        self.bins, self.bounds = bins, {"low": bound_low, "high": bound_high}
        self.selection, self.alphas = selection, {"alpha_low": alpha_low, "alpha_high": alpha_high}
        self.mixing = {"mu": crossover_mu, "sigma": crossover_sigma}
        self.mutation: Variant = mutation
        self.stretch = {"w_max": w_max, "sigma": mutation_sigma}
        self.experts: list[Elite] = []
        self.archives: list[Archive] = []

    @property
    def budget(self) -> int:
        """The K experts of generation 0, then one child a generation."""
        return len(self.space.experts) + self.generations

    @property
    def spectral(self) -> bool:
        """Only the "expert" mutation uses the experts' singular bases."""
        return self.mutation == "expert"

    def ask(self) -> Candidate:
        """Return the next expert in generation 0, else breed a child from the active archive."""
        tasks = len(self.space.experts)
        if self.evaluated < tasks:
            genome = self.space.expert(self.evaluated)
            return Candidate(
                self.evaluated, genome, {"generation": 0, "expert": self.space.tasks[self.evaluated]}
            )

        generation = self.evaluated - tasks + 1
        active = generation % tasks
        generator = self._generator(generation)
        first, second = select_parents(
            self.archives[active].elites, generator, rule=self.selection, **self.alphas
        )
        a, b = crossover_coefficients(generator, **self.mixing)
        child = a * self.store.load(first.id) + b * self.store.load(second.id)
        child = mutate(child, active, generator, variant=self.mutation, **self.stretch)
        origin = {
            "generation": generation,
            "active": self.space.tasks[active],
            "parents": [first.id, second.id],
            "coefficients": [a, b],
        }
        return Candidate(self.evaluated, child, origin)

    def _accept(self, candidate: Candidate, scores: Scores) -> Mapping[str, Any]:
        """Offer the model to all K archives; the experts' scores first fix where the bins lie."""
        newcomer = Elite(candidate.id, tuple(scores))
        if candidate.id < len(self.space.experts):
            self.experts.append(newcomer)
            self.store.save(candidate.id, candidate.genome)
            if len(self.experts) == len(self.space.experts):
                self._open_archives()
            return {}
        entered = [archive.task for archive in self.archives if archive.add(newcomer)]
        if entered:
            self.store.save(candidate.id, candidate.genome)
        return {"entered": [self.space.tasks[task] for task in entered]}

    def _open_archives(self) -> None:
        columns = zip(*(expert.scores for expert in self.experts), strict=True)
        edges = [behaviour_edges(column, bins=self.bins, **self.bounds) for column in columns]
        self.archives = [Archive(task, edges) for task in range(len(edges))]
        for expert in self.experts:
            for archive in self.archives:
                archive.add(expert)

    def _generator(self, generation: int) -> Generator:
        """A generator of its own per generation, so that there is no generator state to save."""
        state = np.random.SeedSequence([self.seed, generation]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))

    def result(self) -> Mapping[str, Genome]:
        """Return the aggregated model by the paper's rule and by the γ rule, and the elite of best mean."""
        if not self.archives:
            return {}
        rules = {
            "aggregate": [best_quality_elite(archive) for archive in self.archives],
            "gamma": [largest_gamma_elite(archive, **self.alphas) for archive in self.archives],
        }
        models = {
            rule: aggregate(
                [self.store.load(elite.id) for elite in elites],
                [archive.quality(elite) for archive, elite in zip(self.archives, elites, strict=True)],
            )
            for rule, elites in rules.items()
        }
        return {**models, "best_mean": self.store.load(best_mean_elite(self.archives).id)}

    def best(self) -> Scores:
        """Return the quality of each archive's best elite."""
        return tuple(archive.quality(best_quality_elite(archive)) for archive in self.archives)

    def kept(self) -> set[int]:
        """Return the ids of the elites and experts."""
        return {elite.id for archive in self.archives for elite in archive} | {
            elite.id for elite in self.experts
        }

    def settings(self) -> dict[str, Any]:
        """Return all hyper-parameters but the number of generations, which may grow; see the base class."""
        own = {
            "bins": self.bins,
            "bounds": self.bounds,
            "selection": self.selection,
            "mutation": self.mutation,
        }
        return {**super().settings(), **own, **self.alphas, "mixing": self.mixing, "stretch": self.stretch}

    def state_dict(self) -> dict[str, Any]:
        """Return the experts' scores and the archives; see the base class."""
        experts = [list(expert.scores) for expert in self.experts]
        return {
            **super().state_dict(),
            "experts": experts,
            "archives": [a.state_dict() for a in self.archives],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue an evolution; see the base class."""
        super().load_state_dict(state)
        self.experts = [Elite(id, tuple(scores)) for id, scores in enumerate(state["experts"])]
        self.archives = [Archive.from_state_dict(archive) for archive in state["archives"]]

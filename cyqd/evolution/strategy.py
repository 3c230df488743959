"""Ask/tell: what every way of searching for merged models offers, CycleQD and baselines alike."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from cyqd.evolution.aggregation import best_quality_elite
from cyqd.evolution.archive import Archive, Elite, Scores
from cyqd.evolution.genome import CompactGenome, Genome
from cyqd.evolution.orthogonal import TaskVectors
from cyqd.evolution.parts import Granularity
from cyqd.evolution.space import ExpertSpace
from cyqd.evolution.store import GenomeStore


@dataclass(frozen=True)
class Candidate:
    """A model to be evaluated.

    Attributes:
        id: the number of this evaluation, from 0.
        genome: the model.
        origin: where it comes from, as JSON-ready builtins (generation, active task, parents; coefficients, where
            it is their weighted sum before any mutation).
    """

    id: int
    genome: Genome
    origin: Mapping[str, Any] = field(default_factory=dict)


def one_of(choices: Any, value: object) -> tuple[bool, str]:
    """Return the rule that a hyper-parameter is one of a Literal's values; see ``Strategy._require``."""
    return value in get_args(choices), f"one of {get_args(choices)}"


def at_least(low: float, value: float) -> tuple[bool, str]:
    """Return the rule that a hyper-parameter is a finite number from ``low``; see ``Strategy._require``."""
    return low <= value < math.inf, f"a number of at least {low}"


class Strategy(ABC):
    """A search that asks for one evaluation at a time.

    Call :meth:`setup` once, then, until :attr:`done`, :meth:`ask` and :meth:`tell` in turn. Everything depends
    on the seed and the scores alone, so every process of a run asks for the same models.
    """

    space: ExpertSpace
    store: GenomeStore
    seed: int
    tasks: list[str]
    evaluated: int = 0
    rules: tuple[str, ...] = ()
    """The names in :meth:`result`; the first is the default."""
    archives: Sequence[Archive] = ()
    """Its archives, one per task, where the search has any."""
    task_vectors: TaskVectors = "plain"
    """What it mixes."""

    def _require(self, **rules: tuple[bool, str]) -> None:
        """Check hyper-parameters, each by whether it is fine and what is expected; a comparison with NaN is false.

        Raises:
            ValueError: naming every one that is not fine, what was expected and what came.
        """
        wrong = [
            f"{name}: expected {expected}, got {getattr(self, name)!r}"
            for name, (fine, expected) in rules.items()
            if not fine
        ]
        if wrong:
            raise ValueError(f"strategy: {'; '.join(wrong)}")

    def setup(self, space: ExpertSpace, store: GenomeStore, seed: int, tasks: Sequence[str] | None = None) -> None:
        """Attach the strategy to the experts it merges.

        Args:
            space: the base and its experts.
            store: where genomes are kept between evaluations.
            seed: seed of all randomness.
            tasks: what models are scored on; the experts' tasks by default.
        """
        self.space, self.store, self.seed = space, store, seed
        self.tasks = list(space.tasks if tasks is None else tasks)

    def _check_ingredients(self) -> None:
        """Check that what is to be mixed is there; without it a search would mix the experts' own task vectors."""
        if self.task_vectors != "plain" and self.space.orthogonal is None:
            raise RuntimeError("the strategy mixes orthogonal task vectors, but the space has none yet")

    @property
    def mixed(self) -> int:
        """How many task vectors are mixed: one per expert, or of both kinds two."""
        return len(self.space.experts) * (2 if self.task_vectors == "both" else 1)

    def mixture(self, alpha: Sequence[float] | Tensor, granularity: Granularity = "model") -> CompactGenome:
        """Return θ_b + Σ_i α_i τ_i over the task vectors that are mixed.

        Args:
            alpha: one coefficient for each of them, or float64 [mixed, G].
            granularity: what the G parts are.
        """
        genome = CompactGenome(self.space, alpha, granularity=granularity)
        return genome.orthogonal() if self.task_vectors == "orthogonal" else genome

    def parent(self, id: int) -> Genome:
        """Return a stored genome as children inherit it: an expert passes on what is mixed of it."""
        genome = self.store.load(id)
        return genome.orthogonal() if self.task_vectors == "orthogonal" else genome

    def generator(self, step: int) -> torch.Generator:
        """Return the source of randomness of one step: seeded by it, so there is no state to save."""
        state = np.random.SeedSequence([self.seed, step]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))

    @property
    @abstractmethod
    def budget(self) -> int:
        """Number of evaluations in all."""

    @property
    def done(self) -> bool:
        """Whether the budget is spent."""
        return self.evaluated >= self.budget

    @property
    def spectral(self) -> bool:
        """Whether the strategy needs the experts' singular bases."""
        return False

    @abstractmethod
    def ask(self) -> Candidate:
        """Return the next model to evaluate."""

    def tell(self, candidate: Candidate, scores: Scores) -> Mapping[str, Any]:
        """Take a model's scores, in the order of asking.

        Returns:
            What happened, for the run's history, as JSON-ready builtins.

        Raises:
            RuntimeError: if this is not the candidate that is due, or the space lacks what the strategy mixes.
            ValueError: if the scores are not one finite number per task.
        """
        self._check_ingredients()
        if candidate.id != self.evaluated:
            raise RuntimeError(f"expected scores of evaluation {self.evaluated}, got those of {candidate.id}")
        if len(scores) != len(self.tasks) or not all(map(math.isfinite, scores)):
            raise ValueError(f"expected one finite score for each of {self.tasks}, got {tuple(scores)}")
        report = self._accept(candidate, scores)
        self.evaluated += 1
        return report

    @abstractmethod
    def _accept(self, candidate: Candidate, scores: Scores) -> Mapping[str, Any]: ...

    @abstractmethod
    def result(self) -> Mapping[str, Genome]:
        """Return the final models by the name of the rule that made them; before :attr:`done`, the best so far."""

    def chosen(self) -> Mapping[str, Sequence[Elite]]:
        """Return, by rule, the individuals that :meth:`result` aggregates, one per task, or the only one."""
        return {}

    def finalists(self, count: int) -> list[Elite]:
        """Return the individuals of highest mean score, best first, ties the most recent first.

        Their genomes are had by :meth:`individual`. A search without archives has none, unless it says otherwise.

        Args:
            count: at most so many.
        """
        elites = {elite.id: elite for archive in self.archives for elite in archive}
        return sorted(elites.values(), key=lambda elite: (elite.mean, elite.id), reverse=True)[:count]

    def individual(self, id: int) -> Genome:
        """Return the genome of one of the :meth:`finalists`, by its id.

        Raises:
            FileNotFoundError: if there is no genome of that id.
        """
        return self.store.load(id)

    def best(self) -> Scores:
        """Return the best score on each task so far, the best quality of each archive, for the progress bar."""
        return tuple(archive.quality(best_quality_elite(archive)) for archive in self.archives)

    def kept(self) -> set[int]:
        """Return the ids of the genomes in the store that are still needed."""
        return set()

    def settings(self) -> dict[str, Any]:
        """Return what must not change between a run and its continuation, as JSON-ready builtins.

        Hyper-parameters are the keyword-only arguments, each an attribute of its name; generations may grow.
        """
        own = {"strategy": type(self).__name__, "seed": self.seed, "rank": self.space.rank}
        arguments = signature(type(self)).parameters.values()
        named = [each.name for each in arguments if each.kind is each.KEYWORD_ONLY and each.name != "generations"]
        chosen = {name: getattr(self, name) for name in named}
        return {**own, "tasks": self.tasks, "models": self.space.identity, **chosen}

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON-ready builtins; genomes lie in the store."""
        return {"settings": self.settings(), "evaluated": self.evaluated, "budget": self.budget}

    def check_settings(self, state: Mapping[str, Any]) -> None:
        """Check that a saved state is of this strategy under these settings; call after :meth:`setup`.

        A hyper-parameter that the state does not know yet had its default.

        Raises:
            ValueError: naming the first setting that differs.
        """
        known = {name: p.default for name, p in signature(type(self)).parameters.items()} | state["settings"]
        for key, value in self.settings().items():
            was = known.get(key)
            was = list(was) if isinstance(was, tuple) else was  # as JSON has it
            if was != value:
                raise ValueError(f"cannot continue: the run was started with {key} = {was!r}, now it is {value!r}")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`; call after :meth:`setup`.

        Raises:
            RuntimeError: if the space lacks what the strategy mixes.
            ValueError: as :meth:`check_settings`.
        """
        self.check_settings(state)
        self._check_ingredients()
        self.evaluated = state["evaluated"]


class Roster(Strategy):
    """Scores a fixed list of models: the results table, ``cyqd test``, and baselines that need no search.

    Args:
        genomes: the models by name; may be given later, before the first ask.
    """

    def __init__(self, genomes: Mapping[str, Genome] | None = None) -> None:
        self.genomes = dict(genomes or {})
        self.scores: list[Scores] = []

    @property
    def budget(self) -> int:
        """One evaluation per model."""
        return len(self.genomes)

    def ask(self) -> Candidate:
        """Return the next model of the list."""
        name = list(self.genomes)[self.evaluated]
        return Candidate(self.evaluated, self.genomes[name], {"model": name})

    def _accept(self, candidate: Candidate, scores: Scores) -> Mapping[str, Any]:
        self.scores.append(scores)
        return {}

    def result(self) -> Mapping[str, Genome]:
        """Return the models as they were given."""
        return self.genomes

    def best(self) -> Scores:
        """Return the best score on each task so far."""
        return tuple(max(column) for column in zip(*self.scores, strict=True))

    def settings(self) -> dict[str, Any]:
        """Return which models are scored; see :class:`Strategy`."""
        return {**super().settings(), "roster": list(self.genomes)}

    def state_dict(self) -> dict[str, Any]:
        """Return the scores so far; see :class:`Strategy`."""
        return {**super().state_dict(), "scores": [list(scores) for scores in self.scores]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after the models already scored; see :class:`Strategy`."""
        super().load_state_dict(state)
        self.scores = [tuple(scores) for scores in state["scores"]]

"""Final rules that judge their candidates on fresh problems, so that a lucky score is not what gets picked."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cyqd.evolution import Elite, Genome, Roster, Strategy
from cyqd.evolution.aggregation import best_rescored, best_scale

RESCORED, SCALED = "rescored", "scaled"


@dataclass
class Final:
    """Further final rules, whose candidates are scored on the selection split when the search has ended.

    Args:
        finalists: rule `rescored`: score so many individuals of best mean score again, take the one that is best in
            both scores together; 0 for none.
        scales: rule `scaled`: the strategy's first result, its task vector times the best of these factors.

    Raises:
        ValueError: if the number is negative, or the factors are not finite and different.
    """

    finalists: int = 0
    scales: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.finalists < 0:
            raise ValueError(f"final.finalists: expected 0 or more individuals, got {self.finalists}")
        if not all(map(math.isfinite, self.scales)) or len(set(self.scales)) < len(self.scales):
            raise ValueError(f"final.scales: expected different finite factors, got {self.scales}")

    @property
    def tag(self) -> str:
        """What tells the files of runs with different further rules apart; empty where there are none."""
        asked = self.finalists or self.scales
        return f"-{hashlib.sha256(repr(self).encode()).hexdigest()[:8]}" if asked else ""

    def rules(self, strategy: Strategy) -> tuple[str, ...]:
        """Return the names of the rules beside the strategy's own; a fixed list of models has no `rescored`."""
        rescored = self.finalists > 0 and not isinstance(strategy, Roster)
        return (*[RESCORED] * rescored, *[SCALED] * bool(self.scales))

    def judged(self, strategy: Strategy) -> int:
        """Return how many models are scored on the selection split, at most."""
        return (self.finalists if RESCORED in self.rules(strategy) else 0) + len(self.scales)

    def check(self, strategy: Strategy, final_rule: str | None, data: Any, splits: Mapping[str, Any]) -> None:
        """Check, before any work, that the rules can be followed.

        Args:
            strategy: the search.
            final_rule: which rule's result becomes the run's model, if the user said so.
            data: the domain's data.
            splits: what ``data.splits()`` returns; empty if it does not name its problems.

        Raises:
            ValueError: if there is no such rule, or a task has no problems to judge candidates on.
        """
        further = self.rules(strategy)
        rules = (*strategy.rules, *further)
        if final_rule and final_rule not in rules:
            options = {RESCORED: "; see --final.finalists", SCALED: "; see --final.scales"}
            hint = options.get(final_rule, "")
            raise ValueError(f"final_rule: expected one of {', '.join(rules)}, got {final_rule}{hint}")
        if further and not hasattr(data, "selection_dataloader"):
            raise ValueError(f"final: {type(data).__name__} has no selection split to judge final models on")
        if further and (lacking := [task for task, ids in splits.items() if not ids.get("selection")]):
            raise ValueError(
                f"final: no problems of task {lacking[0]} are left to judge final models on: set its `limit` to "
                "fewer than its optimisation half has"
            )

    def candidates(self, strategy: Strategy, results: Mapping[str, Genome]) -> dict[str, Genome]:
        """Return the models to judge, by name.

        Args:
            strategy: the search, ended.
            results: what it returned.
        """
        found = {_finalist(elite): strategy.individual(elite.id) for elite in self._finalists(strategy)}
        return found | {_scale(scale): scale * results[strategy.rules[0]] for scale in self.scales}

    def choose(self, strategy: Strategy, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Choose among the candidates.

        Args:
            strategy: the search, ended.
            records: lines of a history on the selection split, one per candidate.

        Returns:
            ``chosen``, by rule: the number of the evaluation for `rescored`, the factor for `scaled`; and
            ``scores`` on the selection split, by candidate and task. Empty if there are no candidates.
        """
        scores: dict[str, dict[str, float]] = {record["model"]: record["scores"] for record in records}
        fresh = {name: math.fsum(own.values()) / len(own) for name, own in scores.items()}
        chosen: dict[str, float] = {}
        if elites := self._finalists(strategy):
            chosen[RESCORED] = best_rescored(elites, [fresh[_finalist(elite)] for elite in elites]).id
        if self.scales:
            chosen[SCALED] = best_scale(self.scales, [fresh[_scale(scale)] for scale in self.scales])
        return {"chosen": chosen, "scores": scores} if chosen else {}

    def _finalists(self, strategy: Strategy) -> list[Elite]:
        return strategy.finalists(self.finalists) if self.finalists else []


def _finalist(elite: Elite) -> str:
    return f"evaluation {elite.id}"


def _scale(scale: float) -> str:
    return f"scale {scale!r}"


def further_results(
    strategy: Strategy, results: Mapping[str, Genome], chosen: Mapping[str, Any]
) -> dict[str, Genome]:
    """Return the models of the further rules.

    Args:
        strategy: the search, ended.
        results: what it returned.
        chosen: see :meth:`Final.choose`.

    Raises:
        FileNotFoundError: if the strategy no longer holds a chosen individual.
    """
    found = {}
    if RESCORED in chosen:
        found[RESCORED] = strategy.individual(chosen[RESCORED])
    if SCALED in chosen:
        found[SCALED] = chosen[SCALED] * results[strategy.rules[0]]
    return found

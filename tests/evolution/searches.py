"""A search over coefficients whose optimum is known, and a search that is stopped and continued."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cyqd.evolution import Candidate, ExpertSpace, GenomeStore, Strategy
from cyqd.evolution.archive import Scores

TARGETS = np.array([[0.8, 0.3, 0.1], [0.5, 0.6, 0.2], [0.6, 0.2, 0.5]])
"""The coefficients at which each task scores best; the mean score is best at their mean."""
OPTIMUM = TARGETS.mean(axis=0)

Make = Callable[[], Strategy]


def quadratic(candidate: Candidate) -> Scores:
    """Score coefficients by their distance from each task's target, the mean over parts."""
    alpha = candidate.genome.alpha.numpy()  # [3, parts]
    return tuple(float(1 - np.square(alpha - target[:, None]).sum(axis=0).mean()) for target in TARGETS)


def start(strategy: Strategy, space: ExpertSpace, folder: Path, seed: int = 0) -> Strategy:
    """Set a strategy up."""
    strategy.setup(space, GenomeStore(folder, space), seed)
    return strategy


def search(
    strategy: Strategy, steps: int | None = None, judge: Callable[[Candidate], Scores] = quadratic
) -> list[Any]:
    """Ask and tell until done, or ``steps`` times; return what a history says of every model."""
    lines: list[Any] = []
    while not strategy.done and (steps is None or len(lines) < steps):
        candidate = strategy.ask()
        scores = judge(candidate)
        report = strategy.tell(candidate, scores)
        strategy.store.prune(strategy.kept())
        lines.append({"evaluation": candidate.id, **candidate.origin, "scores": scores, **report})
    return lines


def final(strategy: Strategy) -> dict[str, list[float]]:
    """Return the coefficients of every final model."""
    return {rule: genome.alpha.flatten().tolist() for rule, genome in strategy.result().items()}


def assert_continues(make: Make, space: ExpertSpace, folder: Path, *, stop: int) -> None:
    """Compare a search that was stopped after ``stop`` models, and went on from its state, with one undisturbed."""
    undisturbed = start(make(), space, folder / "undisturbed")
    whole = search(undisturbed)
    stopped = start(make(), space, folder / "stopped")
    first = search(stopped, stop)
    state = json.loads(json.dumps(stopped.state_dict()))
    continued = start(make(), space, folder / "stopped")
    continued.load_state_dict(state)
    assert continued.state_dict() == state
    assert first + search(continued) == whole
    assert continued.state_dict() == undisturbed.state_dict()
    assert final(continued) == final(undisturbed)


def assert_own_randomness(make: Make, space: ExpertSpace, folder: Path) -> None:
    """Check that a search neither reads nor moves the global generators, and follows from its seed."""
    runs = []
    for run, seed in enumerate([0, 0, 1]):
        random.seed(run), np.random.seed(run), torch.manual_seed(run)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        runs.append(search(start(make(), space, folder / str(run), seed)))
        assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert runs[0] == runs[1] != runs[2]

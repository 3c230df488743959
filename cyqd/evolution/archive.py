"""Archives: lattices of elites, one per task (paper, alternating quality and behaviour)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Scores = tuple[float, ...]
"""One score in [0, 1] per task, measured on the optimisation split."""

Cell = tuple[int, ...]
"""One bin index per behaviour axis."""

MIN_AXIS_WIDTH = 0.01
"""Width of a behaviour axis on which the experts' scores leave no range (for instance, all of them 0)."""


@dataclass(frozen=True)
class Elite:
    """A model in an archive.

    Attributes:
        id: the number of its evaluation, from 0; a larger id is a more recent model. Its genome lies in the
            genome store under this id.
        scores: its score on each task.
    """

    id: int
    scores: Scores

    @property
    def mean(self) -> float:
        """Mean score over the tasks."""
        return math.fsum(self.scores) / len(self.scores)


def behaviour_edges(expert_scores: Sequence[float], *, bins: int, low: float, high: float) -> tuple[float, ...]:
    """Place the bins of one behaviour axis (paper, experiment settings).

    Args:
        expert_scores: every expert's score on the axis' task.
        bins: number of bins.
        low: the axis starts at ``low`` · the lowest expert score.
        high: it ends at ``high`` · the highest; at least :data:`MIN_AXIS_WIDTH` from its start.

    Returns:
        ``bins + 1`` evenly spaced edges.
    """
    start = low * min(expert_scores)
    stop = max(high * max(expert_scores), start + MIN_AXIS_WIDTH)
    return tuple(float(edge) for edge in np.linspace(start, stop, bins + 1))


@dataclass
class Archive:
    """The lattice whose quality is one task's score and whose behaviour axes are the other tasks' scores.

    Args:
        task: index of the quality task.
        edges: the bin edges of every task's axis, ascending; those of the quality task are not used.
    """

    task: int
    edges: Sequence[Sequence[float]]
    cells: dict[Cell, Elite] = field(default_factory=dict)

    def cell_of(self, scores: Scores) -> Cell:
        """Return the cell of a model: bins are half-open [lo, hi), scores out of range fall into the edge bins.

        Raises:
            ValueError: if the number of scores is not the number of tasks, or a score is not finite.
        """
        if len(scores) != len(self.edges):
            raise ValueError(f"expected {len(self.edges)} scores, one per task, got {len(scores)}: {scores}")
        if not all(math.isfinite(score) for score in scores):
            raise ValueError(f"scores must be finite, got {scores}")
        cell = []
        for axis, (edges, score) in enumerate(zip(self.edges, scores, strict=True)):
            if axis != self.task:
                last = len(edges) - 2
                cell.append(min(max(int(np.searchsorted(edges, score, side="right")) - 1, 0), last))
        return tuple(cell)

    def quality(self, elite: Elite) -> float:
        """Return the elite's score on this archive's task."""
        return elite.scores[self.task]

    def add(self, newcomer: Elite) -> bool:
        """Offer a model: it enters an empty cell, or replaces an elite of strictly lower quality.

        Returns:
            Whether it entered.

        Raises:
            ValueError: as :meth:`cell_of`.
        """
        cell = self.cell_of(newcomer.scores)
        incumbent = self.cells.get(cell)
        if incumbent is not None and self.quality(newcomer) <= self.quality(incumbent):
            return False
        self.cells[cell] = newcomer
        return True

    @property
    def elites(self) -> list[Elite]:
        """The archive's models, oldest first."""
        return sorted(self.cells.values(), key=lambda elite: elite.id)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of bins on each behaviour axis."""
        return tuple(len(edges) - 1 for axis, edges in enumerate(self.edges) if axis != self.task)

    @property
    def coverage(self) -> float:
        """Share of the cells that hold a model."""
        return len(self.cells) / math.prod(self.shape)

    @property
    def qd_score(self) -> float:
        """Sum of the elites' qualities."""
        return math.fsum(self.quality(elite) for elite in self.cells.values())

    def __len__(self) -> int:
        return len(self.cells)

    def __iter__(self) -> Iterator[Elite]:
        return iter(self.elites)

    def state_dict(self) -> dict[str, Any]:
        """Return the archive as JSON-ready builtins."""
        return {
            "task": self.task,
            "edges": [list(edges) for edges in self.edges],
            "elites": [{"id": elite.id, "scores": list(elite.scores)} for elite in self.elites],
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Archive:
        """Rebuild an archive from :meth:`state_dict`."""
        archive = cls(state["task"], [tuple(edges) for edges in state["edges"]])
        for elite in state["elites"]:
            archive.add(Elite(elite["id"], tuple(elite["scores"])))
        return archive


def open_archives(experts: Sequence[Elite], bins: int, low: float, high: float) -> list[Archive]:
    """Open one archive per task, with bins placed by the experts' scores, and offer every expert to all of them.

    Args:
        experts: one per task, in the tasks' order.
        bins: number of bins on each behaviour axis.
        low: see :func:`behaviour_edges`.
        high: likewise.
    """
    columns = zip(*(expert.scores for expert in experts), strict=True)
    edges = [behaviour_edges(column, bins=bins, low=low, high=high) for column in columns]
    archives = [Archive(task, edges) for task in range(len(edges))]
    for expert in experts:
        for archive in archives:
            archive.add(expert)
    return archives

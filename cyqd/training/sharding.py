"""Exact sharding: every batch is evaluated once, by one process, and looks the same whoever evaluates it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TypeVar

import torch.distributed as dist
from torch.utils.data import Sampler

Key = TypeVar("Key", str, int)
Value = TypeVar("Value")


class ShardedBatchSampler(Sampler[list[int]]):
    """Deal a fixed list of batches out to the processes, without padding or repeats.

    Whole batches are dealt rather than samples: a batched forward pass may round differently at another batch
    size, so only equal batches give scores that are equal to the last bit on any number of processes.

    Args:
        size: number of samples.
        batch_size: samples per batch; the last batch may be smaller.
        order: the samples' order, for instance sorted by length; ``range(size)`` if not given.
        offset: the process to begin with, modulo their number; give each task the number of batches dealt out
            before it, so that tasks of few batches spread.

    Raises:
        ValueError: if ``size`` or ``batch_size`` is not positive.
    """

    def __init__(self, size: int, *, batch_size: int, order: Sequence[int] | None = None, offset: int = 0) -> None:
        if size < 1 or batch_size < 1:
            raise ValueError(f"size and batch_size must be positive, got {size} and {batch_size}")
        order = range(size) if order is None else order
        self.offset = offset
        self.batches = [list(order[i : i + batch_size]) for i in range(0, size, batch_size)]

    def _mine(self) -> list[list[int]]:
        if not dist.is_initialized():
            return self.batches
        world = dist.get_world_size()
        return self.batches[(dist.get_rank() - self.offset) % world :: world]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._mine())

    def __len__(self) -> int:
        return len(self._mine())


def shares(batches: Sequence[int], processes: int) -> list[list[int]]:
    """Deal batches out as :class:`ShardedBatchSampler` does, each task's on from where the last ends.

    Args:
        batches: their number, by task.
        processes: how many there are.

    Returns:
        For each process, its number of batches by task.
    """
    starts = [0, *accumulate(batches)]
    return [
        [
            len(range((rank - start) % processes, number, processes))
            for start, number in zip(starts, batches, strict=False)  # the last start is the end
        ]
        for rank in range(processes)
    ]


def busy(batches: Sequence[int], processes: int) -> float:
    """Return the share of an evaluation that the average process has work, if all batches take equally long."""
    return sum(batches) / processes / max(map(sum, shares(batches, processes)))


def busiest(batches: Sequence[int], seconds: Sequence[float], processes: int) -> float:
    """Return how long the process with most work takes for an evaluation.

    Args:
        batches: their number, by task.
        seconds: per batch, by task.
        processes: how many there are.
    """
    return max(
        sum(n * each for n, each in zip(share, seconds, strict=True)) for share in shares(batches, processes)
    )


def gather(notes: dict[Key, Value]) -> dict[Key, Value]:
    """Merge what the processes noted, each under keys of its own; to be called on every process."""
    gathered: list[dict[Key, Value]] = [notes]
    if dist.is_initialized():
        gathered = [{}] * dist.get_world_size()
        dist.all_gather_object(gathered, notes)
    return dict(sorted(item for part in gathered for item in part.items()))

"""Training batches in an order that is a function of seed and epoch, and that a checkpoint continues exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from torch.utils.data import DataLoader, DistributedSampler

Example = TypeVar("Example", covariant=True)


class ResumableSampler(DistributedSampler[int]):
    """Shuffles examples by seed and epoch and deals them out to the processes.

    Lightning sets the epoch, and leaves a DistributedSampler as it is. Some examples come twice at the end so that
    all processes get equally many.

    Args:
        size: number of examples.
        seed: of the order.
        rank: this process.
        processes: their number.
    """

    def __init__(self, size: int, *, seed: int = 0, rank: int = 0, processes: int = 1) -> None:
        super().__init__(range(size), num_replicas=processes, rank=rank, seed=seed)  # type: ignore[arg-type]
        self.start = 0

    def order(self) -> Sequence[int]:
        """Return this process's examples of the epoch."""
        return list(super().__iter__())

    def __iter__(self) -> Iterator[int]:
        return iter(self.order()[self.start :])


class ResumableLoader(DataLoader[Example]):
    """A training loader that, from a checkpoint within an epoch, goes on with the batch that came next.

    Its ``sampler`` is a :class:`ResumableSampler`.
    """

    sampler: ResumableSampler
    taken = 0
    resumed = False

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.taken = self.taken % len(self) if self.resumed else 0
        self.resumed = False
        assert self.batch_size is not None
        self.sampler.start = self.taken * self.batch_size
        for batch in super().__iter__():
            self.taken += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return how many batches of the epoch were taken."""
        return {"taken": self.taken}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on behind that many batches."""
        self.taken, self.resumed = state_dict["taken"], True

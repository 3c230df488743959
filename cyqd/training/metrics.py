"""The one metric of the engine: a mean whose value does not depend on the number of processes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

SCALE = 2**40
Z95 = 1.959963984540054


class Score(NamedTuple):
    """A mean score with its 95 % confidence interval.

    Attributes:
        mean: mean of the values, in [0, 1].
        low: lower end of the interval.
        high: upper end of the interval.
        n: number of values.
    """

    mean: float
    low: float
    high: float
    n: int


class MeanScore(Metric):
    """Mean of per-problem scores in [0, 1], exact under any sharding.

    Values are summed as 64-bit integers in units of 2⁻⁴⁰, so that the sum, and with it the mean, is the same
    bits in whatever order and on however many processes it is made (floating-point sums are not).
    """

    full_state_update = False
    sums: Tensor  # int64 [3]: the values' sum and their squares' sum, in units of 1/SCALE, and their number

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", default=torch.zeros(3, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Add the scores of some problems.

        Args:
            values: any shape, each in [0, 1].

        Raises:
            ValueError: if a value is outside [0, 1] or NaN.
        """
        values = torch.as_tensor(values, device=self.sums.device).double().flatten()
        if not bool(((values >= 0) & (values <= 1)).all()):
            raise ValueError(f"scores must lie in [0, 1], got {values.tolist()}")
        units = torch.stack([values, values.square()]) * SCALE
        self.sums[:2] += units.round().long().sum(dim=1)
        self.sums[2] += values.numel()

    def compute(self) -> Tensor:
        """Return the mean as a float64 scalar; 0 when no value was added."""
        return self.sums[0].double() / SCALE / self.sums[2].clamp(min=1)

    def score(self) -> Score:
        """Return the mean with its 95 % interval, over all processes.

        Scores that are all 0 or 1 get the Wilson interval, others the normal approximation.
        """
        with self.sync_context():
            total, squares, n = self.sums.tolist()
        if n == 0:
            return Score(0.0, 0.0, 1.0, 0)
        mean = total / SCALE / n
        if squares == total:
            centre = (mean + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
            half = Z95 / (1 + Z95**2 / n) * math.sqrt(mean * (1 - mean) / n + Z95**2 / (4 * n**2))
        else:
            centre = mean
            half = Z95 * math.sqrt(max(squares / SCALE / n - mean**2, 0.0) / max(n - 1, 1))
        return Score(mean, max(0.0, centre - half), min(1.0, centre + half), n)

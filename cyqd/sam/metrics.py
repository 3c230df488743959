"""How well a predicted mask fits the truth: measures of one image, each in [0, 1].

All take the foreground's probability, float [H, W] in [0, 1], and the truth, bool [H, W].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import py_sod_metrics
import torch
from numpy.typing import NDArray
from torch import Tensor

THRESHOLD = 0.5
"""A pixel of greater probability belongs to the predicted mask, as one of a logit above 0 does in SAM."""

AREA_UNIT = 2**28
"""Pixels that make a recorded area of 1. The engine sums in units of 2⁻⁴⁰, so sums of whole pixels stay exact."""


class Overlap(NamedTuple):
    """Areas of a predicted mask and the truth.

    Attributes:
        intersection: number of pixels in both.
        union: number of pixels in either.
    """

    intersection: int
    union: int

    @property
    def iou(self) -> float:
        """Intersection over union; 1 where both masks are empty."""
        return self.intersection / self.union if self.union else 1.0

    @property
    def dice(self) -> float:
        """Twice the intersection over the sum of both areas; 1 where both masks are empty."""
        return 2 * self.intersection / (self.intersection + self.union) if self.union else 1.0


def overlap(probability: Tensor, truth: Tensor) -> Overlap:
    """Return how the mask of the pixels above :data:`THRESHOLD` and the truth overlap."""
    mask = probability > THRESHOLD
    return Overlap(int((mask & truth).sum()), int((mask | truth).sum()))


def iou(probability: Tensor, truth: Tensor) -> float:
    """Return intersection over union; 1 where both masks are empty."""
    return overlap(probability, truth).iou


def dice(probability: Tensor, truth: Tensor) -> float:
    """Return the Dice coefficient; 1 where both masks are empty."""
    return overlap(probability, truth).dice


class _Smeasure(py_sod_metrics.Smeasure):  # type: ignore[misc] # the package ships no types
    """Makes no NaN of the empty quarters that an object at the right or bottom edge leaves; they weigh nothing."""

    def ssim(self, pred: NDArray[np.float64], gt: NDArray[np.bool_]) -> float:
        """Return the structural similarity of one quarter."""
        return float(super().ssim(pred, gt)) if pred.size else 0.0


def s_measure(probability: Tensor, truth: Tensor) -> float:
    """Return the structure measure with α = 0.5 (Fan et al., ICCV 2017)."""
    measure = _Smeasure()
    measure.step(*_grey(probability, truth))
    return _unit(measure.get_results()["sm"])


def e_measure(probability: Tensor, truth: Tensor) -> float:
    """Return the enhanced-alignment measure (Fan et al., IJCAI 2018), its mean over the thresholds 0, 1, …, 255.

    It divides by one less than the number of pixels, which would lift a perfect mask above 1 by a hair.
    """
    measure = py_sod_metrics.Emeasure()
    measure.step(*_grey(probability, truth))
    return _unit(measure.get_results()["em"]["curve"].mean())


def mae(probability: Tensor, truth: Tensor) -> float:
    """Return the mean absolute error, of which less is better (Perazzi et al., CVPR 2012)."""
    measure = py_sod_metrics.MAE()
    measure.step(*_grey(probability, truth))
    return _unit(measure.get_results()["mae"])


def _grey(probability: Tensor, truth: Tensor) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return both as 8-bit images, of which the published figures are made.

    PySODMetrics then stretches the prediction to the full range, as the camouflage and polyp benchmarks do.
    """
    grey = (probability.float() * 255).round().to(torch.uint8)
    return grey.cpu().numpy(), truth.to(torch.uint8).mul(255).cpu().numpy()


def _unit(value: float) -> float:
    return float(np.clip(value, 0, 1))


SALIENCY: dict[str, Callable[[Tensor, Tensor], float]] = {
    "s_measure": s_measure,
    "e_measure": e_measure,
    "mae": mae,
}
"""PySODMetrics' measures of the probability itself, by name."""


def score(probability: Tensor, truth: Tensor, measures: Iterable[str] = ()) -> tuple[float, dict[str, float]]:
    """Return the IoU of one image, and some measures by name.

    Args:
        probability: float [H, W].
        truth: bool [H, W].
        measures: any of ``dice``, ``s_measure``, ``e_measure``, ``mae``, ``intersection`` and ``union``, the last
            two in units of 2²⁸ pixels.
    """
    areas = overlap(probability, truth)
    ready = {
        "dice": areas.dice,
        "intersection": areas.intersection / AREA_UNIT,
        "union": areas.union / AREA_UNIT,
    }
    found = {name: ready[name] if name in ready else SALIENCY[name](probability, truth) for name in measures}
    return areas.iou, found

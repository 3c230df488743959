"""Measures against their definitions in numpy, and against PySODMetrics' own use."""

from __future__ import annotations

import numpy as np
import py_sod_metrics
import pytest
import torch
from torch import Tensor

from cyqd.sam.metrics import AREA_UNIT, dice, e_measure, iou, mae, s_measure, score

EMPTY, FULL = torch.zeros(12, 10, dtype=torch.bool), torch.ones(12, 10, dtype=torch.bool)
ALL = ("dice", "s_measure", "e_measure", "mae", "intersection", "union")


def blob(seed: int = 0, *, height: int = 40, width: int = 30) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    distance = ((y - 18) ** 2 + (x - 14) ** 2).sqrt()
    probability = (torch.sigmoid(9 - distance) + 0.3 * torch.rand(height, width, generator=generator)).clamp(0, 1)
    return probability, distance < 8


@pytest.mark.parametrize("seed", range(3))
def test_overlap_is_its_definition(seed: int) -> None:
    probability, truth = blob(seed)
    mask, real = probability.numpy() > 0.5, truth.numpy()
    both, either = np.logical_and(mask, real).sum(), np.logical_or(mask, real).sum()
    assert iou(probability, truth) == both / either
    assert dice(probability, truth) == 2 * both / (mask.sum() + real.sum())
    value, measures = score(probability, truth, ("dice", "intersection", "union"))
    assert value == iou(probability, truth)
    assert measures == {
        "dice": dice(probability, truth),
        "intersection": both / AREA_UNIT,
        "union": either / AREA_UNIT,
    }


def test_s_e_and_mae_are_those_of_the_published_toolbox() -> None:
    probability, truth = blob()
    grey, real = np.round(probability.numpy() * 255).astype(np.uint8), truth.numpy().astype(np.uint8) * 255
    tools = {"sm": py_sod_metrics.Smeasure(), "em": py_sod_metrics.Emeasure(), "mae": py_sod_metrics.MAE()}
    for tool in tools.values():
        tool.step(grey, real)
    assert s_measure(probability, truth) == tools["sm"].get_results()["sm"]
    assert e_measure(probability, truth) == tools["em"].get_results()["em"]["curve"].mean()
    assert mae(probability, truth) == tools["mae"].get_results()["mae"]
    stretched = (grey / 255 - grey.min() / 255) / (grey.max() / 255 - grey.min() / 255)
    assert mae(probability, truth) == pytest.approx(np.abs(stretched - truth.numpy()).mean())


def test_e_measure_is_the_mean_over_thresholds_of_the_alignment() -> None:
    probability, truth = blob()
    grey = probability.mul(255).round().numpy()
    grey = np.floor((grey - grey.min()) / (grey.max() - grey.min()) * 255 + 1e-9)
    values = []
    for threshold in range(256):
        mask, real = (grey >= threshold).astype(float), truth.numpy().astype(float)
        a, b = mask - mask.mean(), real - real.mean()
        alignment = 2 * a * b / (a**2 + b**2)
        values.append(((alignment + 1) ** 2 / 4).sum() / (mask.size - 1))
    assert e_measure(probability, truth) == pytest.approx(np.mean(values), abs=1e-9)


@pytest.mark.parametrize(
    ("mask", "truth", "expected"), [(EMPTY, EMPTY, 1.0), (FULL, FULL, 1.0), (FULL, EMPTY, 0.0), (EMPTY, FULL, 0.0)]
)
def test_empty_and_full(mask: Tensor, truth: Tensor, expected: float) -> None:
    value, measures = score(mask.float(), truth, ALL)
    assert value == measures["dice"] == measures["s_measure"] == expected
    assert measures["mae"] == 1 - expected
    assert measures["e_measure"] == pytest.approx(expected, abs=0.01)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (12, 10)])
@pytest.mark.parametrize("full", [False, True])
def test_every_measure_of_any_size_lies_between_0_and_1(shape: tuple[int, int], full: bool) -> None:
    truth = torch.zeros(shape, dtype=torch.bool)
    truth[-1, -1] = True  # one pixel
    _, measures = score(torch.full(shape, float(full)), truth, ALL)
    assert all(0 <= value <= 1 for value in measures.values()), measures


def test_an_object_in_the_corner_has_an_s_measure() -> None:
    """Three of the four quarters around its centre are empty there, of which PySODMetrics makes NaN."""
    truth = torch.zeros(12, 10, dtype=torch.bool)
    truth[-1, -1] = True
    assert s_measure(truth.float(), truth) == pytest.approx(1, abs=1e-9)
    assert s_measure(1 - truth.float(), truth) < 0.1


def test_the_threshold_is_a_logit_of_zero() -> None:
    logits = torch.tensor([[-1e-3, 0.0, 1e-3]])
    assert iou(logits.sigmoid(), torch.tensor([[False, False, True]])) == 1

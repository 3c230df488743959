"""The losses against slow formulas written pixel by pixel."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cyqd.sam.losses import LOSSES, dice_focal_loss, structure_loss, window


def example(height: int = 9, width: int = 12, *, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, 1, height, width, generator=generator) * 3
    mask = torch.zeros(batch, 1, height, width)
    mask[0, 0, 2:6, 3:9], mask[-1, 0, 5:, :4] = 1, 1
    return logits, mask


def probability(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def entropy(logit: float, m: float) -> float:
    p = probability(logit)
    return -math.log(p if m else 1 - p)


def slow_structure(logits: Tensor, mask: Tensor) -> float:
    """Of one image [H, W]."""
    height, width = logits.shape
    reach = window(max(height, width)) // 2
    weight_sum = entropy_sum = intersection = both = 0.0
    for y in range(height):
        for x in range(width):
            near = [
                float(mask[j, i]) if 0 <= j < height and 0 <= i < width else 0.0
                for j in range(y - reach, y + reach + 1)
                for i in range(x - reach, x + reach + 1)
            ]
            z, m = float(logits[y, x]), float(mask[y, x])
            weight = 1 + 5 * abs(sum(near) / len(near) - m)
            weight_sum += weight
            entropy_sum += weight * entropy(z, m)
            intersection += weight * probability(z) * m
            both += weight * (probability(z) + m)
    return entropy_sum / weight_sum + 1 - (intersection + 1) / (both - intersection + 1)


def slow_dice_focal(logits: Tensor, mask: Tensor) -> float:
    """Of one image [H, W]."""
    pixels = [(probability(float(z)), float(m)) for z, m in zip(logits.flatten(), mask.flatten(), strict=True)]
    focal = 0.0
    for p, m in pixels:
        truth, share = (p, 0.25) if m else (1 - p, 0.75)
        focal -= share * (1 - truth) ** 2 * math.log(truth) / len(pixels)
    dice = 1 - (2 * sum(p * m for p, m in pixels) + 1) / (sum(p + m for p, m in pixels) + 1)
    return 20 * focal + dice


SLOW = {"structure": slow_structure, "dice_focal": slow_dice_focal}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_the_mean_of_the_formula_over_images(name: str) -> None:
    logits, mask = example()
    slow = [SLOW[name](z[0], m[0]) for z, m in zip(logits, mask, strict=True)]
    assert float(LOSSES[name](logits, mask, torch.ones_like(mask))) == pytest.approx(sum(slow) / 2, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_an_image_and_its_transpose_have_one_loss(name: str) -> None:
    logits, mask = example(64, 9)
    upright, lying = (LOSSES[name](z, m, torch.ones_like(m)) for z, m in ((logits, mask), (logits.mT, mask.mT)))
    torch.testing.assert_close(upright, lying)


@pytest.mark.parametrize("name", LOSSES)
def test_padding_counts_for_nothing(name: str) -> None:
    logits, mask = example(9, 64)
    inside = torch.ones_like(mask)
    frame = torch.nn.ZeroPad2d((0, 0, 0, 55))
    padded = torch.where(frame(inside) > 0, frame(logits), 30.0).requires_grad_()
    loss = LOSSES[name](padded, frame(mask).to(torch.uint8), frame(inside) > 0)
    torch.testing.assert_close(loss, LOSSES[name](logits, mask, inside))
    loss.backward()
    assert padded.grad is not None
    assert not padded.grad[:, :, 9:].any()
    assert padded.grad[:, :, :9].any()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("certainty", [0.0, 90.0, -90.0])
def test_empty_and_full_masks_have_finite_gradients(name: str, value: float, certainty: float) -> None:
    logits = torch.full((1, 1, 16, 16), certainty, requires_grad=True)
    mask = torch.full_like(logits, value)
    loss = LOSSES[name](logits, mask, torch.ones_like(mask))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", [structure_loss, dice_focal_loss])
def test_a_certain_right_mask_costs_nothing_and_a_wrong_one_much(loss: object) -> None:
    assert callable(loss)
    _, mask = example()
    inside, right = torch.ones_like(mask), (mask * 2 - 1) * 40
    assert float(loss(right, mask, inside)) < 1e-3
    assert float(loss(-right, mask, inside)) > 10


def test_the_window_is_31_from_the_published_size_on() -> None:
    assert [window(size) for size in (16, 64, 224, 352, 1024)] == [3, 5, 19, 31, 31]

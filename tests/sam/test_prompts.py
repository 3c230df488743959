"""Boxes enclose, points lie within, and both are in the frame of the model's input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cyqd.sam.prompts import Prompt

MASK = np.zeros((60, 80), bool)
MASK[10:21, 30:71] = True


def prompt(mask: np.ndarray = MASK, *, seed: int = 0, **arguments: Any) -> dict[str, Tensor]:
    options = {key: arguments.pop(key) for key in ("scale", "jitter") if key in arguments}
    return Prompt(**arguments).tensors(mask, np.random.default_rng(seed), **options)


def test_no_prompt_is_nothing() -> None:
    assert prompt() == {}


def test_the_box_is_the_masks_own_in_training_frame_and_scaled() -> None:
    assert prompt(kind="box")["boxes"].tolist() == [[30, 10, 70, 20]]
    assert prompt(kind="box", scale=(0.5, 2))["boxes"].tolist() == [[15, 20, 35, 40]]


def test_jitter_stays_within_its_share_and_the_image() -> None:
    boxes = torch.cat([prompt(kind="box", box_jitter=0.2, jitter=True, seed=seed)["boxes"] for seed in range(200)])
    moved = boxes - torch.tensor([30.0, 10.0, 70.0, 20.0])
    assert (moved.abs() <= torch.tensor([8.0, 2.0, 8.0, 2.0])).all()
    assert (moved.std(dim=0) > torch.tensor([3.0, 0.7, 3.0, 0.7])).all()
    edge = np.ones((60, 80), bool)
    for seed in range(20):
        x0, y0, x1, y1 = prompt(edge, kind="box", jitter=True, seed=seed)["boxes"][0].tolist()
        assert 0 <= x0 < x1 <= 79
        assert 0 <= y0 < y1 <= 59


def test_points_lie_on_the_mask_and_differ() -> None:
    found = prompt(kind="points", points=25)
    x, y = found["points"].long().T
    assert torch.from_numpy(MASK)[y, x].all()
    assert len(set(zip(x.tolist(), y.tolist(), strict=True))) == 25
    assert found["labels"].tolist() == [1] * 25
    scaled = prompt(kind="points", points=25, scale=(2, 0.5))["points"]
    assert torch.equal(scaled, found["points"] * torch.tensor([2, 0.5]))


def test_a_mask_of_fewer_pixels_than_points_repeats_them() -> None:
    one = np.zeros((9, 9), bool)
    one[4, 7] = True
    assert prompt(one, kind="points", points=3)["points"].tolist() == [[7, 4]] * 3
    assert prompt(one, kind="box", jitter=True)["boxes"].tolist() == [[7, 4, 7, 4]]


def test_an_empty_mask_has_the_whole_image_as_box_and_background_points() -> None:
    nothing = np.zeros((60, 80), bool)
    assert prompt(nothing, kind="box", jitter=True)["boxes"].tolist() == [[0, 0, 79, 59]]
    found = prompt(nothing, kind="points", points=2)
    assert found["labels"].tolist() == [0, 0]
    assert (found["points"] < torch.tensor([80, 60])).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"kind": "scribble"}, "none, box or points"), ({"box_jitter": 0.5}, "box_jitter"), ({"points": 0}, "points")],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Prompt(**arguments)

"""Pictures of what a model segments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from cyqd.training import Picture

SIDE = 320
"""Longest side of a picture, in pixels; smaller images are not enlarged."""


def picture(batch: Mapping[str, Any], probability: Tensor) -> Picture:
    """Return an image, its truth and its predicted mask, reduced to be looked at.

    Args:
        batch: of an evaluation loader, with one image.
        probability: the foreground's, float32 [H, W], at original size.
    """
    height, width = batch["size"][0].tolist()
    image = batch["image"][:, :, :height, :width].cpu().float()
    scale = min(1.0, SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    image = F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True)
    truth, prediction = (
        F.interpolate(mask.cpu()[None, None].float(), size)[0, 0].bool().numpy()  # nearest
        for mask in (batch["truth"][0], probability > 0.5)
    )
    return Picture(image[0].round().byte().permute(1, 2, 0).numpy(), truth, prediction)

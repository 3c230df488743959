"""What the model is told beside the image: nothing, a box around the object, or points on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Prompt:
    """How prompts are made from the mask.

    Attributes:
        kind: ``none`` (end to end, as Conv-LoRA trains), ``box`` (the mask's bounding box) or ``points``.
        box_jitter: in training, each side of a box moves by up to this share of the box's width or height, in or
            out, within the image.
        points: number of points, drawn within the mask; anew at every training step, and the same at every
            evaluation.
    """

    kind: Literal["none", "box", "points"] = "none"
    box_jitter: float = 0.1
    points: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ("none", "box", "points"):
            raise ValueError(f"prompt.kind must be none, box or points, got {self.kind!r}")
        if not 0 <= self.box_jitter < 0.5:
            raise ValueError(f"prompt.box_jitter must lie in [0, 0.5), got {self.box_jitter}")
        if self.points < 1:
            raise ValueError(f"prompt.points must be at least 1, got {self.points}")

    def tensors(
        self,
        mask: NDArray[np.bool_],
        generator: np.random.Generator,
        *,
        scale: tuple[float, float] = (1.0, 1.0),
        jitter: bool = False,
    ) -> dict[str, Tensor]:
        """Make the prompt of one image.

        An empty mask, which a cropping augmentation may leave, has the whole image as its box, and points anywhere
        in the image that are labelled as background.

        Args:
            mask: bool [H, W].
            generator: draws points and jitter.
            scale: from the mask's pixels to those of the model's input, horizontally and vertically.
            jitter: whether the box is jittered.

        Returns:
            ``boxes`` float32 [1, 4] (XYXY), or ``points`` float32 [N, 2] (XY) and ``labels`` int64 [N] (1 is
            foreground), in pixels of the model's input; or nothing.
        """
        if self.kind == "none":
            return {}
        stretch = np.array(scale)
        empty = not mask.any()
        if self.kind == "box":
            left, top, right, bottom = Image.fromarray(mask).getbbox() or (0, 0, mask.shape[1], mask.shape[0])
            low, high = np.array([left, top], float), np.array([right - 1, bottom - 1], float)
            if jitter and not empty:
                moves = generator.uniform(-self.box_jitter, self.box_jitter, (2, 2)) * (high - low)
                last = np.array(mask.shape[::-1]) - 1
                low, high = (low + moves[0]).clip(0, last), (high + moves[1]).clip(0, last)
            corners = np.stack([low * stretch, high * stretch]).reshape(1, 4)
            return {"boxes": torch.tensor(corners, dtype=torch.float32)}
        inside = np.flatnonzero(~mask if empty else mask)
        drawn = generator.choice(inside, self.points, replace=len(inside) < self.points)
        y, x = np.unravel_index(drawn, mask.shape)
        return {
            "points": torch.tensor(np.stack([x, y], axis=1) * stretch, dtype=torch.float32),
            "labels": torch.full((self.points,), 0 if empty else 1, dtype=torch.long),
        }

"""From an image on disk to SAM's input frame: longest side resized, padded at the right and bottom, augmented."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor
from torch.nn import functional as F

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else importing it asks the network for its newest version
import albumentations as A

Transform: TypeAlias = A.BasicTransform | A.BaseCompose


def resize(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Resize an image [H, W, 3] as SAM's predictor does, so that its longest side is ``size``."""
    return np.asarray(ResizeLongestSide(size).apply_image(image))


def resize_mask(mask: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """Resize a mask [H, W] to the size that :func:`resize` gives its image, by the nearest pixel."""
    height, width = ResizeLongestSide.get_preprocess_shape(*mask.shape, size)
    return np.array(Image.fromarray(mask.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST), bool)


def pad(values: NDArray[Any], size: int) -> Tensor:
    """Put an image [H, W, 3] or a mask [H, W] into the top left of a square of zeros: uint8 [C, size, size]."""
    tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.uint8))
    tensor = tensor.permute(2, 0, 1) if tensor.ndim == 3 else tensor[None]
    return F.pad(tensor, (0, size - tensor.shape[2], 0, size - tensor.shape[1]))


def default_augmentation() -> list[Transform]:
    """Return mirror images, small shifts, turns and changes of scale, and of brightness and contrast."""
    return [
        A.HorizontalFlip(p=0.5),
        A.Affine(scale=(0.8, 1.25), translate_percent=0.1, rotate=(-15, 15), p=0.5),
        A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.5),
    ]


class Augmentation:
    """albumentations on an image and its mask, as a function of a seed.

    Args:
        transforms: in their order; none at all leaves everything as it is.
    """

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.pipeline = A.Compose(list(transforms))

    def __call__(
        self, image: NDArray[np.uint8], mask: NDArray[np.bool_], seed: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Augment an image [H, W, 3] and its mask [H, W]; both may come out at another size.

        Raises:
            ValueError: if the transforms make anything but an 8-bit colour image.
        """
        # One sequence of draws for all transforms; set_random_seed would give each of them the same one.
        self.pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        found = self.pipeline(image=image, mask=mask.astype(np.uint8))
        changed = found["image"]
        if not isinstance(changed, np.ndarray) or changed.dtype != np.uint8 or changed.shape[2:] != (3,):
            raise ValueError(
                f"data.augment: expected an image uint8 [H, W, 3] from the transforms, got {changed.dtype} "
                f"{list(changed.shape)}; leave out Normalize, ToFloat and ToTensorV2: SAM normalises itself"
            )
        return changed, found["mask"] > 0

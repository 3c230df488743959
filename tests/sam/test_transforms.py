"""The input frame is SAM's own, and augmentation moves image and mask alike."""

from __future__ import annotations

import albumentations as A
import numpy as np
import pytest
import torch
from albumentations.pytorch import ToTensorV2
from segment_anything import SamPredictor
from segment_anything.utils.transforms import ResizeLongestSide

from cyqd.sam.architecture import build
from cyqd.sam.transforms import Augmentation, default_augmentation, pad, resize, resize_mask

SHAPES = [(50, 80), (80, 50), (64, 64), (31, 7), (300, 400)]


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_pixels_are_those_of_sams_own_predictor(shape: tuple[int, int]) -> None:
    sam = build("tiny").eval()
    seen: list[torch.Tensor] = []
    sam.image_encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    SamPredictor(sam).set_image(picture(*shape))
    ours = pad(resize(picture(*shape), 64), 64)
    size = ResizeLongestSide.get_preprocess_shape(*shape, 64)
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[: size[0], : size[1]] = True
    expected = torch.where(inside, (ours - sam.pixel_mean) / sam.pixel_std, 0)
    assert torch.equal(seen[0][0], expected)
    assert not ours[:, ~inside].any()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mask_gets_its_images_size(shape: tuple[int, int]) -> None:
    mask = np.zeros(shape, bool)
    mask[: shape[0] // 2] = True
    resized = resize_mask(mask, 64)
    assert resized.shape == resize(picture(*shape), 64).shape[:2]
    assert resized.mean() == pytest.approx(mask.mean(), abs=0.04)
    assert pad(resized, 64).shape == (1, 64, 64)


def coloured(mask: np.ndarray) -> np.ndarray:
    """An image that shows its own mask: white where it is, black elsewhere."""
    return np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255


def test_image_and_mask_move_together() -> None:
    mask = np.zeros((64, 48), bool)
    mask[20:40, 10:22] = True
    transforms = [A.HorizontalFlip(), A.RandomRotate90(), A.Affine(rotate=(-30, 30), translate_percent=0.2, p=1)]
    augmentation = Augmentation(transforms)
    shapes = set()
    for seed in range(30):
        image, moved = augmentation(coloured(mask), mask, seed)
        shapes.add(moved.shape)
        assert ((image[..., 0] > 127) == moved).mean() > 0.97  # but for edges: the image is interpolated
    assert shapes == {(64, 48), (48, 64)}


def test_augmentation_is_a_function_of_the_seed() -> None:
    mask = picture(64, 48)[..., 0] > 127
    augmentation = Augmentation([*default_augmentation(), A.OneOf([A.GaussNoise(), A.CLAHE()], p=0.9)])
    first = [augmentation(picture(64, 48), mask, seed) for seed in range(20)]
    for seed in reversed(range(20)):
        for one, two in zip(first[seed], augmentation(picture(64, 48), mask, seed), strict=True):
            np.testing.assert_array_equal(one, two)
    assert len({image.tobytes() for image, _ in first}) > 15


def test_transforms_draw_independently() -> None:
    """With one seed for each of them they would all be applied or all be left out."""
    augmentation = Augmentation([A.HorizontalFlip(p=0.5), A.InvertImg(p=0.5)])
    image = np.zeros((8, 8, 3), np.uint8)
    image[:, :4] = 10
    outcomes = set()
    for seed in range(50):
        changed, _ = augmentation(image, image[..., 0] > 0, seed)
        outcomes.add((bool(changed.min() > 100), bool(changed[0, 0, 0] > changed[0, -1, 0])))
    assert len(outcomes) == 4


@pytest.mark.parametrize("last", [A.Normalize(), A.ToFloat(), A.ToGray(num_output_channels=1, p=1), ToTensorV2()])
def test_what_is_no_8_bit_image_is_refused(last: A.BasicTransform) -> None:
    with pytest.raises(ValueError, match=r"data\.augment: expected an image uint8 .* SAM normalises itself"):
        Augmentation([last])(picture(9, 7), picture(9, 7)[..., 0] > 99, 0)


def test_no_transforms_change_nothing() -> None:
    image, mask = Augmentation([])(picture(9, 7), picture(9, 7)[..., 0] > 99, 0)
    np.testing.assert_array_equal(image, picture(9, 7))
    np.testing.assert_array_equal(mask, picture(9, 7)[..., 0] > 99)

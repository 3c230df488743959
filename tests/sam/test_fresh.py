"""The fresh domains: well formed, drawn from a seed, and written as the demo's are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.fresh_sam import DOMAINS
from cyqd.sam import Folder
from cyqd.sam.demo.domains import SIZE
from cyqd.sam.demo.generate import generate
from cyqd.sam.masks import read_image, read_mask


@pytest.mark.parametrize("name", DOMAINS)
def test_every_mask_holds_object_and_background_in_fair_shares(name: str) -> None:
    images, masks = DOMAINS[name](np.random.default_rng(0), 200)
    assert (images.shape, images.dtype) == ((200, SIZE, SIZE, 3), np.uint8)
    assert (masks.shape, masks.dtype) == ((200, SIZE, SIZE), np.bool_)
    shares = masks.mean((1, 2))
    assert 0.03 < shares.min() < shares.max() < 0.5


@pytest.mark.parametrize("name", DOMAINS)
def test_the_seed_determines_images_and_masks(name: str) -> None:
    (images, masks), (again, masks_again), (others, _) = (
        DOMAINS[name](np.random.default_rng(seed), 10) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(masks, masks_again)
    assert len({image.tobytes() for image in (*images, *others)}) == 20


def test_they_are_written_as_the_demos_are(tmp_path: Path) -> None:
    generate(tmp_path, seed=2, domains=DOMAINS, base=dict.fromkeys(DOMAINS, 3), train=4, evaluation=5)
    for number, (name, domain) in enumerate(DOMAINS.items()):
        for stream, (part, size) in enumerate({"base": 3, "train": 4, "eval": 5}.items()):
            pairs = Folder(tmp_path / "data" / name / part).pairs()
            images, masks = domain(np.random.default_rng([2, number, stream]), size)
            np.testing.assert_array_equal([read_image(pair.image) for pair in pairs], images)
            np.testing.assert_array_equal([read_mask(pair.mask) for pair in pairs], masks)


def test_a_domain_without_a_base_size_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="for every domain, got none for bubbles"):
        generate(tmp_path, seed=0, domains=DOMAINS, base={"cells": 1, "ships": 1, "cracks": 1})

"""The demo's domains: drawn from a seed, hard in ways of their own, and never an image twice."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cyqd.sam import Folder
from cyqd.sam.demo.domains import DOMAINS, SIZE
from cyqd.sam.demo.generate import generate
from cyqd.sam.masks import read_image, read_mask
from cyqd.sam.weights import load

SIZES = {"base": 30, "train": 60, "eval": 40}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    generate(folder, seed=0, base=dict.fromkeys(DOMAINS, SIZES["base"]), train=60, evaluation=40)
    return folder


@pytest.mark.parametrize("name", DOMAINS)
def test_the_seed_determines_images_and_masks(name: str) -> None:
    def draw(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        return DOMAINS[name](np.random.default_rng(seed), 20)

    (images, masks), (again, masks_again), (others, _) = draw(0), draw(0), draw(1)
    np.testing.assert_array_equal(images, again)
    np.testing.assert_array_equal(masks, masks_again)
    assert all((image != other).any() for image, other in zip(images, others, strict=True))


@pytest.mark.parametrize("name", DOMAINS)
def test_masks_hold_object_and_background_in_fair_shares(name: str) -> None:
    images, masks = DOMAINS[name](np.random.default_rng(0), 200)
    assert images.shape == (200, SIZE, SIZE, 3)
    assert images.dtype == np.uint8
    assert masks.shape == (200, SIZE, SIZE)
    assert masks.dtype == np.bool_
    shares = masks.mean((1, 2))
    assert 0.01 < shares.min() < 0.5 * shares.max()
    assert shares.max() < 0.5
    assert len({image.tobytes() for image in images}) == 200


def test_colour_does_not_tell_the_camouflaged_object() -> None:
    gaps = {name: np.median(_gap(*DOMAINS[name](np.random.default_rng(0), 200))) for name in DOMAINS}
    assert gaps["camouflage"] < 8
    assert min(gaps[name] for name in ("skin", "leaf")) > 2 * gaps["camouflage"]


def _gap(images: NDArray[np.uint8], masks: NDArray[np.bool_]) -> NDArray[np.floating]:
    """Return the distance between the mean colours of object and background, 0 to 255, per image."""
    pixels, inside = images.astype(float), masks[..., None].astype(float)
    object_, ground = ((pixels * weight).sum((1, 2)) / weight.sum((1, 2)) for weight in (inside, 1 - inside))
    return np.abs(object_ - ground).mean(1)


def test_domains_differ_in_colour() -> None:
    means = {name: DOMAINS[name](np.random.default_rng(0), 100)[0].mean((1, 2)) for name in DOMAINS}
    for one, other in combinations(DOMAINS, 2):
        between = np.linalg.norm(means[one].mean(0) - means[other].mean(0))
        assert between > 10, (one, other)


def test_every_part_is_written_and_none_shares_an_image(demo: Path) -> None:
    seen: dict[bytes, Path] = {}
    for name in DOMAINS:
        for part, size in SIZES.items():
            pairs = Folder(demo / "data" / name / part).pairs()
            assert len(pairs) == size
            for pair in pairs:
                content = pair.image.read_bytes()
                assert seen.setdefault(content, pair.image) == pair.image
    assert len(seen) == len(DOMAINS) * sum(SIZES.values())


@pytest.mark.parametrize("name", DOMAINS)
def test_files_hold_what_was_drawn(demo: Path, name: str) -> None:
    pairs = Folder(demo / "data" / name / "eval").pairs()
    images, masks = DOMAINS[name](np.random.default_rng([0, list(DOMAINS).index(name), 2]), SIZES["eval"])
    for index in (0, SIZES["eval"] - 1):
        np.testing.assert_array_equal(read_image(pairs[index].image), images[index])
        np.testing.assert_array_equal(read_mask(pairs[index].mask), masks[index])


def test_the_first_model_is_a_tiny_sam(demo: Path) -> None:
    sam = load(demo / "init")
    assert sam.image_encoder.img_size == SIZE
    assert sum(parameter.numel() for parameter in sam.parameters()) < 300_000

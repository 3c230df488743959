"""Any encoding of a mask gives the same foreground; bad files are named, all at once."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cyqd.sam.layouts import Folder, Pair
from cyqd.sam.masks import check, complaint, read_image, read_mask

DATA = Path(__file__).parents[2] / "../shared/data/segmentation"
DOMAINS = ("camouflage", "polyp", "skin", "leaf", "membrane")
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the public test data is not beside the project")

TRUTH = np.zeros((48, 64), bool)
TRUTH[10:30, 20:50] = True
ORIENTATION = 0x0112


def palette(
    first: tuple[int, int, int], second: tuple[int, int, int], index: NDArray[np.bool_] = TRUTH
) -> Image.Image:
    image = Image.fromarray(index.astype(np.uint8), "P")
    image.putpalette([*first, *second])
    return image


def grey(foreground: int, dtype: type = np.uint8) -> Image.Image:
    return Image.fromarray(TRUTH.astype(dtype) * dtype(foreground))


def transparent() -> Image.Image:
    """White everywhere, but the background cannot be seen."""
    return Image.merge("LA", [Image.new("L", TRUTH.shape[::-1], 255), grey(255)])


def smooth() -> Image.Image:
    """Edges of intermediate values, as a resized mask has."""
    values = TRUTH * 200.0
    values[9, 20:50] = 90
    return Image.fromarray(values.astype(np.uint8))


ENCODINGS: dict[str, tuple[Callable[[], Image.Image], str]] = {
    "0 and 255": (lambda: grey(255), "png"),
    "0 and 1": (lambda: grey(1), "png"),
    "one bit": (lambda: grey(255).convert("1"), "png"),
    "16 bits": (lambda: grey(65535, np.uint16), "png"),
    "16 bits, of which 8 are used": (lambda: grey(255, np.uint16), "png"),
    "float": (lambda: grey(1, np.float32), "tiff"),
    "RGB": (lambda: grey(255).convert("RGB"), "png"),
    "red": (lambda: Image.merge("RGB", [grey(255), grey(0), grey(0)]), "png"),
    "RGBA": (lambda: grey(255).convert("RGBA"), "png"),
    "alpha": (transparent, "png"),
    "palette": (lambda: palette((0, 0, 0), (255, 255, 255)), "png"),
    "palette of dark colours": (lambda: palette((90, 90, 90), (20, 0, 0)), "png"),
    "palette that begins with white": (lambda: palette((255, 255, 255), (0, 0, 0), TRUTH == 0), "png"),
    "quantized": (lambda: grey(255).convert("RGB").quantize(2), "png"),
    "adaptive palette": (lambda: grey(255).convert("RGB").convert("P", palette=Image.Palette.ADAPTIVE), "png"),
    "grey palette": (lambda: grey(255).convert("P"), "png"),
    "web palette": (lambda: grey(255).convert("RGB").convert("P"), "tif"),
    "quantized GIF": (lambda: grey(255).convert("RGB").quantize(2), "gif"),
    "GIF that begins with white": (lambda: palette((255, 255, 255), (0, 0, 0), TRUTH == 0), "gif"),
    "GIF of grey": (lambda: grey(255), "gif"),
    "GIF": (lambda: palette((0, 0, 0), (255, 255, 255)), "gif"),
    "smooth edges": (smooth, "png"),
    "bitmap": (lambda: grey(255), "bmp"),
    "TIFF": (lambda: grey(255), "tif"),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_lossless_encoding_gives_the_same_mask(encoding: str, tmp_path: Path) -> None:
    make, suffix = ENCODINGS[encoding]
    make().save(tmp_path / f"mask.{suffix}")
    np.testing.assert_array_equal(read_mask(tmp_path / f"mask.{suffix}"), TRUTH)


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_lossy_mask_is_cut_at_half_of_the_range(suffix: str, mode: str, tmp_path: Path) -> None:
    grey(255).convert(mode).save(tmp_path / f"mask.{suffix}", quality=50)
    np.testing.assert_array_equal(read_mask(tmp_path / f"mask.{suffix}"), TRUTH)


def test_noise_in_an_empty_lossy_mask_is_no_foreground(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 9, TRUTH.shape).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "mask.jpg", quality=60)
    assert np.asarray(Image.open(tmp_path / "mask.jpg")).max() > 0
    assert not read_mask(tmp_path / "mask.jpg").any()


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_and_masks_are_turned_upright(orientation: int, suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    files = tmp_path / f"image.{suffix}", tmp_path / "mask.png"
    for path in files:
        grey(255).save(path, exif=exif)
    image, mask = read_image(files[0]), read_mask(files[1])
    assert mask.shape == image.shape[:2] == (TRUTH.shape if orientation <= 4 else TRUTH.shape[::-1])
    np.testing.assert_array_equal(image[..., 0] > 127, mask)
    assert not check([Pair("a", *files)])


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "CMYK", "I;16"])
def test_images_of_any_mode_are_read_as_rgb(mode: str, tmp_path: Path) -> None:
    values = np.where(TRUTH, 200, 40)
    if mode == "I;16":
        image = Image.fromarray((values * 257).astype(np.uint16))
    else:
        colour = Image.fromarray(values.astype(np.uint8)).convert("RGB")
        image = colour.quantize(4) if mode == "P" else colour.convert(mode)
    path = tmp_path / "image.tif"
    image.save(path)
    read = read_image(path)
    assert (read.shape, read.dtype) == ((*TRUTH.shape, 3), np.uint8)
    if mode != "1":
        np.testing.assert_allclose(read[..., 1], values, atol=3)


def test_an_image_of_16_bits_that_uses_8_of_them_is_not_made_black(tmp_path: Path) -> None:
    Image.fromarray(np.where(TRUTH, 200, 40).astype(np.uint16)).save(tmp_path / "image.png")
    np.testing.assert_array_equal(read_image(tmp_path / "image.png")[..., 1], np.where(TRUTH, 200, 40))


def test_an_image_of_floating_point_values_is_refused(tmp_path: Path) -> None:
    pair = Pair("a", tmp_path / "a.tif", tmp_path / "mask.png")
    grey(1, np.float32).save(pair.image)
    grey(255).save(pair.mask)
    message = r"a\.tif: cannot be read \(it holds floating-point values.* save it with 8 or 16 bits"
    with pytest.raises(ValueError, match=message):
        read_image(pair.image)
    assert re.search(message, check([pair])[pair])


def test_an_image_of_which_nothing_would_be_left_is_bad(tmp_path: Path) -> None:
    pair = Pair("a", tmp_path / "a.png", tmp_path / "mask.png")
    for path in pair.image, pair.mask:
        Image.new("L", (200, 1), 255).save(path)
    assert not check([pair], image_size=100)
    assert "a.png: 200×1 pixels, too thin to be resized to 64" in check([pair], image_size=64)[pair]


def bad_files(folder: Path) -> dict[str, str]:
    """Make one good pair and one of each kind of bad ones; return a part of the message by id."""
    for part in "images", "masks":
        (folder / part).mkdir(parents=True)
    names = ["good", "other_size", "empty", "cut_image", "cut_mask", "no_image", "no_image_file", "no_mask"]
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*TRUTH.shape, 3)).astype(np.uint8))
    for name in names:
        rgb.save(folder / f"images/{name}.jpg")
        grey(255).save(folder / f"masks/{name}.png")
    grey(255).resize((32, 32)).save(folder / "masks/other_size.png")
    grey(0).save(folder / "masks/empty.png")
    for path in folder / "images/cut_image.jpg", folder / "masks/cut_mask.png":
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    (folder / "images/no_image.jpg").write_text("<html>404</html>")
    (folder / "images/no_image_file.jpg").unlink()
    (folder / "masks/no_mask.png").unlink()
    return {
        "other_size": "32×32 pixels, but the image other_size.jpg has 64×48",
        "empty": "the mask is empty",
        "cut_image": "images/cut_image.jpg: cannot be read",
        "cut_mask": "masks/cut_mask.png: cannot be read",
        "no_image": "images/no_image.jpg: cannot be read",
        "no_image_file": "masks/no_image_file.png: mask without an image",
        "no_mask": "images/no_mask.jpg: image without a mask",
    }


def test_all_bad_pairs_are_found_and_named(tmp_path: Path) -> None:
    expected = bad_files(tmp_path)
    pairs, steps = Folder(tmp_path).pairs(), []
    found = {pair.id: problem for pair, problem in check(pairs, lambda: steps.append(1)).items()}
    assert found.keys() == expected.keys()
    for name, part in expected.items():
        assert part in found[name]
    assert len(steps) == len(pairs) == 8


def test_a_verdict_follows_the_file(tmp_path: Path) -> None:
    bad_files(tmp_path)
    pair = next(pair for pair in Folder(tmp_path).pairs() if pair.id == "empty")
    assert check([pair])
    grey(255).save(pair.mask)
    assert not check([pair])


def test_a_file_that_is_no_image_is_named_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"not an image")
    for read in read_image, read_mask:
        with pytest.raises(ValueError, match=r"a\.png: cannot be read"):
            read(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"b\.png: no such file"):
        read_image(tmp_path / "b.png")


def test_a_long_list_is_cut_with_the_count() -> None:
    text = complaint([f"file {i}" for i in range(30)])
    assert "file 19" in text
    assert "file 20" not in text
    assert text.endswith("and 10 more")


@needs_data
@pytest.mark.data
@pytest.mark.parametrize("domain", DOMAINS)
def test_real_images_of_every_domain(domain: str) -> None:
    """All pairs are good, and foreground is what the pack's own record says."""
    records = [json.loads(line) for line in (DATA / domain / "index.jsonl").read_text().splitlines()]
    pairs = {pair.image.name: pair for pair in Folder(DATA / domain).pairs()}
    assert len(pairs) == len(records)
    assert not check(list(pairs.values()))
    for record in sorted(records, key=lambda record: record["width"] * record["height"])[
        :: max(1, len(records) // 12)
    ]:
        mask = read_mask(pairs[Path(record["image"]).name].mask)
        assert mask.shape == (record["height"], record["width"])
        assert mask.mean() == pytest.approx(record["foreground_fraction"], abs=1e-4)


def agreement(mask: NDArray[np.bool_], quality: int, path: Path) -> float:
    stream = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB").save(stream, "JPEG", quality=quality)
    path.write_bytes(stream.getvalue())
    return float((read_mask(path) == mask).mean())


@needs_data
@pytest.mark.data
def test_real_polyp_masks_survive_lossy_compression(tmp_path: Path) -> None:
    """PolypGen and Kvasir-SEG ship their masks as JPEG files; so would these be."""
    masks = [read_mask(pair.mask) for pair in Folder(DATA / "polyp").pairs()[::4]]
    for quality, least in (75, 0.99999), (10, 0.9998):
        assert min(agreement(mask, quality, tmp_path / "mask.jpg") for mask in masks) > least

"""Images and masks as they lie on disk: a rule that makes any mask binary, a check that names all bad files."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from segment_anything.utils.transforms import ResizeLongestSide

from cyqd.sam.layouts import Pair

LOSSY = ("JPEG", "MPO", "JPEG2000", "WEBP")
"""Formats that may blur a mask's values, so that the largest one in a file says nothing.

JPEG 2000 and WebP files count as lossy even where they are not: neither says so of itself.
"""

THREADS = min(16, os.cpu_count() or 1)
"""Threads that decode files; decoding gives the interpreter free."""

_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a file; whatever Pillow raises for a bad one becomes a ValueError that names it."""
    try:
        # The file, not its name: by its name Pillow maps a plain TIFF into memory at its turned size, in disorder.
        with path.open("rb") as file, Image.open(file) as image:
            yield image
    except _UNREADABLE as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise ValueError(f"{path}: {reason}") from error


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image of any mode as RGB, turned upright by its EXIF orientation; transparency is dropped.

    Returns:
        uint8 [H, W, 3].

    Raises:
        ValueError: naming the file, if it cannot be read, or holds floating-point values.
    """
    with _opened(path) as image:
        _check_mode(image)
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits, which Pillow would clip to 8 rather than scale
            values = np.asarray(image).astype(np.int64)
            values = values // 257 if values.max() > 255 else values  # some files use 8 of the bits alone
            image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
        return np.array(image.convert("RGB"))


def _check_mode(image: Image.Image) -> None:
    if image.mode == "F":
        raise ValueError("it holds floating-point values, whose range is not known: save it with 8 or 16 bits")


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Read a mask of any encoding as foreground (True) and background.

    - Palette: black is background and every other colour foreground. Where nothing is black, index 0 is background.
    - Else the value is the largest of red, green and blue, and what is more than half transparent is background.
      In a lossless file, foreground is what exceeds half of the largest value in it, so that 0/1, 0/255, 0/65535
      and smooth edges all come out alike. In a lossy one (:data:`LOSSY`) it is what exceeds 127, since there the
      values of an empty mask need not be 0.

    A mask of several classes must be made binary beforehand. EXIF orientation counts, as for images.

    Returns:
        bool [H, W].

    Raises:
        ValueError: naming the file, if it cannot be read.
    """
    with _opened(path) as image:
        lossy = image.format in LOSSY
        image = ImageOps.exif_transpose(image)
        if image.mode in ("PA", "CMYK", "YCbCr", "LAB", "HSV"):
            image = image.convert("RGBA" if image.mode == "PA" else "RGB")
        values: NDArray[Any] = np.asarray(image)
        if image.mode == "P":
            colours = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
            background = np.isin(values, np.flatnonzero(~colours.any(axis=1)))
            return ~background if background.any() else np.asarray(values != 0)
        opaque = values[..., -1] > 127 if image.mode in ("LA", "RGBA") else True
        if values.ndim == 3:
            values = values[..., :3].max(axis=2) if image.mode.startswith("RGB") else values[..., 0]
        return np.asarray((values > (127 if lossy else values.max() / 2)) & opaque)


def check(
    pairs: Sequence[Pair], progress: Callable[[], object] = lambda: None, *, image_size: int = 1024
) -> dict[Pair, str]:
    """Read every file once, in threads.

    A verdict is remembered by the files' sizes and times of change for as long as the process lives.

    Args:
        pairs: what to check.
        progress: called after each pair.
        image_size: side of the model's input.

    Returns:
        What is wrong, by pair: a file that is missing or cannot be read, sizes that differ, an empty mask, an image
        so thin that nothing is left of it at ``image_size``.
    """
    found = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for pair, problem in zip(pairs, pool.map(partial(_verdict_of, image_size), pairs), strict=True):
            if problem is not None:
                found[pair] = problem
            progress()
    return found


def _verdict_of(image_size: int, pair: Pair) -> str | None:
    stamps = [(file.stat().st_size, file.stat().st_mtime_ns) for file in (pair.image, pair.mask) if file.exists()]
    return _verdict(pair, image_size, tuple(stamps))


@lru_cache(maxsize=1 << 18)
def _verdict(pair: Pair, image_size: int, stamps: tuple[tuple[int, int], ...]) -> str | None:
    if not pair.image.exists():
        return f"{pair.mask}: mask without an image of its name in {pair.image.parent}"
    if not pair.mask.exists():
        return f"{pair.image}: image without a mask of its name in {pair.mask.parent}"
    try:
        size = _checked_size(pair.image)
        mask = read_mask(pair.mask)
    except ValueError as error:
        return str(error)
    if size != mask.shape:
        return (
            f"{pair.mask}: {mask.shape[1]}×{mask.shape[0]} pixels, but the image {pair.image.name} "
            f"has {size[1]}×{size[0]}"
        )
    if 0 in ResizeLongestSide.get_preprocess_shape(*size, image_size):
        return f"{pair.image}: {size[1]}×{size[0]} pixels, too thin to be resized to {image_size}"
    return None if mask.any() else f"{pair.mask}: the mask is empty"


def _checked_size(path: Path) -> tuple[int, int]:
    """Return height and width of an image, which is read to its end; a JPEG coarsely, which is faster."""
    with _opened(path) as image:
        _check_mode(image)
        full = image.size
        coarse = image.draft("RGB", (1, 1))
        image.load()  # turns a TIFF, which then has no orientation any more
        width, height = full if coarse else image.size
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        return (width, height) if turned else (height, width)


def complaint(problems: Sequence[str], *, shown: int = 20) -> str:
    """List problems one a line, at most ``shown`` of them, with their number."""
    more = f"\n  and {len(problems) - shown} more" if len(problems) > shown else ""
    return "".join(f"\n  {problem}" for problem in problems[:shown]) + more

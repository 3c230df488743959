"""Four synthetic segmentation domains, 64 × 64 pixels, drawn from a seed.

Each is one sentence about a real domain: what is sought, what tells it from its surroundings, and what misleads.
A domain is a function ``(rng, n) -> (images uint8 [n, 64, 64, 3] RGB, masks bool [n, 64, 64])``; every mask holds
object and background.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

SIZE = 64
"""Height and width of the images, in pixels."""

Field = NDArray[np.float32]
"""One value a pixel: ``[n, 64, 64]``."""

Domain = Callable[[np.random.Generator, int], tuple[NDArray[np.uint8], NDArray[np.bool_]]]

Y, X = np.mgrid[:SIZE, :SIZE].astype(np.float32)
"""Pixel coordinates, ``[64, 64]``."""


def camouflage(rng: np.random.Generator, n: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """One blob with the colours of its surroundings; only the direction of its texture gives it away."""
    angle = draw(rng, n, 0, np.pi)
    mask = blob(rng, n, radius=(11, 20), rough=0.18) > 0
    turned = angle + draw(rng, n, 0.35, 0.5) * np.pi
    texture = np.where(mask, _stripes(rng, n, turned), _stripes(rng, n, angle))
    colour = colours(rng, n, (70, 80, 50), (150, 140, 100))
    hue = np.array([1.0, 0.9, 0.6], np.float32)
    light = 0.36 * texture + 0.15 * noise(rng, n, 14)
    return picture(colour * (1 + light[..., None] * hue)), mask


def polyp(rng: np.random.Generator, n: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """One bump on a pink, folded wall: lit from one side, dark on the other; highlights lie everywhere."""
    depth = blob(rng, n, radius=(9, 19), rough=0.08)
    mask = depth > 0
    height = np.sqrt(np.clip(depth, 0, 12) / 12)
    light = draw(rng, n, 0, 2 * np.pi)
    slope_y, slope_x = np.gradient(height, axis=(1, 2))
    shade = 2.6 * (np.cos(light) * slope_x + np.sin(light) * slope_y) + 0.16 * height
    folds = 0.08 * noise(rng, n, 9) + 0.04 * noise(rng, n, 3)
    colour = colours(rng, n, (180, 80, 75), (225, 125, 115))
    image = colour * (1 + (shade + folds)[..., None])
    for _ in range(3):
        glint = blob(rng, n, radius=(1.5, 3.5), rough=0.2, margin=2) > 0
        image = np.where(glint[..., None], 235 + 8 * noise(rng, n, 1)[..., None], image)
    return picture(image), mask


def skin(rng: np.random.Generator, n: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """One dark, soft-edged, mottled lesion below dark hairs; the corners of the picture are dark too."""
    depth = blob(rng, n, radius=(9, 19), rough=0.22)
    mask = depth > 0
    colour = colours(rng, n, (190, 140, 115), (240, 195, 170))
    edge = 0.5 + 0.5 * np.tanh(depth / draw(rng, n, 1.2, 4.0))
    dark = draw(rng, n, 0.15, 0.45) * edge
    mottle = 1 + 0.12 * noise(rng, n, 4) * mask + 0.05 * noise(rng, n, 6) + 0.03 * noise(rng, n, 1)
    corners = np.clip(np.hypot(X - SIZE / 2, Y - SIZE / 2) - draw(rng, n, 30, 42), 0, None) / 14
    image = colour * (np.clip(1 - dark - corners, 0.05, 1) * mottle)[..., None]
    for _ in range(6):
        cover = hair(rng, n)
        image = image * (1 - cover[..., None] * np.array([0.75, 0.8, 0.8], np.float32))
    return picture(image), mask


def leaf(rng: np.random.Generator, n: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Brown spots with a pale rim on a green, veined leaf; the soil around the leaf is as brown as they are."""
    inside = blob(rng, n, radius=(25, 34), rough=0.10, margin=26)
    green = colours(rng, n, (50, 110, 40), (110, 175, 80))
    veins = sum(hair(rng, n) for _ in range(4))
    image = green * (1 + 0.20 * noise(rng, n, 5) + 0.35 * veins)[..., None]
    brown = colours(rng, n, (80, 65, 30), (140, 110, 60))
    spots = np.max([blob(rng, n, radius=(2.5, 8), rough=0.15, margin=20) for _ in range(5)], axis=0)
    speckle = (1 + 0.15 * noise(rng, n, 1.5))[..., None]
    image = np.where((spots > -1.5)[..., None], (0.6 * green + 0.6 * brown) * speckle, image)
    image = np.where((spots > 0)[..., None], brown * speckle, image)
    image = np.where((inside > 0)[..., None], image, brown * (0.95 + 0.25 * noise(rng, n, 2))[..., None])
    return picture(image), (spots > 0) & (inside > 0)


DOMAINS: dict[str, Domain] = {"camouflage": camouflage, "polyp": polyp, "skin": skin, "leaf": leaf}
"""The four domains by name, in the order of the paper's table."""


def draw(rng: np.random.Generator, n: int, low: float, high: float) -> Field:
    """Return one uniform number an image, ``[n, 1, 1]``."""
    return rng.uniform(low, high, (n, 1, 1)).astype(np.float32)


def colours(rng: np.random.Generator, n: int, low: tuple[int, ...], high: tuple[int, ...]) -> Field:
    """Return one uniform RGB colour an image, ``[n, 1, 1, 3]``."""
    return rng.uniform(low, high, (n, 3)).astype(np.float32)[:, None, None]


def noise(rng: np.random.Generator, n: int, scale: float) -> Field:
    """Return smooth noise of mean 0 and deviation 1; ``scale`` is the size of its features in pixels."""
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None])
    return _filtered(rng, n, np.exp(-((frequency * scale * 2) ** 2)))


def _stripes(rng: np.random.Generator, n: int, angle: Field) -> Field:
    """Return wavy stripes, 6 pixels wide, across the direction ``angle`` (radians, ``[n, 1, 1]``)."""
    fy, fx = np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None]
    along, across = fx * np.cos(angle) + fy * np.sin(angle), fy * np.cos(angle) - fx * np.sin(angle)
    return _filtered(rng, n, np.exp(-(((np.abs(along) - 1 / 6) / 0.03) ** 2) - (across / 0.05) ** 2))


def _filtered(rng: np.random.Generator, n: int, response: NDArray[np.floating]) -> Field:
    white = rng.standard_normal((n, SIZE, SIZE), np.float32)
    field = np.fft.irfft2(np.fft.rfft2(white) * response, s=(SIZE, SIZE))
    field -= field.mean((1, 2), keepdims=True)
    scaled: Field = (field / field.std((1, 2), keepdims=True)).astype(np.float32)
    return scaled


def blob(
    rng: np.random.Generator, n: int, *, radius: tuple[float, float], rough: float, margin: float = 14
) -> Field:
    """Return, at each pixel, how deep it lies in a round shape with a wavy outline (in pixels; negative outside).

    Args:
        rng: where it is drawn from.
        n: number of images.
        radius: least and largest mean radius, in pixels.
        rough: amplitude of the outline's waves, as a share of the radius.
        margin: least distance of the centre from the picture's edge, in pixels.
    """
    x, y = X - draw(rng, n, margin, SIZE - margin), Y - draw(rng, n, margin, SIZE - margin)
    angle, mean = np.arctan2(y, x), draw(rng, n, *radius)
    outline = mean * (1 + sum(rough / k * np.cos(k * angle + draw(rng, n, 0, 2 * np.pi)) for k in (1, 2, 3, 5)))
    depth: Field = outline - np.hypot(x, y)
    return depth


def hair(rng: np.random.Generator, n: int) -> Field:
    """Return how much of each pixel (0 to 1) is covered by one bent line across the picture."""
    angle = draw(rng, n, 0, 2 * np.pi)
    x, y = X - draw(rng, n, 0, SIZE), Y - draw(rng, n, 0, SIZE)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    cover: Field = np.clip(1.2 - np.abs(across + draw(rng, n, -0.008, 0.008) * along**2), 0, 1)
    return cover


def picture(image: Field) -> NDArray[np.uint8]:
    """Return images of colours that may lie outside 0 to 255, ``[n, 64, 64, 3]``."""
    return np.clip(image, 0, 255).astype(np.uint8)

"""Four more segmentation domains, on which no preset was chosen, to see whether the demo's preset holds on them.

    python -m benchmarks.fresh_sam --out FOLDER [--seed 0]

Writes what ``python -m cyqd.sam.demo`` writes, so the demo's configs serve with other paths. What is sought in one
domain misleads in another: round in cells, slender in ships; a line in cracks, what a line encloses in bubbles.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cyqd.sam.demo.domains import SIZE, Domain, Field, X, Y, blob, colours, draw, hair, noise, picture
from cyqd.sam.demo.generate import generate


def cells(rng: np.random.Generator, n: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Round, blurred nuclei that touch on a dark slide; the fibres among them are as bright, but slender."""
    depth = np.max([blob(rng, n, radius=(5, 9), rough=0.1, margin=16) for _ in range(5)], axis=0)
    fibres = np.max([_spindle(rng, n, length=(9, 16), width=(1.2, 2)) for _ in range(5)], axis=0)
    blur = draw(rng, n, 0.8, 2)
    glow = np.maximum(_step(depth / blur), _step(fibres / blur)) * (1 + 0.2 * noise(rng, n, 3))
    dark, bright = colours(rng, n, (20, 15, 45), (55, 40, 85)), colours(rng, n, (120, 90, 170), (190, 150, 240))
    image = dark + (bright - dark) * glow[..., None]
    return picture(image * (1 + 0.1 * noise(rng, n, 8) + 0.08 * noise(rng, n, 1))[..., None]), depth > 0


def ships(rng: np.random.Generator, n: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Slender, pale hulls on a wavy sea; the patches of foam beside them are as pale, but round."""
    depth = np.max([_spindle(rng, n, length=(9, 14), width=(2.6, 3.8)) for _ in range(3)], axis=0)
    foam = np.max([blob(rng, n, radius=(3, 7), rough=0.15, margin=6) for _ in range(5)], axis=0)
    pale = _step(np.maximum(depth, np.minimum(foam, -depth - 2)))
    sea, paint = colours(rng, n, (15, 70, 90), (50, 120, 140)), colours(rng, n, (175, 180, 170), (240, 240, 230))
    image = sea * (1 + 0.15 * noise(rng, n, 2) + 0.1 * noise(rng, n, 6))[..., None]
    return picture(image + (paint - image) * (pale * (0.9 + 0.1 * noise(rng, n, 2)))[..., None]), depth > 0


def cracks(rng: np.random.Generator, n: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """One dark, forked, crooked crack in grey concrete; the shadows that fall on it are as dark, but wide."""
    depth = _fork(rng, n, width=(1.8, 3))
    shadows = np.max([blob(rng, n, radius=(8, 15), rough=0.25, margin=4) for _ in range(3)], axis=0)
    dark = draw(rng, n, 0.4, 0.6)
    light = (1 - dark * _step(depth)) * (1 - dark * _step(shadows / draw(rng, n, 1, 3)))
    grain = 1 + 0.08 * noise(rng, n, 1) + 0.06 * noise(rng, n, 5)
    concrete = colours(rng, n, (160, 155, 145), (195, 190, 180))
    return picture(concrete * (light * grain)[..., None]), depth > 0


def bubbles(rng: np.random.Generator, n: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Clear bubbles in amber, seen by their rims alone; the scratches across them are as bright as rims."""
    depths = [blob(rng, n, radius=(7, 12), rough=0.05, margin=12) for _ in range(3)]
    rim = np.max([1.3 * _step(2 * depth) * np.exp(-np.clip(depth, 0, None) / 2.5) for depth in depths], axis=0)
    scratches = np.max([hair(rng, n) for _ in range(4)], axis=0)
    amber = colours(rng, n, (130, 75, 15), (185, 120, 45))
    light = 1 + 0.8 * np.maximum(rim, scratches) + 0.12 * noise(rng, n, 7) + 0.05 * noise(rng, n, 1)
    return picture(amber * light[..., None]), np.max(depths, axis=0) > 0


DOMAINS: dict[str, Domain] = {"cells": cells, "ships": ships, "cracks": cracks, "bubbles": bubbles}
"""The four fresh domains by name."""

BASE = {"cells": 200, "ships": 200, "cracks": 400, "bubbles": 400}
"""Images of each domain for the base: more of what is hard to see, as in the demo."""


def _step(depth: Field) -> Field:
    """Return 0 outside and 1 inside, with a soft edge about 2 pixels wide."""
    return (0.5 + 0.5 * np.tanh(depth)).astype(np.float32)


def _spindle(rng: np.random.Generator, n: int, *, length: tuple[float, float], width: tuple[float, float]) -> Field:
    """Return how deep each pixel lies in a slender, straight shape; ``length`` and ``width`` are halves."""
    angle = draw(rng, n, 0, np.pi)
    x, y = X - draw(rng, n, 10, SIZE - 10), Y - draw(rng, n, 10, SIZE - 10)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    depth: Field = draw(rng, n, *width) * (1 - (along / draw(rng, n, *length)) ** 4) - np.abs(across)
    return depth


def _fork(rng: np.random.Generator, n: int, *, width: tuple[float, float]) -> Field:
    """Return how deep each pixel lies in three crooked arms from one point; ``width`` is half an arm's."""
    angle, half = draw(rng, n, 0, 2 * np.pi), draw(rng, n, *width)
    x, y = X - draw(rng, n, 18, SIZE - 18), Y - draw(rng, n, 18, SIZE - 18)
    arms = []
    for turn in (0, 2 / 3 * np.pi, 4 / 3 * np.pi):
        arm = angle + turn + draw(rng, n, -0.5, 0.5)
        along, across = x * np.cos(arm) + y * np.sin(arm), y * np.cos(arm) - x * np.sin(arm)
        bend = sum(draw(rng, n, -2, 2) * np.sin(along / pace) for pace in (2.5, 4, 7))
        arms.append(np.minimum(half - np.abs(across - bend), half + along))
    depth: Field = np.max(arms, axis=0)
    return depth


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fresh_sam", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write to; data/ and init/ appear in it")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything that is drawn (default 0)")
    arguments = parser.parse_args()
    generate(arguments.out, seed=arguments.seed, domains=DOMAINS, base=BASE)
    print(f"wrote {arguments.out / 'data'} and {arguments.out / 'init'}")


if __name__ == "__main__":
    main()

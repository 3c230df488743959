"""Write the demo's images, masks and first model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cyqd.sam import weights
from cyqd.sam.architecture import build
from cyqd.sam.demo.domains import DOMAINS, Domain

BASE: Mapping[str, int] = {"camouflage": 400, "polyp": 400, "skin": 200, "leaf": 200}
"""Images of each domain for the base: more of what is hard to see, so that no domain is lost on it."""


def generate(
    out: Path,
    *,
    seed: int,
    domains: Mapping[str, Domain] = DOMAINS,
    base: Mapping[str, int] = BASE,
    train: int = 800,
    evaluation: int = 400,
) -> None:
    """Write ``data/<domain>/{base,train,eval}/{images,masks}/0000.png`` and ``init/``, a random tiny SAM.

    Each part is drawn from a seed of its own, so that none shares an image with another.

    Args:
        out: folder to write to.
        seed: of everything that is drawn.
        domains: what is drawn, by name.
        base: images of each domain for the base.
        train: images of each domain for its expert.
        evaluation: images of each domain for scoring.

    Raises:
        ValueError: if ``base`` lacks a domain.
    """
    if missing := [name for name in domains if name not in base]:
        raise ValueError(f"base: expected a number of images for every domain, got none for {', '.join(missing)}")
    for number, (name, domain) in enumerate(domains.items()):
        for stream, (part, size) in enumerate({"base": base[name], "train": train, "eval": evaluation}.items()):
            images, masks = domain(np.random.default_rng([seed, number, stream]), size)
            _write(out / "data" / name / part / "images", images)
            _write(out / "data" / name / part / "masks", masks.astype(np.uint8) * 255)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sam = build("tiny")
    weights.save(out / "init", sam.state_dict(), "tiny", "A tiny Segment Anything model with random weights.\n")


def _write(folder: Path, pictures: NDArray[np.uint8]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{index:04}.png", compress_level=1)

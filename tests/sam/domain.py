"""A small segmentation domain for the engine's tests: what an expert segments is the truth of its task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.nn import functional as F

from cyqd.sam import weights
from cyqd.sam.architecture import build
from cyqd.sam.segmenter import original_size, segment
from tests.sam.conftest import make_sam

SIZES = (28, 17, 3)  # image-mask pairs of each task
SHAPE = (48, 64)  # of an image


def make_domain(folder: Path) -> dict[str, Any]:
    """Save a random tiny base, three experts at some distance from it, and images; return the config's parts."""
    base = make_sam(folder / "base")
    start = weights.read(base)
    experts, tasks = {}, []
    for number, size in enumerate(SIZES):
        generator = torch.Generator().manual_seed(number)
        sam = build("tiny").eval()
        sam.load_state_dict(start)
        with torch.no_grad():
            for parameter in sam.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.3 * noise * parameter.std(correction=0).clamp(min=1e-3))
        name = f"task{number}"
        experts[name] = folder / name
        weights.save(experts[name], sam.state_dict(), "tiny", "# An expert\n")
        pairs = folder / "data" / name
        for kind in ("images", "masks"):
            (pairs / kind).mkdir(parents=True)
        for index in range(size):
            image = F.interpolate(torch.rand(1, 3, 6, 8, generator=generator) * 255, SHAPE, mode="bicubic")
            image = image.clamp(0, 255).to(torch.uint8)
            padded = F.pad(image, (0, 64 - SHAPE[1], 0, 64 - SHAPE[0]))
            with torch.no_grad():
                logits, _ = segment(sam, padded, torch.tensor([SHAPE]), {})
            mask = original_size(logits[0], SHAPE, SHAPE) > 0
            Image.fromarray(image[0].permute(1, 2, 0).numpy()).save(pairs / "images" / f"{index}.png")
            Image.fromarray(mask.numpy()).save(pairs / "masks" / f"{index}.png")
        layout = {"class_path": "cyqd.sam.layouts.Folder", "init_args": {"root": str(pairs)}}
        tasks.append(
            {"class_path": "cyqd.sam.Segmentation", "init_args": {"name": name, "problems": layout}},
        )
    data = {"image_size": 64, "eval_batch_size": 2, "tasks": tasks}
    return {
        "model": {"class_path": "cyqd.sam.SAMModule", "init_args": {"base": str(base)}},
        "data": {"class_path": "cyqd.sam.SAMData", "init_args": data},
        "experts": {task: str(path) for task, path in experts.items()},
    }

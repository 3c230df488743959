"""Seconds of the batched forward pass beside Sam.forward in the same run.

    PYTHONPATH=. OMP_NUM_THREADS=1 python benchmarks/segmenter.py [--architecture tiny] [--images 96] [--batch 32]

Random weights and images, one box per image; CPU time, the least of some repeats. ``Sam.forward`` encodes a list of
images at once, decodes image by image, and brings the masks to the original size, here the input's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from cyqd.sam.architecture import build
from cyqd.sam.segmenter import segment


def least_seconds(work: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats + 1):  # the first one warms up
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds[1:])


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="tiny")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    sam = build(arguments.architecture)
    side = sam.image_encoder.img_size
    images = torch.randint(0, 256, (arguments.images, 3, side, side), dtype=torch.uint8)
    sizes = torch.full((arguments.images, 2), side)
    boxes = torch.tensor([0.1, 0.2, 0.8, 0.7]).mul(side).expand(arguments.images, 1, 4)

    def batched() -> None:
        for i in range(0, len(images), arguments.batch):
            part = slice(i, i + arguments.batch)
            segment(sam, images[part], sizes[part], {"boxes": boxes[part]})

    def by_sam(batch: int) -> None:
        records = [
            {"image": image, "original_size": (side, side), "boxes": box}
            for image, box in zip(images, boxes, strict=True)
        ]
        for i in range(0, len(records), batch):
            sam(records[i : i + batch], multimask_output=False)

    routes = {
        f"`segment`, batches of {arguments.batch}": batched,
        f"`Sam.forward`, lists of {arguments.batch}": lambda: by_sam(arguments.batch),
        "`Sam.forward`, one by one": lambda: by_sam(1),
    }
    milliseconds = {
        name: least_seconds(work, arguments.repeats) / len(images) * 1e3 for name, work in routes.items()
    }
    print("| route | CPU ms an image | ratio |\n|---|---|---|")
    first = next(iter(milliseconds.values()))
    for name, value in milliseconds.items():
        print(f"| {name} | {value:.2f} | {value / first:.2f} |")


if __name__ == "__main__":
    main()

"""Memory and seconds of one generation with Segment Anything's ViT-H, on the CPU.

    OMP_NUM_THREADS=2 python -m benchmarks.vit_h [--architecture vit_h] [--blocks N] [--no-image] [--folder TMP]

Writes a base of random weights and two experts (base + small random changes) to a temporary folder, opens them
memory-mapped, computes the singular bases of the one whose task is active (a run needs them of every expert),
breeds a child of both, materialises it into the live module and segments one image. Memory is sampled every 5 ms:
anonymous memory is the process's own; mapped pages of files are the kernel's to drop.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from cyqd.evolution import ExpertSpace, Genome, materialise
from cyqd.evolution.crossover import crossover_coefficients
from cyqd.evolution.mutation import mutate
from cyqd.evolution.spectrum import SingularBases
from cyqd.evolution.storage import save_tensors
from cyqd.sam import weights
from cyqd.sam.architecture import build
from cyqd.sam.segmenter import original_size, segment

GB = 1e9


def resident() -> dict[str, int]:
    """Return bytes of anonymous memory and of mapped files that lie in memory."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return {kind: 1024 * int(kb) for kind, kb in re.findall(r"Rss(Anon|File):\s+(\d+) kB", status)}


class Phases:
    """Seconds and peak memory of named phases."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[float, int, int]] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        peak, over = resident(), threading.Event()

        def sample() -> None:
            while not over.wait(0.005):
                now = resident()
                peak.update({kind: max(peak[kind], now[kind]) for kind in peak})

        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            over.set()
            sampler.join()
            self.rows[name] = (seconds, peak["Anon"], peak["File"])
            print(f"{name}: {seconds:.1f} s", file=sys.stderr)

    def anonymous(self, name: str) -> int:
        return self.rows[name][1]

    def table(self) -> str:
        lines = [
            "| phase | seconds | peak anonymous memory, GB | peak of mapped files in memory, GB |",
            "|---|---|---|---|",
        ]
        lines += [f"| {n} | {s:.1f} | {a / GB:.2f} | {f / GB:.2f} |" for n, (s, a, f) in self.rows.items()]
        return "\n".join(lines)


@torch.no_grad()
def save_models(folder: Path, architecture: str) -> None:
    """Write a random base and two experts, as safetensors alone to spare the disk."""
    for seed, name in enumerate(("base", "first", "second")):
        torch.manual_seed(seed)
        sam = build(architecture) if name == "base" else weights.load(folder / "base", architecture)
        if name != "base":
            for parameter in sam.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=1e-3)
        save_tensors(folder / name / weights.TENSORS, sam.state_dict())


def breed(space: ExpertSpace) -> Genome:
    """Return a child of the two experts, mutated for the first one's task."""
    generator = torch.Generator().manual_seed(0)
    first, second = crossover_coefficients(generator)
    return mutate(first * space.expert(0) + second * space.expert(1), 0, generator)


@torch.inference_mode()
def evaluate(sam: Sam, side: int) -> Tensor:
    """Return the logits of a random image of 400 × 300 pixels at its own size."""
    image = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)
    size = (side, side * 3 // 4)
    logits, _ = segment(sam, image, torch.tensor([size]), {})
    return original_size(logits[0], size, (400, 300))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default="vit_h")
    parser.add_argument("--blocks", type=int, help="mutate only this many of the encoder's blocks; all by default")
    parser.add_argument("--no-image", action="store_true", help="leave out the evaluation")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    arguments = parser.parse_args()
    architecture, phases = arguments.architecture, Phases()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        writer = multiprocessing.get_context("spawn").Process(target=save_models, args=(folder, architecture))
        writer.start()  # in a process of its own, so that its memory is not counted
        writer.join()
        assert writer.exitcode == 0
        before = resident()["Anon"]

        with phases.phase("build the live model from the base"):
            sam = weights.load(folder / "base", architecture)
        live = dict(sam.named_parameters())
        size = sum(p.nbytes for p in live.values())
        with phases.phase("open base and experts"):
            base, *experts = (weights.read(folder / name) for name in ("base", "first", "second"))
            space = ExpertSpace(base, experts, ["first", "second"], names=live)
        matrices = space.matrices()
        if arguments.blocks is not None:
            prefixes = tuple(f"image_encoder.blocks.{block}." for block in range(arguments.blocks))
            matrices = {name: shape for name, shape in matrices.items() if name.startswith(prefixes)}
        space.bases = [SingularBases(folder / f"bases-{k}", matrices) for k in range(2)]
        with phases.phase(f"singular bases of an expert, {len(matrices)} matrices, once per run"):
            for matrix in space.bases[0].missing():
                space.bases[0].compute(matrix, space.task_vector(0, matrix))
        with phases.phase("breed: crossover and mutation"):
            genome = breed(space)
        with phases.phase("materialise"):
            materialise(genome, live)
        if not arguments.no_image:
            side = sam.image_encoder.img_size
            with phases.phase(f"evaluate one image of {side} pixels"):
                mask = evaluate(sam, side)
            assert mask.isfinite().all()
    print(phases.table())
    peak = phases.anonymous("materialise")
    print(
        f"\nmodel: {size / GB:.2f} GB. Peak of materialise, live model included: {peak / size:.2f} × the model "
        f"({(peak - before) / size:.2f} × without the {before / GB:.2f} GB of the bare process)"
    )


if __name__ == "__main__":
    main()

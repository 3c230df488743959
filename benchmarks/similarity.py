"""Memory and seconds of comparing two experts: each kind of matrix of an 8B model, and the whole pair.

    OMP_NUM_THREADS=1 python -m benchmarks.similarity [--device cpu] [--folder TMP]

Writes a base and two experts of random bfloat16 weights, one matrix of each shape, and adds up by how often each
occurs in Llama 3.1 8B. The vocabulary's matrices are not timed: they take as long per row as the MLP's.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from cyqd.evolution import ExpertSpace
from cyqd.evolution.comparison import compare
from cyqd.evolution.weights import StoredWeights

SHAPES = {"mlp": (4096, 14336), "query": (4096, 4096), "key": (1024, 4096)}
LLAMA_8B = {"mlp": 3 * 32 + 2 * 128256 / 14336, "query": 2 * 32, "key": 2 * 32}
"""Matrices of each shape in all layers; embedding and head count as so many MLP matrices."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="where to compute")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        paths = [Path(name) / f"{model}.safetensors" for model in ("base", "first", "second")]
        for seed, path in enumerate(paths):
            generator = torch.Generator().manual_seed(seed)
            save_file({n: torch.randn(s, generator=generator).bfloat16() for n, s in SHAPES.items()}, path)
        base, *experts = map(StoredWeights, paths)
        total = 0.0
        print("| matrix | shape | seconds, both experts |\n|---|---|---|")
        for matrix, shape in SHAPES.items():
            start = time.perf_counter()
            compare(ExpertSpace(base, experts, ["first", "second"], names=[matrix]), device=arguments.device)
            seconds = time.perf_counter() - start
            total += seconds * LLAMA_8B[matrix]
            print(f"| {matrix} | {shape[0]} × {shape[1]} | {seconds:.1f} |", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"\nan 8B pair: {total / 60:.0f} minutes; peak memory {peak:.1f} GB, mapped files included")


if __name__ == "__main__":
    main()

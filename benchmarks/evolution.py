"""What a generation costs beside the evaluation itself, on one process.

    python benchmarks/evolution.py [--generations 200]

Evolves the demo-sized model (0.9 M parameters, three experts, three tasks) with an evaluator that costs nothing,
beside the same Trainer run without the evolution callback, and prints milliseconds per generation and their ratio.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from cyqd.evolution import CycleQD, ExpertSpace
from cyqd.training import EvolvableModule
from cyqd.training.evolution import Evolution
from cyqd.training.run import host_trainer

TASKS = ("coding", "database", "os")
SHAPES = {"embed": (640, 192), "head": (640, 192), "norm": (192,)}
for _layer in range(2):
    SHAPES |= {f"{_layer}.q": (192, 192), f"{_layer}.k": (64, 192), f"{_layer}.v": (64, 192)}
    SHAPES |= {f"{_layer}.o": (192, 192), f"{_layer}.up": (512, 192), f"{_layer}.gate": (512, 192)}
    SHAPES |= {f"{_layer}.down": (192, 512), f"{_layer}.norm1": (192,), f"{_layer}.norm2": (192,)}


class FreeModule(EvolvableModule):
    """Has the demo model's parameters; every model's score is a number that costs nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterDict(
            {name.replace(".", "_"): torch.zeros(shape) for name, shape in SHAPES.items()}
        )
        self.generator = torch.Generator().manual_seed(0)

    def evolved_parameters(self) -> dict[str, nn.Parameter]:
        return {name: self.weights[name.replace(".", "_")] for name in SHAPES}

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.metrics[dataloader_idx].update(torch.rand(1, generator=self.generator))

    def read_weights(self, path: Path) -> Mapping[str, Tensor]:
        raise NotImplementedError("the benchmark hands its weights over directly")

    def check_compatible(self, base: Path, expert: Path) -> None: ...

    def save_model(self, path: Path, card: str) -> None: ...


class FreeData(L.LightningDataModule):
    tasks = [SimpleNamespace(name=task) for task in TASKS]  # noqa: RUF012

    def val_dataloader(self) -> list[list[int]]:
        return [[0]] * len(TASKS)


def random_space() -> ExpertSpace:
    generator = torch.Generator().manual_seed(0)

    def weights() -> dict[str, Tensor]:
        return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}

    return ExpertSpace(weights(), [weights() for _ in TASKS], TASKS)


def seconds_per_generation(callback: L.Callback | None, generations: int) -> float:
    trainer, host, data = host_trainer(
        FreeModule(),
        FreeData(),
        "optimisation",
        [callback] if callback else [],
        {"accelerator": "cpu", "devices": 1, "logger": False},
    )
    if callback is None:
        trainer.fit_loop.max_epochs = generations
    start = time.perf_counter()
    trainer.fit(host, datamodule=data)
    return (time.perf_counter() - start) / generations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generations", type=int, default=200)
    generations = parser.parse_args().generations
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        space = random_space()
        space.identity = "base a b c"
        callback = Evolution(
            CycleQD(generations=generations - 3),
            space,
            folder=folder / "state",
            history=folder / "history.jsonl",
            seed=0,
            cache=folder / "cache",
        )
        with_callback = seconds_per_generation(callback, generations)
        bare = seconds_per_generation(None, generations)
        seconds = [json.loads(line)["seconds"] for line in (folder / "history.jsonl").read_text().splitlines()]
    print(f"bare Trainer epoch          {bare * 1e3:6.2f} ms")
    print(
        f"generation of an evolution  {with_callback * 1e3:6.2f} ms ({with_callback / bare:.1f} × bare), of which"
    )
    for part in ("breed", "materialise", "tell"):
        print(f"  {part:<25} {1e3 * sum(s[part] for s in seconds) / len(seconds):7.2f} ms")


if __name__ == "__main__":
    main()

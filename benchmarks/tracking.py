"""What W&B offline costs a generation.

    python benchmarks/tracking.py [--generations 300] [--every 50]

Evolves the model of benchmarks/evolution.py, whose evaluation costs nothing, without W&B and with it, in turn, and
prints the best milliseconds per generation of each, their ratio, and what one picture of the archives costs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

from evolution import FreeData, FreeModule, random_space

from cyqd.evolution import CycleQD
from cyqd.training.evolution import Evolution
from cyqd.training.run import host_trainer
from cyqd.training.tracking import Wandb, join_loggers, wandb_logger


def seconds(folder: Path, generations: int, every: int | None) -> tuple[float, float]:
    """Return the seconds of an evolution, and of finishing its W&B run; without W&B if ``every`` is None."""
    folder.mkdir()
    (folder / "config.yaml").write_text("{}\n")
    state = folder / "evolution" / "state"
    search = Evolution(
        CycleQD(generations=generations),
        random_space(),
        folder=state,
        history=folder / "history.jsonl",
        seed=0,
        cache=folder / "singular_bases",
    )
    search.space.identity = "base first second third"
    mode = "disabled" if every is None else "offline"
    logger = wandb_logger(Wandb(mode=mode), folder, name="benchmark", job_type="benchmark", config={})
    arguments = {"accelerator": "cpu", "devices": 1, "logger": False}
    trainer, host, data = host_trainer(
        FreeModule(), FreeData(), "optimisation", [search], join_loggers(arguments, logger, every or 1)
    )
    with logger or nullcontext():
        start = time.perf_counter()
        trainer.fit(host, datamodule=data)
        evolved = time.perf_counter()
    return evolved - start, time.perf_counter() - evolved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=300)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    kinds = {"none": None, "numbers only": asked.generations + 1, f"pictures every {asked.every}": asked.every}
    best: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(asked.repeats):
            for kind, every in kinds.items():
                took = seconds(Path(folder) / f"{kind}-{repeat}", asked.generations, every)
                best[kind] = min(took, best.get(kind, took))
    for kind, (evolved, finished) in best.items():
        ratio = evolved / best["none"][0]
        print(f"{kind:20} {1000 * evolved / asked.generations:7.2f} ms per generation, × {ratio:.2f}", end="")
        print(f", {finished:.2f} s to finish" if kind != "none" else "")
    pictures = asked.generations // asked.every  # the picture of generation 0 is in both
    extra = best[f"pictures every {asked.every}"][0] - best["numbers only"][0]
    print(f"one picture of the archives with its tables: {extra / max(pictures, 1):.2f} s")


if __name__ == "__main__":
    main()

"""Scores of models that were evaluated before, so that runs that share a cache evaluate none twice."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import cyqd
from cyqd.evolution import Genome
from cyqd.evolution.storage import load_json, save_json
from cyqd.training.module import EvolvableModule
from cyqd.training.splits import Split

PACKAGES = ("torch", "numpy", "transformers", "lightning")
"""What computes scores beside this project's own code."""

SMALL = 1 << 25
"""Bytes up to which a file is known by its content; a larger one, of weights, by its size and time."""


KEPT = {"scores", "intervals", "n", "measures", "outcomes", "seconds", "faults", "retries"}
"""What is kept of a model."""


@dataclass(frozen=True)
class ScoreCache:
    """Keeps the scores of models by all that decides them, one JSON file each.

    A file is never changed, and is renamed into place whole, so any number of runs may share the folder.

    Args:
        folder: where the files lie.
        settings: fingerprint of what is evaluated and how, the model's weights and the split left out; see
            :func:`evaluation_fingerprint`.
    """

    folder: Path
    settings: str

    def key(self, genome: Genome, split: Split, device: torch.device) -> str:
        """Return the name of a model's scores.

        Args:
            genome: the model; the space's identity must be known.
            split: what it is scored on.
            device: what it is evaluated on; machines of one kind share scores, as do any number of processes.
        """
        space = genome.space
        parts = [self.settings, split, machine(device), space.identity, space.rank]
        digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=20)
        for name, tensor in sorted(genome.tensors().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def find(self, key: str, *, outcomes: bool) -> dict[str, Any] | None:
        """Return what was kept under a key.

        Args:
            key: of the model.
            outcomes: whether every problem's score is asked for; what was kept without is then of no use.

        Returns:
            What :meth:`keep` was given; None if there is nothing of use. A damaged file is none.
        """
        try:
            record: dict[str, Any] = load_json(self._path(key))
        except (FileNotFoundError, ValueError):
            return None
        whole = isinstance(record, dict) and record.keys() >= KEPT
        return None if not whole or (outcomes and not record["outcomes"]) else record

    def keep(self, key: str, record: Mapping[str, Any]) -> None:
        """Keep scores, unless something broke in evaluating them, which may not happen again.

        Args:
            key: of the model.
            record: ``scores``, ``intervals``, ``n`` and ``measures`` by task, ``outcomes`` by problem (empty if not
                asked for), ``seconds``, and ``faults`` and ``retries``.
        """
        if not record["faults"] and not record["retries"]:
            save_json(self._path(key), record)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def evaluation_fingerprint(settings: Any, model: EvolvableModule, data: Any) -> str:
    """Hash what decides scores beside evolved weights, split and device.

    That is what the user set, the problems, the files of the base, the seed if anything is drawn by it, the number
    of threads, the code, and the packages that it calls. Environments are taken for what they were: an image of a
    container that is built anew under its old name is not noticed.

    Args:
        settings: JSON-ready: what the user set of model, data and precision, and what ``data.splits()`` returns.
        model: the domain's module.
        data: the domain's data module.
    """
    seed = torch.initial_seed() if getattr(data, "draws", True) else None
    versions = [cyqd.__version__, platform.python_version(), *map(version, PACKAGES)]
    tasks = [task.name for task in data.tasks]
    parts = [settings, tasks, seed, torch.get_num_threads(), versions]
    digest = hashlib.blake2b(json.dumps(parts, default=str).encode(), digest_size=20)
    base = sorted(model.base.iterdir()) if model.base.is_dir() else [model.base]
    for file in [*filter(Path.is_file, base), *_code(type(model), type(data), *map(type, data.tasks))]:
        digest.update(f"{file.name} {_content(file)}\n".encode())
    return digest.hexdigest()


def _content(file: Path) -> str:
    stat = file.stat()
    if stat.st_size > SMALL:
        return f"{stat.st_size} {stat.st_mtime_ns}"
    return hashlib.blake2b(file.read_bytes(), digest_size=20).hexdigest()


def _code(*kinds: type) -> Iterator[Path]:
    """Yield the files of the packages that evaluate: this project's engine, and where the domain's classes are."""
    own = Path(cyqd.__file__).parent
    places = {own / "evolution", own / "training"}
    for kind in kinds:
        module = sys.modules[kind.__module__]
        if file := getattr(module, "__file__", None):
            places.add(Path(file).parent if module.__package__ else Path(file))
    for place in sorted(places):
        files = sorted(place.rglob("*")) if place.is_dir() else [place]
        yield from (file for file in files if file.is_file() and file.suffix != ".pyc")


def machine(device: torch.device) -> str:
    """Name the kind of hardware that a device is: another kind may round differently."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"

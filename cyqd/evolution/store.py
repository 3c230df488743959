"""Genomes on disk."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from safetensors import safe_open

from cyqd.evolution.genome import CompactGenome, DenseGenome, Genome
from cyqd.evolution.parts import Granularity
from cyqd.evolution.space import ExpertSpace
from cyqd.evolution.storage import save_tensors


class GenomeStore:
    """A folder with one safetensors file per genome; processes other than the first only read.

    Args:
        folder: where the files lie.
        space: the space the genomes live in.
        writable: whether this process writes.
    """

    def __init__(self, folder: Path, space: ExpertSpace, *, writable: bool = True) -> None:
        self.folder = folder
        self.space = space
        self.writable = writable

    def save(self, id: int, genome: Genome) -> None:
        """Write a genome, atomically."""
        if self.writable:
            save_tensors(self._path(id), {name: t.cpu() for name, t in genome.tensors().items()})

    def load(self, id: int) -> Genome:
        """Read a genome, memory-mapped.

        Raises:
            FileNotFoundError: if there is no genome of that id.
        """
        with safe_open(self._path(id), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        for granularity in get_args(Granularity):
            alpha = tensors.get("alpha" if granularity == "model" else f"alpha.{granularity}")
            if alpha is not None:
                omega = [tensors.get(f"omega.{k}") for k in range(len(alpha))]
                return CompactGenome(self.space, alpha, omega, granularity=granularity)
        return DenseGenome(self.space, {name.removeprefix("delta."): t for name, t in tensors.items()})

    def prune(self, keep: Iterable[int]) -> None:
        """Delete the genomes that are not in ``keep``, and what a killed process left half-written."""
        if not self.writable or not self.folder.exists():
            return
        kept = {self._path(id).name for id in keep}
        for path in self.folder.iterdir():
            if path.name not in kept and re.search(r"\.(safetensors|tmp)$", path.name):
                path.unlink(missing_ok=True)

    def _path(self, id: int) -> Path:
        return self.folder / f"{id:06d}.safetensors"

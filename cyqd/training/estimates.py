"""What an evolution will take: disk and memory from the models' shapes, time from what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from cyqd.evolution import ExpertSpace, Strategy
from cyqd.evolution.crossover import DENSE_CROSSOVERS
from cyqd.evolution.parts import Granularity
from cyqd.evolution.spectrum import is_matrix
from cyqd.training.sharding import busiest
from cyqd.training.sizes import (
    Shape,
    decomposing_bytes,
    directions,
    orthogonalising_bytes,
    sides,
    writing_bytes,
)

DENSE_MUTATIONS = ("child", "literal", "gaussian")

DECOMPOSING_MUTATIONS = ("child", "literal")

MEGABYTE = 1_000_000

ENTRY = 70
"""Bytes of a tensor's entry in the header of a safetensors file, about."""


@dataclass(frozen=True)
class Estimate:
    """A quantity of an evolution, before it has run.

    Attributes:
        what: the quantity.
        amount: in ``unit``.
        unit: bytes or seconds.
        assumption: what it rests on.
    """

    what: str
    amount: float
    unit: Literal["bytes", "seconds"]
    assumption: str

    def __str__(self) -> str:
        return bytes_text(self.amount) if self.unit == "bytes" else seconds_text(self.amount)


def bytes_text(amount: float) -> str:
    """Write bytes for people, in decimal units."""
    power = min(max(int(math.log10(max(amount, 1)) // 3), 0), 4)
    return f"{amount / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def seconds_text(amount: float) -> str:
    """Write seconds for people."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if amount >= 2 * size:
            return f"{amount / size:.3g} {unit}"
    return f"{amount:.3g} s" if amount >= 1 else f"{amount * 1000:.3g} ms"


def most_genomes(strategy: Strategy, *, tasks: int) -> int:
    """Return the largest number of genomes kept at a time: K archives full of different elites, and the experts.

    Args:
        strategy: set up, so that its budget is known.
        tasks: K.
    """
    bins: int | None = getattr(strategy, "bins", None)
    return min(strategy.budget, tasks + tasks * bins ** (tasks - 1)) if bins else strategy.budget


class ShapeTimes(NamedTuple):
    """Seconds for one expert's singular bases, and for writing one child into the live module."""

    bases: float
    materialise: float


@dataclass(frozen=True)
class Plan:
    """What will run: one evolution, or one for each pair of experts.

    Attributes:
        space: all experts.
        strategy: set up for the first evolution.
        changed: of each expert, the parameters in which it differs from the base; the others have no directions.
        groups: the tasks of every evolution, as indices.
        weights: bytes of the live module's parameters and buffers.
        program: bytes of memory that the program takes before it holds any weights.
        processes: in all.
        local: of them, on this machine.
        resident: whether base and experts are held on the device.
        on_cpu: whether the device is the CPU.
        further: how many final rules there are beside the strategy's.
        judged: how many models are scored on fresh problems for them.
    """

    space: ExpertSpace
    strategy: Strategy
    changed: Sequence[Sequence[str]]
    groups: Sequence[Sequence[int]]
    weights: int
    program: int = 0
    processes: int = 1
    local: int = 1
    resident: bool = False
    on_cpu: bool = True
    further: int = 0
    judged: int = 0

    @property
    def shapes(self) -> list[Shape]:
        """The shapes of what evolves."""
        return [tuple(self.space.base[name].shape) for name in self.space.names]

    @property
    def experts(self) -> int:
        """How many experts each evolution merges."""
        return len(self.groups[0])

    @property
    def tested(self) -> int:
        """How many models each evolution scores on the test half: base, experts, average, and its results."""
        return self.experts + 2 + len(self.strategy.rules) + self.further

    @property
    def decomposes(self) -> bool:
        """Whether matrices are decomposed, before the evolution or in it."""
        return self.strategy.spectral or self.orthogonal or self._decomposes_children

    @property
    def _decomposes_children(self) -> bool:
        return getattr(self.strategy, "mutation", None) in DECOMPOSING_MUTATIONS

    @property
    def dense(self) -> bool:
        """Whether mutation or crossover leaves the space of compact genomes."""
        mutation, crossover = (getattr(self.strategy, name, None) for name in ("mutation", "crossover"))
        return mutation in DENSE_MUTATIONS or crossover in DENSE_CROSSOVERS

    @property
    def parts(self) -> int:
        """How many coefficients a genome has for each expert."""
        granularity: Granularity = getattr(self.strategy, "granularity", "model")
        if granularity == "model" and getattr(self.strategy, "crossover", None) == "split":
            granularity = "layer"
        return len(self.space.part_names(granularity))

    @property
    def genome(self) -> int:
        """Bytes of the largest genome: a task vector, or a number per direction and per part of every expert."""
        if self.dense:
            return 4 * sum(math.prod(shape) for shape in self.shapes)
        used = max(sum(map(self._directions, group)) for group in self.groups) if self.strategy.spectral else 0
        ingredients = (2 if self.orthogonal else 1) * self.experts
        return 4 * used + 8 * ingredients * self.parts + ENTRY * (1 + self.experts)

    @property
    def orthogonal(self) -> bool:
        """Whether the experts' orthogonal task vectors are mixed; every evolution has its own."""
        return self.strategy.task_vectors != "plain"

    @property
    def cache_bytes(self) -> int:
        """Bytes that all that is kept beside the experts takes."""
        return self.bases_bytes + self.orthogonal_bytes

    @property
    def orthogonal_bytes(self) -> int:
        """Bytes that orthogonal task vectors take: of every expert all matrices, float32."""
        shapes = self.space.matrices().values()
        each = sum(4 * math.prod(shape) + ENTRY for shape in shapes)
        return len(self.groups) * self.experts * each if self.orthogonal else 0

    @property
    def bases_bytes(self) -> int:
        """Bytes that all singular bases take: float32 values, and vectors on a matrix' shorter side."""
        if not self.strategy.spectral:
            return 0
        kept = [(expert, False) for expert in range(len(self.changed))]
        kept += [(expert, True) for group in self.groups for expert in group] if self.orthogonal else []
        numbers = sum(
            self._rank(shape, orthogonal) * (1 + sides(shape)[1])
            for expert, orthogonal in kept
            for shape in self._changed_matrices(expert)
        )
        return 4 * numbers + 2 * ENTRY * len(self.space.matrices()) * len(kept)

    def _directions(self, expert: int) -> int:
        return sum(self._rank(shape, self.orthogonal) for shape in self._changed_matrices(expert))

    def _changed_matrices(self, expert: int) -> list[Shape]:
        shapes = [tuple(self.space.base[name].shape) for name in self.changed[expert]]
        return [shape for shape in shapes if is_matrix(shape)]

    def _rank(self, matrix: Shape, orthogonal: bool) -> int:
        """Return how many singular directions a matrix can have; experts that are orthogonal share the room."""
        room = max(sides(matrix)[1] // self.experts, 1) if orthogonal else None
        return min(rank for rank in (directions(matrix, self.space.rank), room) if rank is not None)

    @property
    def run_bytes(self) -> int:
        """Bytes that the run's folder takes."""
        return sum(int(estimate.amount) for estimate in self._run_sizes())

    @property
    def _scratch(self) -> int:
        spectral, rank = self.strategy.spectral, self.space.rank
        writing = max(writing_bytes(shape, rank, stretched=spectral) for shape in self.shapes)
        matrices = [shape for shape in self.shapes if is_matrix(shape)] if self.decomposes else []
        together = [orthogonalising_bytes(shape, self.experts) for shape in matrices] if self.orthogonal else []
        return max([writing, *map(decomposing_bytes, matrices), *together])

    @property
    def _breeding(self) -> int:
        """Bytes on the device: the last child, the next before and after its mutation (if dense), and scratch."""
        return (3 * self.genome if self.dense else 0) + self._scratch

    @property
    def _sums(self) -> int:
        """Bytes of dense genomes on the device: the last child, a result, and the next with what it was before."""
        return self.genome * (3 + (self.experts > 2)) if self.dense else 0

    @property
    def _weighted(self) -> int:
        """Bytes of dense genomes in this machine's memory: one of each archive, weighted, to be summed."""
        return self.genome * self.experts if self.dense else 0

    @property
    def device_bytes(self) -> int:
        """Bytes of device memory that a process takes, without what evaluation itself takes."""
        stored = sum(self.space.base[name].nbytes for name in self.space.names)
        held = (1 + self.experts) * stored + self.cache_bytes if self.resident else 0
        return self.weights + held + max(self._breeding, self._sums)

    @property
    def host_bytes(self) -> int:
        """Bytes of this machine's memory that all its processes take, memory-mapped files left out."""
        work = max(self._breeding, self._weighted + self._sums) if self.on_cpu else self._weighted
        return self.local * (self.program + self.weights + work)

    def _run_sizes(self) -> list[Estimate]:
        kept, runs = most_genomes(self.strategy, tasks=self.experts), len(self.groups)
        number = f"{runs} × {kept}" if runs > 1 else f"{kept}"
        log = runs * ((self.strategy.budget + self.judged + self.tested) * 2000 + 15 * MEGABYTE)
        each = f"at most {number} of {bytes_text(self.genome)}: the most elites there can be, all their numbers set"
        return [
            Estimate("disk: genomes", runs * kept * self.genome, "bytes", each),
            Estimate("disk: final model", runs * 2 * self.weights, "bytes", "at most: two formats, as it is live"),
            Estimate("disk: history, report", log, "bytes", "2 kB an evaluation, 15 MB for a page"),
        ]

    def sizes(self) -> list[Estimate]:
        """Return what the run takes of disk and memory."""
        rank = "full rank" if self.space.rank is None else f"rank {self.space.rank}"
        both = ", their own and orthogonal ones" if self.orthogonal else ""
        bases = f"of {len(self.space.experts)} experts{both}, {rank}; none kept from an earlier run"
        work = f"{bytes_text(self._scratch)} for the largest matrix"
        held = ", base and experts with their bases" if self.resident else ""
        genomes = ", dense genomes" if self.dense else ""
        device = f"live weights{held}{genomes}, {work}; not what an evaluation takes: activations, caches"
        program = f"{bytes_text(self.program)} for the program"
        work = f", {work}" if self.on_cpu else ""
        host = f"{self.local} × live weights{genomes}, {program}{work}; no memory-mapped files"
        sizes = [*self._run_sizes(), Estimate("disk: singular bases", self.bases_bytes, "bytes", bases)]
        if self.orthogonal:
            kept = "float32, of every expert all matrices"
            sizes.append(Estimate("disk: orthogonal task vectors", self.orthogonal_bytes, "bytes", kept))
        if not self.on_cpu:
            sizes.append(Estimate("memory: device, each", self.device_bytes, "bytes", device))
        return [*sizes, Estimate("memory: this machine", self.host_bytes, "bytes", host)]

    def times(
        self,
        measured: ShapeTimes,
        seconds: Mapping[str, float] | None,
        batches: Mapping[str, Sequence[int]] | None,
    ) -> list[Estimate]:
        """Return how long the run takes.

        Args:
            measured: of the models' shapes.
            seconds: per batch of each task, if they were measured.
            batches: of each half ("optimisation", "test"), by task.
        """
        orthogonal = len(self.groups) * self.experts if self.orthogonal else 0
        decomposed = (len(self.space.experts) + orthogonal) * self.strategy.spectral
        decomposed += orthogonal + 2 * bool(orthogonal) * len(self.groups)  # and two polar factors
        bases = decomposed * measured.bases / self.processes
        breeding = measured.bases if self._decomposes_children else 0.0
        child = measured.materialise + breeding
        tried = "each shape tried once, a large one smaller; files in the page cache"
        orthogonalised = "and orthogonal task vectors; " if self.orthogonal else ""
        found = [
            Estimate("time: singular bases", bases, "seconds", f"{orthogonalised}{tried}"),
            Estimate("time: write a child", child, "seconds", "likewise; all of a genome's numbers set"),
        ]
        if seconds is None or batches is None:
            return found
        search, test = (self._evaluation(batches[half], [*seconds.values()]) for half in ("optimisation", "test"))
        total = bases + sum(
            (self.strategy.budget + self.judged) * (child + searching) + self.tested * (child + testing)
            for searching, testing in zip(search, test, strict=True)
        )
        processes = f"the busiest of {self.processes} processes, " if self.processes > 1 else ""
        runs = f", {len(self.groups)} times" if len(self.groups) > 1 else ""
        fresh = f"{self.judged} on fresh problems, " if self.judged else ""
        count = f"{self.strategy.budget} evaluations, {fresh}{self.tested} more on the test half{runs}; no loading"
        return [
            *found,
            Estimate("time: evaluate a child", max(search), "seconds", f"{processes}by one batch of each task"),
            Estimate("time: the whole run", total, "seconds", count),
        ]

    def _evaluation(self, batches: Sequence[int], seconds: Sequence[float]) -> list[float]:
        """Return how long one evaluation takes, in each evolution; both arguments by task."""
        return [
            busiest([batches[task] for task in group], [seconds[task] for task in group], self.processes)
            for group in self.groups
        ]

"""Estimates are those of what is really written and held."""

from __future__ import annotations

import json
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch

from cyqd.evolution import CycleQD, ExpertSpace, GenomeStore, materialise
from cyqd.evolution.crossover import Crossover
from cyqd.evolution.genome import CompactGenome
from cyqd.evolution.mutation import Variant
from cyqd.evolution.orthogonal import TaskVectors
from cyqd.evolution.parts import Granularity
from cyqd.training.bases import prepare_space
from cyqd.training.doctor import changed, fewer
from cyqd.training.estimates import Plan, bytes_text, seconds_text
from cyqd.training.timing import AFFORDABLE, time_shapes

SHAPES = {"embed": (40, 12), "up": (12, 30), "kernel": (8, 3, 3, 3), "norm": (12,), "scale": (), "frozen": (9, 9)}


@pytest.fixture
def space() -> ExpertSpace:
    generator = torch.Generator().manual_seed(0)
    base = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    experts = [
        {name: w + torch.randn(w.shape, generator=generator) * (name != "frozen") for name, w in base.items()}
        for _ in range(3)
    ]
    return ExpertSpace(base, experts, ["a", "b", "c"])


def plan_of(space: ExpertSpace, **options: Any) -> Plan:
    strategy = CycleQD(generations=50, **options)
    strategy.setup(space, GenomeStore(Path("none"), space, writable=False), 0)
    names = [changed(space.base, expert, space.names) for expert in space.experts]
    return Plan(space, strategy, names, [[0, 1, 2]], weights=1000)


@pytest.mark.parametrize("task_vectors", ["plain", "orthogonal"])
@pytest.mark.parametrize("rank", [None, 5])
def test_sizes_are_those_of_what_is_written(
    space: ExpertSpace, rank: int | None, task_vectors: TaskVectors, tmp_path: Path
) -> None:
    space.rank, space.identity = rank, "base a b c"
    plan = plan_of(space, task_vectors=task_vectors)
    assert plan.changed[0] == [name for name in SHAPES if name != "frozen"]
    prepare_space(space, plan.strategy, tmp_path / "bases")
    written = sum(file.stat().st_size for file in (tmp_path / "bases").rglob("*.safetensors"))
    assert plan.cache_bytes == pytest.approx(written, rel=0.1)
    store = GenomeStore(tmp_path / "genomes", space)
    omega = [torch.ones(bases.size) if k >= space.ingredients - 3 else None for k, bases in enumerate(space.bases)]
    store.save(0, CompactGenome(space, [0.3] * space.ingredients, omega))
    assert plan.genome == pytest.approx((tmp_path / "genomes" / "000000.safetensors").stat().st_size, rel=0.1)


def test_orthogonal_task_vectors_are_counted_without_singular_bases(space: ExpertSpace, tmp_path: Path) -> None:
    space.identity = "base a b c"
    plan = plan_of(space, mutation="none", task_vectors="orthogonal")
    prepare_space(space, plan.strategy, tmp_path)
    written = sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
    assert plan.cache_bytes == plan.orthogonal_bytes == pytest.approx(written, rel=0.1)
    assert any(estimate.what == "disk: orthogonal task vectors" for estimate in plan.sizes())


def test_a_dense_genome_is_a_task_vector(space: ExpertSpace, tmp_path: Path) -> None:
    GenomeStore(tmp_path, space).save(0, space.mean() + plan_of(space).strategy.space.origin())
    plan = plan_of(space, mutation="gaussian")
    assert plan.genome == 4 * sum(tensor.numel() for tensor in space.base.values())
    assert plan.cache_bytes == 0


@pytest.mark.parametrize(("granularity", "crossover"), [("layer", "linear"), ("model", "split")])
def test_every_layers_coefficients_are_counted(
    space: ExpertSpace, granularity: Granularity, crossover: Crossover
) -> None:
    options: dict[str, Any] = {"mutation": "none", "granularity": granularity, "crossover": crossover}
    layers = len(space.part_names("layer"))
    assert plan_of(space, **options).genome - plan_of(space, mutation="none").genome == 8 * 3 * (layers - 1) > 0


@pytest.mark.parametrize(
    ("mutation", "crossover"), [("gaussian", "linear"), ("child", "linear"), ("none", "ties"), ("none", "dare")]
)
@pytest.mark.parametrize("tasks", [2, 3])
def test_dense_genomes_take_the_memory_that_is_said(
    mutation: Variant, crossover: Crossover, tasks: int, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    base, *experts = (
        {str(i): torch.randn(64, 64, generator=generator) for i in range(6)} for _ in range(1 + tasks)
    )
    space = ExpertSpace(base, experts, ["a", "b", "c"][:tasks])
    strategy = CycleQD(generations=6, mutation=mutation, crossover=crossover)
    strategy.setup(space, GenomeStore(tmp_path / "genomes", space), 0)
    plan = Plan(space, strategy, [space.names] * tasks, [list(range(tasks))], weights=0)
    live = {name: torch.nn.Parameter(weight.clone(), requires_grad=False) for name, weight in base.items()}
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        while not strategy.done:
            candidate = strategy.ask()
            materialise(candidate.genome, live)
            strategy.tell(candidate, (candidate.id / 10,) * tasks)  # better and better: elites are dense
        results = strategy.result()
    assert results
    profile.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    memory = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    mapped = {path.stat().st_size for path in (tmp_path / "genomes").iterdir()}
    peak = max(accumulate(amount for _, amount in memory if abs(amount) not in mapped))
    assert plan.host_bytes == pytest.approx(peak, rel=0.3)


@pytest.mark.parametrize(("generations", "kept"), [(50, 53), (5000, 3 + 3 * 15**2)])
def test_genomes_are_bounded_by_evaluations_and_by_cells(space: ExpertSpace, generations: int, kept: int) -> None:
    strategy = CycleQD(generations=generations)
    strategy.setup(space, GenomeStore(Path("none"), space, writable=False), 0)
    plan = Plan(space, strategy, [list(SHAPES)] * 3, [[0, 1, 2]], weights=0)
    assert next(e.amount for e in plan.sizes() if e.what == "disk: genomes") == kept * plan.genome


def test_resident_models_are_held_on_the_device(space: ExpertSpace) -> None:
    plan = plan_of(space)
    held = Plan(space, plan.strategy, plan.changed, plan.groups, weights=1000, resident=True)
    stored = sum(tensor.nbytes for tensor in space.base.values())
    assert held.device_bytes - plan.device_bytes == 4 * stored + plan.cache_bytes


@pytest.mark.parametrize(("processes", "even"), [(4096, 16), (15, 8), (7, 4), (1, 1)])
def test_fewer_processes_may_share_evenly(processes: int, even: int) -> None:
    assert fewer([8, 8], processes) == even


def test_a_shape_that_is_costly_is_tried_smaller(
    space: ExpertSpace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    device = torch.device("cpu")
    options: dict[str, Any] = {"spectral": True, "dtype": torch.float32, "device": device}
    assert all(seconds > 0 for seconds in time_shapes(space, folder=tmp_path / "whole", **options))
    monkeypatch.setitem(AFFORDABLE, "cpu", 1e3)
    assert all(seconds > 0 for seconds in time_shapes(space, folder=tmp_path / "part", **options))
    whole, part = (
        sum(file.stat().st_size for file in (tmp_path / name).rglob("*.safetensors")) for name in ("whole", "part")
    )
    assert part < whole / 2


def test_amounts_are_written_for_people() -> None:
    assert [bytes_text(n) for n in (0, 999, 1.6e10, 3e15)] == ["0 B", "999 B", "16 GB", "3e+03 TB"]
    assert [seconds_text(n) for n in (0.0021, 5, 300, 9000, 5e5)] == [
        "2.1 ms",
        "5 s",
        "5 min",
        "2.5 h",
        "5.79 days",
    ]

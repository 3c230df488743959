"""Small real models on disk, and the method's arithmetic once more: dense, in float64 numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cyqd.evolution import Candidate, CycleQD, ExpertSpace, Genome, GenomeStore
from cyqd.evolution.archive import Scores
from cyqd.evolution.spectrum import SingularBases

Dense = dict[str, NDArray[np.float64]]

SHAPES: dict[str, tuple[int, ...]] = {
    "embed.weight": (9, 4),  # tall
    "mlp.weight": (4, 9),  # wide
    "head.weight": (5, 5),  # square
    "conv.weight": (3, 2, 2, 2),
    "norm.weight": (6,),
    "row.weight": (1, 6),  # one output: a vector in all but name
    "scale": (),
}
MATRICES = ("embed.weight", "mlp.weight", "head.weight", "conv.weight")
LOW_RANK = "mlp.weight"  # every expert's task vector has rank 2 here
FROZEN = "head.weight"  # and the last expert never trained this one


def write_models(folder: Path, *, tasks: int = 3, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Path]:
    """Save a base and one expert per task; return their files, the base's first."""
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    base = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    models = [{name: tensor.to(dtype) for name, tensor in base.items()}]
    for task in range(tasks):
        expert = {}
        for name, tensor in base.items():
            if name == LOW_RANK:
                step = torch.randn(4, 2, generator=generator) @ torch.randn(2, 9, generator=generator)
            else:
                step = torch.randn(tensor.shape, generator=generator)
            expert[name] = (tensor + 0.1 * step).to(dtype)
        if task == tasks - 1:
            expert[FROZEN] = models[0][FROZEN].clone()
        models.append(expert)
    paths = [folder / f"{label}.safetensors" for label in ("base", *map(str, range(tasks)))]
    for path, model in zip(paths, models, strict=True):
        save_file(model, path)
    return paths


def read(path: Path) -> dict[str, Tensor]:
    """Memory-map a model."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def open_space(
    folder: Path,
    *,
    tasks: int = 3,
    dtype: torch.dtype = torch.float32,
    rank: int | None = None,
    seed: int = 0,
) -> ExpertSpace:
    """Write models under ``folder`` and open them, singular bases included."""
    base, *experts = (read(path) for path in write_models(folder, tasks=tasks, dtype=dtype, seed=seed))
    space = ExpertSpace(base, experts, [f"task{k}" for k in range(tasks)])
    space.identity = " ".join(space.fingerprint(weights, label="model") for weights in (base, *experts))
    add_bases(space, folder / f"bases-{rank}", rank=rank)
    return space


def add_bases(space: ExpertSpace, folder: Path, *, rank: int | None = None) -> None:
    """Compute the singular bases of every expert."""
    space.bases = []
    for k in range(len(space.experts)):
        space.rank = rank
        bases = SingularBases(folder / str(k), space.matrices(), rank=rank)
        for name in bases.missing():
            bases.compute(name, space.task_vector(k, name))
        space.bases.append(bases)


def array(tensor: Tensor) -> NDArray[np.float64]:
    """Any tensor as float64 numpy."""
    return np.asarray(tensor.detach().double().numpy(), dtype=np.float64)


def dense_task_vector(weights: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> Dense:
    """τ = θ − θ_b."""
    return {name: array(weights[name]) - array(base[name]) for name in base}


def dense_combine(terms: Sequence[tuple[float, Dense]]) -> Dense:
    """Σ a·τ."""
    return {name: np.asarray(sum(factor * tau[name] for factor, tau in terms)) for name in terms[0][1]}


def dense_stretch(
    matrix: NDArray[np.float64], weights: Sequence[float], *, shift: float = 0.0
) -> NDArray[np.float64]:
    """U diag((shift + w) ∘ σ) Vᵀ by a full SVD; w may be shorter than the rank, its rest is zero."""
    flat = matrix.reshape(matrix.shape[0], -1)
    u, sigma, vt = np.linalg.svd(flat, full_matrices=False)
    w = np.zeros_like(sigma)
    w[: len(weights)] = weights
    return np.asarray((u * ((shift + w) * sigma) @ vt).reshape(matrix.shape))


def assert_same_task_vector(genome: Genome, expected: Dense, *, relative: float = 1e-5) -> None:
    """Compare a genome with a dense task vector: error relative to each parameter's largest entry."""
    for name, tau in expected.items():
        error = np.abs(array(genome.task_vector(name)) - tau).max()
        # A frozen parameter has no scale of its own, hence the floor.
        assert error <= relative * max(float(np.abs(tau).max()), 1e-2), (name, error)


def bits(tensor: Tensor) -> bytes:
    """A tensor's exact bytes, so that −0.0 differs from 0.0."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def judge(candidate: Candidate) -> Scores:
    """Score a model as a real evaluation would: a smooth function of its weights, coarse enough for ties."""
    scores = []
    for k, expert in enumerate(candidate.genome.space.experts):
        gap = sum((candidate.genome.weight(n).double() - expert[n].double()).square().sum().item() for n in expert)
        scores.append(round(float(np.exp(-gap / (2 + k))) * 50) / 50)
    return tuple(scores)


def start(space: ExpertSpace, folder: Path, *, seed: int = 0, **settings: Any) -> CycleQD:
    """A CycleQD that is set up."""
    strategy = CycleQD(**settings)
    strategy.setup(space, GenomeStore(folder, space), seed)
    return strategy


def evolve(strategy: CycleQD, *, steps: int | None = None) -> list[tuple[Candidate, Scores]]:
    """Ask and tell until done, or ``steps`` times."""
    log: list[tuple[Candidate, Scores]] = []
    while not strategy.done and (steps is None or len(log) < steps):
        candidate = strategy.ask()
        scores = judge(candidate)
        strategy.tell(candidate, scores)
        log.append((candidate, scores))
    return log

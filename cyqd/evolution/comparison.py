"""How alike experts are: their singular values, their task vectors' directions and lengths, part by part.

Everything is a sum over parameters of small Gram matrices, so one parameter of each model is read at a time, in
pieces, and models of any size fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from cyqd.evolution.parts import parts_of
from cyqd.evolution.space import ExpertSpace
from cyqd.evolution.spectrum import as_matrix, is_matrix, similarity, singular_values

PIECE = 1 << 20
"""Numbers of a parameter that are read at a time; in float64 they take 8 MiB."""

Spectra = Mapping[str, Mapping[str, Tensor]]
"""By model, the singular values of each matrix of its task vector, descending, by parameter name."""


def compare(
    space: ExpertSpace,
    *,
    spectra: Spectra | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int], object] | None = None,
) -> dict[str, Any]:
    """Compare experts of one base by their task vectors.

    Similarity is the mean over matrices of rank > 1 of cos(σ_A, σ_B) (paper, section 4.2.3), in [0, 1]; the cosine
    is that of whole task vectors, in [−1, 1].

    Args:
        space: the base and at least two experts; their names are the space's tasks.
        spectra: singular values that are known already; then none are computed, which is the costly part.
        device: where to compute; it must know float64.
        progress: called after each parameter with its size times the number of experts.

    Returns:
        ``models``; ``norms``: length of each task vector; and ``pairs``, ``layers`` and ``groups``: ``similarity``
        and ``cosine`` by pair "A+B", of all parameters and of each part; None where a value is undefined (no matrix
        of rank > 1, a task vector that is zero) or was not asked for.

    Raises:
        ValueError: if there is only one expert, a name holds "+", or a weight is NaN or infinite.
    """
    if len(space.tasks) < 2:
        raise ValueError(f"expected at least two experts to compare, got {space.tasks}")
    if named := [model for model in space.tasks if "+" in model]:
        raise ValueError(f"{named[0]}: expected a name without '+', which joins the names of a pair; rename it")
    pieces = _Pieces(space, device)
    inner: dict[str, Tensor] = {}
    found: dict[str, dict[str, Tensor]] = {model: {} for model in space.tasks}
    for name in space.names:
        if not space.base[name].numel():
            continue
        decompose = spectra is None and is_matrix(tuple(space.base[name].shape))
        inner[name], grams = _grams(pieces, name, decompose=decompose)
        for model, gram in zip(space.tasks, grams, strict=False):  # no Gram matrices of what is no matrix
            found[model][name] = singular_values(gram).cpu()
        if progress:
            progress(space.base[name].numel() * len(space.experts))
    return _report(space.tasks, inner, found if spectra is None else spectra)


class _Pieces:
    """Reads task vectors in pieces, into buffers that are allocated once: others would leave the heap in shreds."""

    def __init__(self, space: ExpertSpace, device: torch.device | str) -> None:
        self.space = space
        self.single = torch.empty(2, PIECE, device=device)
        self.double = torch.empty(len(space.experts), PIECE, dtype=torch.float64, device=device)

    def read(self, name: str) -> Iterator[Tensor]:
        """Yield pieces [K, rows, shorter side], float64, along the longer side; each overwrites the one before.

        As everywhere, τ is a difference in float32.
        """
        base, *experts = (_upright(weights[name].detach()) for weights in (self.space.base, *self.space.experts))
        length, side = base.shape
        rows = min(PIECE // side, length)
        origin, here = self.single[:, : rows * side].view(-1, rows, side)
        taus = self.double[:, : rows * side].view(-1, rows, side)
        for start in range(0, length, rows):
            stop = min(start + rows, length)
            size = stop - start
            origin[:size] = base[start:stop]
            for tau, expert in zip(taus, experts, strict=True):
                here[:size] = expert[start:stop]
                tau[:size] = here[:size].sub_(origin[:size])
            yield taus[:, :size]


def _grams(pieces: _Pieces, name: str, *, decompose: bool) -> tuple[Tensor, list[Tensor]]:
    """Return the task vectors' inner products, float64 [K, K]; with ``decompose`` also their smaller Gram matrices.

    Raises:
        ValueError: if a weight is NaN or infinite, naming the model and the tensor.
    """
    space = pieces.space
    inner = pieces.double.new_zeros(len(space.experts), len(space.experts))
    grams: list[Tensor] = []
    for taus in pieces.read(name):
        flat = taus.flatten(1)
        inner.addmm_(flat, flat.T)
        if decompose:
            side = taus.shape[2]
            grams = grams or [inner.new_zeros(side, side) for _ in space.experts]
            for gram, tau in zip(grams, taus, strict=True):
                gram.addmm_(tau.T, tau)
    if not bool(inner.isfinite().all()):
        models = {"base": space.base, **dict(zip(space.tasks, space.experts, strict=True))}
        label = next(
            (label for label, weights in models.items() if not weights[name].isfinite().all()), "an expert"
        )
        raise ValueError(f"{label}: tensor '{name}' holds NaN or infinite values; mend or replace this model")
    return inner.cpu(), grams


def _upright(tensor: Tensor) -> Tensor:
    """View a parameter as a matrix that is at least as high as wide; a vector as one column."""
    matrix = as_matrix(tensor) if tensor.ndim >= 2 else tensor.reshape(-1, 1)
    return matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T


def _report(models: Sequence[str], inner: Mapping[str, Tensor], spectra: Spectra) -> dict[str, Any]:
    """Sum up parameters: all of them, layer by layer, group by group."""
    parts: dict[str, dict[str, list[str]]] = {"pairs": {"": list(inner)}, "layers": {}, "groups": {}}
    for name in inner:
        layer, group = parts_of(name)
        parts["layers"].setdefault(layer, []).append(name)
        parts["groups"].setdefault(group, []).append(name)
    report: dict[str, Any] = {"models": list(models), "norms": {}, "pairs": {}, "layers": {}, "groups": {}}
    for kind, members in parts.items():
        sums = {
            part: torch.stack([inner[name] for name in names]).sum(0).tolist() for part, names in members.items()
        }
        for a, b in combinations(range(len(models)), 2):
            pair = f"{models[a]}+{models[b]}"
            values = {
                part: {
                    "similarity": _similarity(spectra[models[a]], spectra[models[b]], names),
                    "cosine": _cosine(sums[part][a][b], sums[part][a][a], sums[part][b][b]),
                }
                for part, names in members.items()
            }
            report[kind][pair] = values[""] if kind == "pairs" else values
        if kind == "pairs":
            report["norms"] = {model: math.sqrt(sums[""][k][k]) for k, model in enumerate(models)}
    return report


def _similarity(first: Mapping[str, Tensor], second: Mapping[str, Tensor], names: Sequence[str]) -> float | None:
    value = similarity(*({name: sigma[name] for name in names if name in sigma} for sigma in (first, second)))
    return None if math.isnan(value) else value


def _cosine(product: float, first: float, second: float) -> float | None:
    length = math.sqrt(first) * math.sqrt(second)
    return min(max(product / length, -1.0), 1.0) if length > 0 else None

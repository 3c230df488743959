"""Similarity, cosines and norms, in pieces, against dense float64; and how little memory they take."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from cyqd.evolution import ExpertSpace
from cyqd.evolution.comparison import compare
from tests.conftest import ROOT, environment
from tests.evolution.models import SHAPES, open_space, read, write_models


def taus(space: ExpertSpace, k: int, names: Sequence[str]) -> list[Tensor]:
    return [space.experts[k][name].double() - space.base[name].double() for name in names]


def dense_cosine(space: ExpertSpace, a: int, b: int, names: Sequence[str]) -> float | None:
    first, second = (np.concatenate([t.flatten().numpy() for t in taus(space, k, names)]) for k in (a, b))
    length = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first @ second / length) if length else None


def dense_similarity(space: ExpertSpace, a: int, b: int, names: Sequence[str]) -> float | None:
    cosines = []
    for name in names:
        sigmas = []
        for (tau,) in (taus(space, k, [name]) for k in (a, b)):
            matrix = tau.reshape(len(tau), -1) if tau.ndim >= 2 else tau.reshape(1, -1)
            sigma = torch.linalg.svdvals(matrix)
            sigmas.append(sigma if (sigma > 1e-6 * sigma[0]).sum() > 1 else None)
        if sigmas[0] is not None and sigmas[1] is not None:
            cosines.append(torch.nn.functional.cosine_similarity(*sigmas, dim=0).item())
    return float(np.mean(cosines)) if cosines else None


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def any_space(tmp_path: Path, request: pytest.FixtureRequest) -> ExpertSpace:
    return open_space(tmp_path, dtype=request.param)


def test_all_values_are_those_of_a_dense_computation(
    any_space: ExpertSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cyqd.evolution.comparison.PIECE", 8)  # many pieces, the last one short
    found = compare(any_space)
    assert found["models"] == ["task0", "task1", "task2"]
    for k, norm in enumerate(found["norms"].values()):
        assert norm == pytest.approx(
            np.sqrt(sum(t.square().sum().item() for t in taus(any_space, k, list(SHAPES))))
        )
    by_layer = {name: [name] for name in SHAPES}  # no numbers in these names: each is a layer of its own
    for a, b in combinations(range(3), 2):
        pair = f"task{a}+task{b}"
        assert found["pairs"][pair]["cosine"] == pytest.approx(dense_cosine(any_space, a, b, list(SHAPES)))
        assert found["pairs"][pair]["similarity"] == pytest.approx(
            dense_similarity(any_space, a, b, list(SHAPES)), abs=2e-6
        )
        for layer, names in by_layer.items():
            values = found["layers"][pair][layer]
            assert values["cosine"] == pytest.approx(dense_cosine(any_space, a, b, names), abs=1e-6)
            assert values["similarity"] == pytest.approx(dense_similarity(any_space, a, b, names), abs=2e-6)
        assert found["groups"][pair] == found["layers"][pair]


def test_similarity_is_that_of_the_singular_bases(space: ExpertSpace) -> None:
    computed = compare(space)
    spectra = {
        task: {name: bases[name].sigma for name in bases.names}
        for task, bases in zip(space.tasks, space.bases, strict=True)
    }
    known, unknown = compare(space, spectra=spectra), compare(space, spectra={task: {} for task in space.tasks})
    for a, b in combinations(range(3), 2):
        pair = f"task{a}+task{b}"
        expected = space.similarity(a, b)
        assert computed["pairs"][pair]["similarity"] == pytest.approx(expected, abs=1e-7)
        assert known["pairs"][pair]["similarity"] == expected
        assert unknown["pairs"][pair] == {"similarity": None, "cosine": computed["pairs"][pair]["cosine"]}


def test_layers_and_groups_are_sums_over_their_parameters() -> None:
    generator = torch.Generator().manual_seed(0)
    names = [f"layers.{layer}.{part}.weight" for layer in range(2) for part in ("up", "down")]
    base, *experts = (
        {
            **{name: torch.randn(5, 7, generator=generator) for name in names},
            "norm": torch.randn(7, generator=generator),
        }
        for _ in range(3)
    )
    space = ExpertSpace(base, experts, ["x", "y"])
    found = compare(space)
    for kind, parts in {
        "layers": {"layers.0": names[:2], "layers.1": names[2:], "norm": ["norm"]},
        "groups": {"up": names[0::2], "down": names[1::2], "norm": ["norm"]},
    }.items():
        assert found[kind]["x+y"].keys() == parts.keys()
        for part, members in parts.items():
            values = found[kind]["x+y"][part]
            assert values["cosine"] == pytest.approx(dense_cosine(space, 0, 1, members), abs=1e-6)
            expected = dense_similarity(space, 0, 1, members) if part != "norm" else None
            assert values["similarity"] == (None if expected is None else pytest.approx(expected, abs=1e-6))


def test_an_expert_equal_to_its_base_has_neither(tmp_path: Path) -> None:
    base, expert = (read(path) for path in write_models(tmp_path, tasks=1))
    found = compare(ExpertSpace(base, [expert, dict(base)], ["x", "y"]))
    assert found["norms"]["y"] == 0
    assert found["pairs"]["x+y"] == {"similarity": None, "cosine": None}


def test_the_same_expert_twice_is_as_similar_as_can_be(space: ExpertSpace) -> None:
    twins = ExpertSpace(space.base, [space.experts[0], dict(space.experts[0])], ["x", "y"])
    values = compare(twins)["pairs"]["x+y"]
    assert values == {"similarity": pytest.approx(1, abs=1e-12), "cosine": pytest.approx(1, abs=1e-12)}


@pytest.mark.parametrize(("model", "value"), [("base", float("nan")), ("y", float("inf")), ("x", float("nan"))])
def test_a_weight_that_is_no_number_is_named(tmp_path: Path, model: str, value: float) -> None:
    models = dict(zip(("base", "x", "y"), map(read, write_models(tmp_path, tasks=2)), strict=True))
    models[model]["norm.weight"] = models[model]["norm.weight"].clone()
    models[model]["norm.weight"][2] = value
    with pytest.raises(ValueError, match=rf"{model}: tensor 'norm\.weight' holds NaN or infinite values"):
        compare(ExpertSpace(models["base"], [models["x"], models["y"]], ["x", "y"]))


def test_one_expert_is_not_enough(space: ExpertSpace) -> None:
    with pytest.raises(ValueError, match="at least two experts"):
        compare(ExpertSpace(space.base, space.experts[:1], ["x"]))


def test_a_plus_in_a_name_is_refused(space: ExpertSpace) -> None:
    with pytest.raises(ValueError, match=r"^b\+c: expected a name without '\+'"):
        compare(ExpertSpace(space.base, space.experts, ["a", "b+c", "d"]))


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (2, 3, 0)])
def test_empty_tensors_are_skipped(space: ExpertSpace, shape: tuple[int, ...]) -> None:
    models = [{**weights, "empty": torch.zeros(shape)} for weights in (space.base, *space.experts)]
    assert compare(ExpertSpace(models[0], models[1:], space.tasks)) == compare(space)
    assert "empty" not in ExpertSpace(models[0], models[1:], space.tasks).matrices()


def test_progress_covers_every_parameter_of_every_expert(space: ExpertSpace) -> None:
    seen: list[int] = []
    compare(space, progress=seen.append)
    assert sum(seen) == 3 * sum(tensor.numel() for tensor in space.base.values())


ALLOWANCE = """
import re, sys, threading
from pathlib import Path
import torch
from safetensors.torch import save_file
from cyqd.evolution import ExpertSpace
from cyqd.evolution.comparison import compare
from cyqd.evolution.weights import StoredWeights

def anonymous():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def peak_of(names):
    peak, over = [0], threading.Event()

    def sample():
        while not over.wait(0.002):
            peak[0] = max(peak[0], anonymous())

    sampler = threading.Thread(target=sample)
    sampler.start()
    compare(ExpertSpace(base, experts, ["x", "y"], names=names))
    over.set()
    sampler.join()
    return peak[0]

base, *experts = (StoredWeights(Path(sys.argv[1]) / f"{name}.safetensors") for name in ("base", "x", "y"))
before = anonymous()
print(before, peak_of(list(base)[:1]), peak_of(list(base)))
"""


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for name in ("base", "x", "y"):
        layer = torch.randn(1 << 19, 4, generator=generator).half()
        save_file({f"layers.{n}.weight": layer + n for n in range(12)}, tmp_path / f"{name}.safetensors")
    stored = sum(path.stat().st_size for path in tmp_path.iterdir())
    done = subprocess.run(
        [sys.executable, "-c", ALLOWANCE, str(tmp_path)],
        capture_output=True, text=True, env=environment(), cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    before, one, all_of_them = map(int, done.stdout.split())
    assert stored > 140e6
    assert one > before
    assert all_of_them - before < 1.2 * (one - before) + 0.05 * stored

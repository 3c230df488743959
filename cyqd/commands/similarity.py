"""Compare experts before merging them: singular values, directions and lengths of their task vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from jsonargparse import Namespace
from tqdm import tqdm

from cyqd.commands._common import Parser
from cyqd.evolution import ExpertSpace
from cyqd.evolution.comparison import compare
from cyqd.evolution.storage import atomic_path, save_json
from cyqd.evolution.weights import StoredWeights
from cyqd.report.figures import parts_figure, save, similarity_figure
from cyqd.report.similarity import distinguish, interpret, pair_matrices, similarity_tables
from cyqd.training.run import SetupError


def parser() -> Parser:
    """Return the arguments of ``similarity``."""
    parser = Parser(
        description="Compare experts before merging them: the paper's similarity of singular values, cosine and "
        "length of task vectors, overall, by layer and by group of parameters. Models of any size fit into memory; "
        "an 8B pair takes about 75 minutes of one CPU core."
    )
    parser.add_argument(
        "base", type=Path, help="the base: a folder with model.safetensors or shards, or a .pth file"
    )
    parser.add_argument("experts", type=Path, nargs="+", help="two or more experts tuned from it, likewise")
    parser.add_argument(
        "--out", type=Path, help="folder for similarity.json, similarity.md, similarity.png, layers.png"
    )
    parser.add_argument("--device", type=str, default="cpu", help="where to compute, `cuda` for one")
    return parser


def prepare(config: Namespace, parser: Parser) -> Callable[[], object]:
    """Prepare ``similarity``: opens the models and checks that they fit."""
    if config.out and config.out.exists() and not config.out.is_dir():
        raise ValueError(f"out: expected a folder, got the file {config.out}")
    base, *experts = [StoredWeights(path) for path in (config.base, *config.experts)]
    if len(experts) < 2:
        raise ValueError(f"experts: expected at least two, got {config.experts[0]} alone")
    distinguish([config.base, *config.experts])  # the base is no expert of its own
    names = [name for name, tensor in base.items() if tensor.is_floating_point()]
    space = ExpertSpace(base, experts, distinguish(config.experts), names=names)
    try:
        torch.zeros(1, dtype=torch.float64, device=config.device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device: {config.device} cannot compute in float64 here: {error}") from error

    def work() -> None:
        size = sum(base[name].numel() for name in names) * len(experts)
        try:
            with tqdm(total=size, desc="comparing", unit="weight", unit_scale=True) as bar:
                values = interpret(compare(space, device=config.device, progress=bar.update))
        except ValueError as error:  # NaN, which only reading finds
            raise SetupError(str(error)) from error
        tables = similarity_tables(values)
        print(tables, "", *values["reading"], *(f"Warning: {text}" for text in values["warnings"]), sep="\n")
        if config.out:
            save_json(config.out / "similarity.json", values)
            with atomic_path(config.out / "similarity.md") as temporary:
                temporary.write_text(tables + "\n", encoding="utf-8")
            save(similarity_figure(pair_matrices(values["models"], values["pairs"])), config.out / "similarity.png")
            if any(pair["cosine"] is not None for pair in values["pairs"].values()):
                save(parts_figure(values), config.out / "layers.png")

    return work

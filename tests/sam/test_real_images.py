"""Real images end to end: a tiny base and two experts, fitted and evolved through the command line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cyqd.__main__ import main
from cyqd.sam import Folder, weights
from tests.sam.conftest import make_sam

DATA = Path(__file__).parents[2] / "../shared/data/segmentation"
PAIR = ("camouflage", "skin")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"the public test data is not at {DATA}"),
]


def divide(domain: str, folder: Path, *, evaluation: float = 0.4) -> tuple[int, int]:
    """Link a domain's pairs into folder/train and folder/eval, by a hash of the id; return how many went where."""
    counts = [0, 0]
    for pair in Folder(DATA / domain).pairs():
        share = int.from_bytes(hashlib.sha256(pair.id.encode()).digest()[:4], "big") / 2**32
        counts[share < evaluation] += 1
        for kind, file in {"images": pair.image, "masks": pair.mask}.items():
            link = folder / ("eval" if share < evaluation else "train") / kind / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
    return counts[0], counts[1]


def layout(root: Path) -> dict[str, Any]:
    return {"class_path": "cyqd.sam.Folder", "init_args": {"root": str(root)}}


def config(base: Path, data: Path, domains: tuple[str, ...], **arguments: Any) -> dict[str, Any]:
    tasks = [
        {
            "class_path": "cyqd.sam.Segmentation",
            "init_args": {"name": name, "problems": layout(data / name / "eval")},
        }
        for name in domains
    ]
    return {
        "threads": 1,
        "model": {
            "class_path": "cyqd.sam.SAMModule",
            "init_args": {"base": str(base), "lr": 2e-3, "warmup_ratio": 0.1},
        },
        "data": {
            "class_path": "cyqd.sam.SAMData",
            "init_args": {"tasks": tasks, "image_size": 64, "batch_size": 16, **arguments},
        },
        "trainer": {"accelerator": "cpu", "devices": 1, "logger": False},
    }


def fit(out: Path, base: Path, data: Path, domains: tuple[str, ...], *, steps: int) -> None:
    """Fine-tune on some domains, and score on them."""
    content = config(base, data, domains, train=[layout(data / name / "train") for name in domains])
    content["trainer"] |= {
        "max_epochs": steps, "max_steps": steps, "check_val_every_n_epoch": steps + 1, "gradient_clip_val": 1.0,
        "enable_checkpointing": False, "enable_progress_bar": False,
    }  # fmt: skip
    run("fit", content | {"out": str(out)}, out.with_suffix(".yaml"))


def evolve(
    out: Path, base: Path, experts: dict[str, Path], data: Path, *, generations: int
) -> list[dict[str, Any]]:
    """Evolve the experts; return the rows of the results table."""
    content = config(base, data, tuple(experts)) | {
        "experts": {name: str(path) for name, path in experts.items()},
        "strategy": {"class_path": "cyqd.evolution.CycleQD", "init_args": {"generations": generations}},
        "run": str(out),
    }
    run("evolve", content, out.with_suffix(".yaml"))
    rows: list[dict[str, Any]] = json.loads((out / "results.json").read_text())["rows"]
    return rows


def run(command: str, content: dict[str, Any], path: Path) -> None:
    path.write_text(yaml.safe_dump(content))
    main([command, "--config", str(path)])


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Leave PyTorch's threads as they were: the commands set them."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_experts_on_real_images_are_fitted_and_evolved(tmp_path: Path) -> None:
    data, init = tmp_path / "data", make_sam(tmp_path / "init")
    counts = {domain: divide(domain, data / domain) for domain in PAIR}
    fit(tmp_path / "base", init, data, PAIR, steps=60)
    experts = {domain: tmp_path / domain for domain in PAIR}
    for domain, out in experts.items():
        fit(out, tmp_path / "base", data, (domain,), steps=30)
    rows = {row["model"]: row["tasks"] for row in evolve(
        tmp_path / "run", tmp_path / "base", experts, data, generations=12
    )}  # fmt: skip
    for domain, (_, evaluated) in counts.items():
        assert {cells[domain]["n"] for cells in rows.values()} == {evaluated // 2}
        # So few steps teach little, but 30 on one domain make more of it than 60 on both.
        assert rows[f"expert {domain}"][domain]["mean"] > rows["base"][domain]["mean"] + 0.05
    means = {model: sum(cells[domain]["mean"] for domain in PAIR) / 2 for model, cells in rows.items()}
    merged_best = max(mean for model, mean in means.items() if model.startswith("CycleQD"))
    assert merged_best >= min(means[f"expert {domain}"] for domain in PAIR)
    merged = weights.load(tmp_path / "run" / "model").state_dict()
    base = weights.read(tmp_path / "base")
    assert any(not torch.equal(merged[name], tensor) for name, tensor in base.items())
    print((tmp_path / "run" / "results.md").read_text())

"""Fine-tuning in mixed precision and a whole evolution on a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cyqd.__main__ import main
from tests.conftest import Domain

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_an_expert_is_fitted_and_experts_are_evolved(segmentation: Domain, tmp_path: Path) -> None:
    data: dict[str, Any] = segmentation.parts["data"]
    train = [task["init_args"]["problems"] for task in data["init_args"]["tasks"][:1]]
    trainer = {"accelerator": "gpu", "devices": 1, "precision": "bf16-mixed", "max_epochs": 1, "logger": False}
    config = {
        "model": segmentation.parts["model"],
        "data": {**data, "init_args": {**data["init_args"], "train": train}},
        "trainer": {**trainer, "enable_checkpointing": False},
        "out": str(tmp_path / "expert"),
    }
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(tmp_path / "fit.yaml")])
    run = tmp_path / "run"
    evolve = ["evolve", "--config", str(segmentation.config(run, generations=4)), "--trainer.accelerator", "gpu"]
    main([*evolve, "--experts.task0", str(tmp_path / "expert"), "--resident", "true"])
    rows = json.loads((run / "results.json").read_text())["rows"]
    own = {row["model"]: row["tasks"] for row in rows}
    assert own["expert task1"]["task1"]["mean"] > 0.9  # its own masks, as the CPU drew them
    assert list((run / "pictures").iterdir())

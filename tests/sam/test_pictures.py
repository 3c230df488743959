"""Pictures: a run shows where merging gained and lost most, the same masks that were scored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread

from cyqd.__main__ import main
from cyqd.sam.pictures import SIDE, picture
from tests.conftest import Domain


def test_a_large_picture_is_reduced_and_keeps_its_shape() -> None:
    truth = torch.zeros(900, 600, dtype=torch.bool)
    truth[:450] = True
    image = torch.zeros(1, 3, 1024, 1024, dtype=torch.uint8)
    image[:, 0, :512, :683] = 200  # the upper half is red; the rest of the square is padding
    batch = {"image": image, "size": torch.tensor([[1024, 683]]), "truth": [truth]}
    shown = picture(batch, (~truth).float())
    assert shown.problem.shape == (SIDE, round(SIDE * 683 / 1024), 3)
    assert (shown.problem[: SIDE // 2 - 2] == [200, 0, 0]).all()
    assert (shown.problem[SIDE // 2 + 2 :] == 0).all()
    assert (shown.truth == (shown.problem[..., 0] > 100)).mean() > 0.98
    assert (shown.prediction == ~shown.truth).all()


def test_a_run_shows_where_merging_gained_and_lost_most(segmentation: Domain, tmp_path: Path) -> None:
    run = tmp_path / "run"
    main(["evolve", "--config", str(segmentation.config(run, generations=2)), "--final_rule", "best_mean"])
    results = json.loads((run / "results.json").read_text())
    tested = [
        json.loads(line) for line in next(run.glob("evolution/test-*/history.jsonl")).read_text().splitlines()
    ]
    outcomes = {line["model"]: line["outcomes"] for line in tested}
    changed = {
        task
        for task in segmentation.sizes
        for name, score in outcomes[f"expert {task}"].items()
        if name.startswith(f"{task}/") and score != outcomes[results["final"]][name]
    }
    assert {path.stem for path in (run / "pictures").iterdir()} == changed
    assert changed, "the merged model is an expert: this shows nothing"
    for task in changed:
        shown = imread(run / "pictures" / f"{task}.png")
        assert shown.shape[1] > 500
        assert shown[..., :3].std() > 0.05


def test_pictures_reach_weights_and_biases(
    segmentation: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")  # the logger sets it for the whole process; now it is put back
    run = tmp_path / "run"
    logger = {"class_path": "lightning.pytorch.loggers.WandbLogger"}
    logger["init_args"] = {"offline": True, "save_dir": str(tmp_path), "project": "cyqd"}
    config = segmentation.config(run, generations=1)
    main(["evolve", "--config", str(config), "--trainer.logger", json.dumps(logger)])
    sent = sorted(path.name for path in tmp_path.glob("wandb/offline-run-*/files/media/images/pictures/*.png"))
    assert [name.partition("_")[0] for name in sent] == sorted(p.stem for p in (run / "pictures").iterdir())

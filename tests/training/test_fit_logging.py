"""What a fit tells its loggers, read back from what offline W&B runs stored; and that its bits stay the same."""

from __future__ import annotations

import csv
import json
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import Tensor

from cyqd.commands.fit import continues
from cyqd.llm import LLMData, LLMModule
from cyqd.sam import Folder, SAMData, SAMModule, Segmentation
from cyqd.training.fit import fit
from cyqd.training.tracking import RunLogger, Wandb, wandb_logger
from tests.conftest import Domain
from tests.llm.conftest import make_llama
from tests.llm.test_dialogue import Guess
from tests.report.finished import read_finished
from tests.report.offline import Stored

STEPS = 6  # an epoch's
SPEED = "train/samples_per_second"


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    lines = [{"instruction": f"What is {i}?", "output": f"It is {i}." * (1 + i % 3)} for i in range(8 * STEPS)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return make_llama(folder / "base")


def fit_llama(
    base: Path,
    out: Path,
    *,
    logger: Any = False,
    epochs: int = 2,
    callbacks: Any = (),
    every: int = 2,
    **options: Any,
) -> LLMModule:
    torch.manual_seed(0)
    module = LLMModule(base, max_new_tokens=8, lr=5e-3)
    tasks = [Guess([3, 6, 5, 7, 9, 8, 4, 2, 1, 10], max_turns=3), Guess([4, 6], name="other", max_turns=1)]
    data = LLMData(tasks, train=[base.parent / "train.jsonl"], batch_size=8, seed=0)
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", logger=logger,
        callbacks=[ModelCheckpoint(save_last=True), StopAfter(epochs), *callbacks], enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=every, default_root_dir=out,
    )  # fmt: skip
    fit(module, data, trainer, out=out, record={}, **options)
    return module


class StopAfter(L.Callback):
    """Ends a fit after some epochs, as a user's Ctrl-C would."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop |= trainer.current_epoch + 1 == self.epochs


def offline(out: Path, *, resume: bool = False) -> RunLogger:
    logger = wandb_logger(Wandb(mode="offline"), out, name="expert", job_type="fit", config={}, resume=resume)
    assert logger is not None
    return logger


def tracked_fit(base: Path, out: Path, **options: Any) -> LLMModule:
    with offline(out, resume="ckpt_path" in options) as logger:
        return fit_llama(base, out, logger=[logger], **options)


def by_step(run: Stored) -> dict[int, dict[str, Any]]:
    return {row["_step"]: row for row in run.rows}


def same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_language_models_fit(llama: Path, tmp_path: Path) -> None:
    plain = fit_llama(llama, tmp_path / "plain")
    assert plain.watched == []
    module = tracked_fit(llama, tmp_path / "tracked")
    assert same([*module.parameters()], [*plain.parameters()]), "logging changes no bit"
    (run,) = read_finished(tmp_path / "tracked")
    stored = by_step(run)
    assert [step for step, row in stored.items() if "train/loss" in row] == [1, 3, 5, 7, 9, 11]
    for step in (1, 3, 5, 7, 9, 11):
        row = stored[step]
        assert 0 < row["lr-AdamW/pg1"] <= 5e-3
        assert row["train/tokens_per_second"] > 8 * row["train/samples_per_second"] > 0
    validations = [step for step, row in stored.items() if "val/guess" in row]
    assert validations == [5, 11, 12], "two epochs, and the expert itself"
    watched = [run.table(stored[step], "answers/guess") for step in validations]
    assert [len(answers) for answers in watched] == [4, 4, 4]
    assert len({tuple(answer["problem"] for answer in answers) for answers in watched}) == 1
    for answer in watched[-1]:
        assert answer["score"] == module.outcomes[f"guess/{answer['problem']}"]
        assert answer["prompt"].startswith("number ")
        turns = answer["reply"].split("\n\n[user] ")
        assert len(turns) <= 3
        assert all(turn.startswith(("less", "more")) for turn in turns[1:])
    scores = [score for name, score in module.outcomes.items() if name.startswith("guess/")]
    assert stored[12]["val/guess"] == pytest.approx(fmean(scores))
    (other,) = run.table(stored[12], "answers/other")
    assert "[user]" not in other["reply"]


def test_a_continued_fit_keeps_its_run_and_its_bits(llama: Path, tmp_path: Path) -> None:
    whole = fit_llama(llama, tmp_path / "whole")
    out = tmp_path / "tracked"
    tracked_fit(llama, out, epochs=1, every=1)
    read_finished(out)
    module = tracked_fit(llama, out, every=1, ckpt_path=str(out / "checkpoints" / "last.ckpt"))
    assert same([*module.parameters()], [*whole.parameters()])
    starts = read_finished(out, starts=2)
    assert len({start.run.run_id for start in starts}) == 1
    losses = [[row["_step"] for row in start.rows if "train/loss" in row] for start in starts]
    assert losses == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]], "also in the row of the first part's expert"


def test_only_a_fit_with_a_checkpoint_is_continued(tmp_path: Path) -> None:
    trainer = L.Trainer(accelerator="cpu", logger=False, callbacks=[ModelCheckpoint(save_last=True)])
    assert not continues(trainer, tmp_path, None)
    assert continues(trainer, tmp_path, "some.ckpt")
    assert not continues(trainer, tmp_path, "last")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert continues(trainer, tmp_path, "last")


def test_any_logger_gets_the_numbers(llama: Path, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    module = fit_llama(llama, tmp_path / "out", logger=logger)
    assert module.watched == []
    assert module.answers == {}
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        lines = list(csv.DictReader(file))
    for key in ("train/loss", "lr-AdamW/pg1", "train/samples_per_second", "train/tokens_per_second"):
        assert [int(line["step"]) for line in lines if line[key]] == [1, 3, 5, 7, 9, 11], key
    assert {int(line["step"]) for line in lines if line["val/guess"]} == {5, 11, 12}


def test_validation_is_no_part_of_the_speed(llama: Path, tmp_path: Path) -> None:
    class Pause(L.Callback):
        def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            time.sleep(0.3)

    logger = CSVLogger(tmp_path)
    fit_llama(llama, tmp_path / "out", logger=logger, callbacks=[Pause()])
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        (speed,) = [line[SPEED] for line in csv.DictReader(file) if line["step"] == "7" and line[SPEED]]
    assert float(speed) > 16 / 0.3, "of the two steps after the validation, with their 16 samples"


def fit_sam(folder: Path, out: Path, logger: Any) -> SAMModule:
    torch.manual_seed(0)
    task = Segmentation(Folder(folder / "data" / "task0"), name="task0")
    data = SAMData(
        [task], train=[Folder(folder / "data" / "task1")], image_size=64, batch_size=4, eval_batch_size=3, seed=0
    )
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", logger=logger, log_every_n_steps=1, default_root_dir=out,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    module = SAMModule(folder / "base", lr=1e-3)
    fit(module, data, trainer, out=out, record={})
    return module


def test_a_segmentation_models_fit(segmentation: Domain, tmp_path: Path) -> None:
    folder, out = segmentation.folder, tmp_path / "tracked"
    plain = fit_sam(folder, tmp_path / "plain", False)
    with offline(out) as logger:
        module = fit_sam(folder, out, [logger])
    assert same([*module.parameters()], [*plain.parameters()]), "logging changes no bit"
    (run,) = read_finished(out)
    speeds = [row["train/samples_per_second"] > 0 for row in run.rows if "train/loss" in row]
    assert speeds == [True] * 5
    shown = run.rows[-1]["answers/task0"]
    problems = [caption.partition(":")[0] for caption in shown["captions"]]
    assert [f"task0/{problem}" for problem in problems] == module.watched
    assert len(problems) == 4
    for problem, caption, file in zip(problems, shown["captions"], shown["filenames"], strict=True):
        score = module.outcomes[f"task0/{problem}"]
        assert caption == f"{problem}: {score:.3f}"
        image, truth = (
            np.asarray(Image.open(folder / "data" / "task0" / kind / f"{problem}.png"))
            for kind in ("images", "masks")
        )
        strip = np.asarray(Image.open(run.files / file))
        assert strip.shape == (48, 3 * 64 + 16, 3)
        assert np.array_equal(strip[:, :64], image)
        assert np.array_equal(strip[:, 72:136, 0] > 0, truth > 0)
        predicted = strip[:, 144:, 0] > 0
        assert score == pytest.approx((predicted & truth).sum() / (predicted | truth).sum())


@pytest.mark.slow
def test_answers_of_all_processes_are_shown(
    segmentation: Domain, cyqd: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    out, folder = tmp_path / "expert", segmentation.folder
    data = segmentation.parts["data"]
    train = {"class_path": "cyqd.sam.Folder", "init_args": {"root": str(folder / "data" / "task1")}}
    trainer = {"accelerator": "cpu", "devices": 2, "max_epochs": 1, "enable_progress_bar": False}
    config = {
        "model": segmentation.parts["model"],
        "data": {
            **data,
            "init_args": {**data["init_args"], "tasks": data["init_args"]["tasks"][:1], "train": [train]},
        },
        "trainer": {**trainer, "strategy": "ddp"},
        "out": str(out),
    }
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump(config))
    cyqd("fit", "--config", tmp_path / "fit.yaml", "--wandb.mode", "offline")
    (run,) = read_finished(out)
    shown = [row["answers/task0"]["captions"] for row in run.rows if "answers/task0" in row]
    scored = Segmentation(Folder(folder / "data" / "task0"), name="task0").problems("optimisation")
    assert [len(captions) for captions in shown] == [4, 4], "of the epoch, and of the expert"
    assert [caption.partition(":")[0] for caption in shown[-1]] == [pair.id for pair in scored[:4]]

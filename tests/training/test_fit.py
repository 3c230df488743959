"""What every fit has in common: the best checkpoint is the expert, and experts can be kept similar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader

from cyqd.evolution import similarity
from cyqd.training import SimilarityRegulariser
from cyqd.training.fit import fit
from cyqd.training.optimisation import optimizer_steps
from cyqd.training.run import SetupError, open_space
from tests.toy import WIDTH, ToyData, ToyModule

Models = tuple[Path, dict[str, Path]]


class TrainableToy(ToyModule):
    """Learns the target of task 0."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        target = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(100)) / 3
        return (self.net(batch) - batch @ target).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-2)

    def on_validation_epoch_start(self) -> None:
        self.reset_scores()

    def on_validation_epoch_end(self) -> None:
        self.log_scores()


class TrainableData(ToyData):
    def train_dataloader(self) -> DataLoader:
        inputs = torch.randn(64, WIDTH, generator=torch.Generator().manual_seed(7))
        return DataLoader(inputs, batch_size=16)


def trainer(folder: Path, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    options = {
        "logger": False,
        "max_epochs": 8,
        "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
    } | options
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        callbacks=list(callbacks),
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def test_the_best_checkpoint_is_the_expert(toy_models: Models, tmp_path: Path) -> None:
    module = TrainableToy(toy_models[0])
    kept = ModelCheckpoint(monitor="val/task0", mode="min", save_top_k=1)  # scores rise: the first epoch's is kept
    seen: list[float] = []

    class Watch(L.Callback):
        def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if trainer.state.fn == "fit" and not trainer.sanity_checking:
                seen.append(float(trainer.callback_metrics["val/task0"]))

    out = tmp_path / "out"
    fit(module, TrainableData([50]), trainer(tmp_path, kept, Watch()), out=out, record={})
    assert min(seen) < seen[-1]
    weights = dict(ToyModule(out).evolved_parameters())
    best = torch.load(kept.best_model_path, weights_only=True)["state_dict"]
    assert all(torch.equal(weights[name], best[f"net.{name}"]) for name in weights)
    assert float(kept.best_model_score) == min(seen)


def test_without_a_monitor_the_expert_is_what_training_ended_with(toy_models: Models, tmp_path: Path) -> None:
    module = TrainableToy(toy_models[0])
    fit(module, TrainableData([50]), trainer(tmp_path, ModelCheckpoint()), out=tmp_path / "out", record={})
    weights = ToyModule(tmp_path / "out").evolved_parameters()
    assert all(torch.equal(weights[name], p) for name, p in module.evolved_parameters().items())


def test_the_first_callback_that_monitors_counts_and_its_checkpoints_lie_beside_the_expert(
    toy_models: Models, tmp_path: Path
) -> None:
    module, out = TrainableToy(toy_models[0]), tmp_path / "out"
    kept = ModelCheckpoint(monitor="val/task0", mode="min")
    logger = CSVLogger(tmp_path / "log")
    run = trainer(tmp_path, ModelCheckpoint(filename="newest"), kept, logger=logger, max_epochs=3)
    fit(module, TrainableData([50]), run, out=out, record={})
    assert Path(kept.best_model_path).parent == out / "checkpoints"
    best = torch.load(kept.best_model_path, weights_only=True)["state_dict"]
    weights = dict(ToyModule(out).evolved_parameters())
    assert all(torch.equal(weights[name], best[f"net.{name}"]) for name in weights)


def test_a_fit_that_ended_but_wrote_no_expert_writes_it_when_continued(toy_models: Models, tmp_path: Path) -> None:
    written = []
    for name in ("first", "again"):
        kept = ModelCheckpoint(dirpath=tmp_path / "kept", monitor="val/task0", mode="min", save_last=True)
        out = tmp_path / name
        ckpt_path = None if name == "first" else "last"
        run = trainer(tmp_path, kept, max_epochs=3)
        fit(TrainableToy(toy_models[0]), TrainableData([50]), run, out=out, record={}, ckpt_path=ckpt_path)
        written.append(dict(ToyModule(out).evolved_parameters()))
    assert all(torch.equal(written[0][name], written[1][name]) for name in written[0])


def test_weights_alone_are_no_fit_to_continue(toy_models: Models, tmp_path: Path) -> None:
    kept = ModelCheckpoint(dirpath=tmp_path / "kept", save_weights_only=True)
    run = trainer(tmp_path, kept, max_epochs=1)
    fit(TrainableToy(toy_models[0]), TrainableData([50]), run, out=tmp_path / "out", record={})
    again = trainer(tmp_path, max_epochs=2)
    with pytest.raises(SetupError, match="weights alone"):
        fit(
            TrainableToy(toy_models[0]),
            TrainableData([50]),
            again,
            out=tmp_path / "out",
            record={},
            ckpt_path=kept.best_model_path,
        )


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut off"])
def test_a_damaged_checkpoint_is_named(toy_models: Models, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "cut.ckpt"
    path.write_bytes(content)
    with pytest.raises(SetupError, match=r"cut\.ckpt is damaged"):
        fit(
            TrainableToy(toy_models[0]),
            TrainableData([50]),
            trainer(tmp_path),
            out=tmp_path / "out",
            record={},
            ckpt_path=str(path),
        )


@pytest.mark.parametrize("limits", [{"max_epochs": 3}, {"max_steps": 7}, {"max_epochs": 9, "max_steps": 11}])
@pytest.mark.parametrize("more", [{}, {"accumulate_grad_batches": 3}, {"limit_train_batches": 0.5}])
def test_the_number_of_steps_is_lightnings(
    toy_models: Models, tmp_path: Path, limits: dict[str, Any], more: dict[str, Any]
) -> None:
    counted: list[int] = []

    class Count(L.Callback):
        def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            counted.append(optimizer_steps(trainer))

        def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            counted.append(trainer.global_step)

    options = {"max_epochs": -1} | limits | more
    trainer(tmp_path, Count(), **options).fit(TrainableToy(toy_models[0]), datamodule=TrainableData([5]))
    assert counted[0] == counted[1]


def similarity_to(models: Models, expert: str, weights: Path) -> float:
    module = ToyModule(models[0])
    space = open_space(module, {"this": weights, "other": models[1][expert]})
    this, other = (
        {name: torch.linalg.svdvals(space.task_vector(k, name)) for name in space.matrices()} for k in (0, 1)
    )
    return similarity(this, other)


def test_an_expert_is_kept_similar(toy_models: Models, tmp_path: Path) -> None:
    found = {}
    for weight in (0.0, 10.0):
        callback = SimilarityRegulariser([toy_models[1]["task1"]], weight=weight, every_n_steps=2, start_step=4)
        out = tmp_path / str(weight)
        fit(TrainableToy(toy_models[0]), TrainableData([50]), trainer(tmp_path, callback), out=out, record={})
        found[weight] = similarity_to(toy_models, "task1", out)
    assert 1 - found[10.0] < 0.5 * (1 - found[0.0])


def test_the_gradient_is_that_of_the_similarity(toy_models: Models, tmp_path: Path) -> None:
    other = toy_models[1]["task1"]
    callback = SimilarityRegulariser([other], weight=2.0, every_n_steps=3, start_step=3)
    steps: dict[int, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}

    class Before(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, _: object) -> None:
            live = module.evolved_parameters()
            gradients = {n: p.grad.clone() for n, p in live.items()}
            steps[trainer.global_step] = ({n: p.detach().clone() for n, p in live.items()}, gradients)

    class After(L.Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, _: object) -> None:
            gradients = {n: p.grad.clone() for n, p in module.evolved_parameters().items()}
            added[trainer.global_step] = {n: g - steps[trainer.global_step][1][n] for n, g in gradients.items()}

    added: dict[int, dict[str, Tensor]] = {}
    module = TrainableToy(toy_models[0])
    run = trainer(tmp_path, Before(), callback, After(), max_epochs=2)
    run.fit(module, datamodule=TrainableData([50]))
    assert [step for step, by_name in added.items() if any(g.any() for g in by_name.values())] == [3, 6]
    base, target = module.read_weights(module.base), module.read_weights(other)
    names = [name for name, weights in base.items() if weights.ndim == 2]
    for name in names:
        weights = steps[3][0][name].double()

        def cosine(w: Tensor, name: str = name) -> Tensor:
            sigma = torch.linalg.svdvals(w - base[name].double())
            return torch.nn.functional.cosine_similarity(
                sigma, torch.linalg.svdvals(target[name].double() - base[name].double()), dim=0
            )

        direction = torch.randn(weights.shape, generator=torch.Generator().manual_seed(0)).double()
        slope = (cosine(weights + 1e-6 * direction) - cosine(weights - 1e-6 * direction)) / 2e-6
        expected = -2.0 * 3 / len(names) * slope
        torch.testing.assert_close((added[3][name].double() * direction).sum(), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"experts": []}, "experts is empty"), ({"every_n_steps": 0}, "every_n_steps"), ({"weight": -1.0}, "weight")],
)
def test_bad_settings_of_the_regulariser_are_refused(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        SimilarityRegulariser(**{"experts": [tmp_path], **arguments})


def test_a_missing_expert_is_named_before_training(toy_models: Models, tmp_path: Path) -> None:
    callback = SimilarityRegulariser([tmp_path / "nowhere"])
    with pytest.raises(SetupError, match="nowhere"):
        fit(TrainableToy(toy_models[0]), TrainableData([50]), trainer(tmp_path, callback), out=tmp_path, record={})

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from PIL import Image
from segment_anything.modeling import Sam
from torch import Tensor
from torch.multiprocessing import ProcessRaisedException
from torch.nn import functional as F

from cyqd.sam import Folder, LoRA, Prompt, SAMData, SAMModule, Segmentation, weights
from cyqd.sam.architecture import build
from cyqd.sam.losses import structure_loss
from cyqd.sam.transforms import resize
from cyqd.training.host import EvaluationData, EvolutionHost
from tests.sam.conftest import make_sam

ROOT = Path(__file__).parents[2]
SIZES = [(64, 64), (48, 64), (90, 70), (31, 64)]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight bright discs on noise, of several sizes."""
    root = tmp_path_factory.mktemp("discs")
    generator = np.random.default_rng(0)
    for part in ("images", "masks"):
        (root / part).mkdir()
    for number in range(8):
        height, width = SIZES[number % len(SIZES)]
        y, x = np.mgrid[:height, :width]
        cy, cx = generator.uniform(0.3, 0.7, 2) * (height, width)
        mask = (y - cy) ** 2 + (x - cx) ** 2 < (0.25 * min(height, width)) ** 2
        pixels = generator.integers(0, 90, (height, width, 3)) + 120 * mask[..., None]
        Image.fromarray(pixels.astype(np.uint8)).save(root / "images" / f"{number}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(root / "masks" / f"{number}.png")
    shutil.copytree(root, root / "copy")  # one image must not be in both halves
    return root


def data(folder: Path, **options: Any) -> SAMData:
    """Fine-tune on all eight images; score on all of them in validation, and in the test."""
    task = Segmentation(
        Folder(folder),
        name="discs",
        test=Folder(folder / "copy"),
        measures=["dice", "s_measure", "e_measure", "mae"],
    )
    options = {"batch_size": 4, "eval_batch_size": 3, "image_size": 64, "augment": False, **options}
    return SAMData([task], train=[Folder(folder)], seed=0, **options)


class Losses(L.Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, out: Any, *_: Any) -> None:
        self.losses.append(float(out["loss"]))


class Stop(L.Callback):
    """Ends a fit after some steps, as a killed process would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise InterruptedError


def trainer(**options: Any) -> L.Trainer:
    options = {"enable_checkpointing": False, "num_sanity_val_steps": 0, **options}
    return L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, **options
    )


def fit(
    module: SAMModule,
    folder: Path,
    *,
    steps: int,
    resume: Path | None = None,
    callbacks: Any = (),
    prompt: Prompt = Prompt(),  # noqa: B008
    augment: bool = False,
    **options: Any,
) -> list[float]:
    seen = Losses()
    options = {"limit_val_batches": 0, **options}
    host = trainer(max_steps=steps, callbacks=[seen, *callbacks], **options)
    host.fit(module, data(folder, prompt=prompt, augment=augment), ckpt_path=resume)
    return seen.losses


def scores(module: SAMModule, folder: Path, *, split: str = "validate", **options: Any) -> dict[str, float]:
    (found,) = getattr(trainer(), split)(module, datamodule=data(folder, **options), verbose=False)
    return dict(found)


def sam(base: Path, **options: Any) -> SAMModule:
    return SAMModule(base, **{"lr": 2e-3, **options})


def batch(folder: Path, **options: Any) -> dict[str, Any]:
    """The eight images as one evaluation batch."""
    source = data(folder, eval_batch_size=8, **options)
    source.setup("validate")
    return next(iter(source.val_dataloader()[0]))


def forward(model: Sam, folder: Path) -> dict[str, np.ndarray]:
    """The masks that Sam's own forward makes, image by image and without prompts, at original size."""
    masks = {}
    for path in (folder / "images").iterdir():
        image = np.asarray(Image.open(path))
        pixels = torch.from_numpy(resize(image, 64)).permute(2, 0, 1)
        record = {"image": pixels, "original_size": image.shape[:2]}
        masks[path.stem] = model([record], multimask_output=False)[0]["masks"][0, 0].numpy()
    return masks


def test_a_tiny_model_learns_eight_images_and_its_expert_is_a_plain_model(
    tiny: Path, folder: Path, tmp_path: Path
) -> None:
    module = sam(tiny)
    before = scores(module, folder)
    losses = fit(module, folder, steps=40)
    after = scores(module, folder)
    exact = module.metrics[0].score().mean  # what is logged is rounded to float32
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert after["val/discs"] > max(0.75, before["val/discs"] + 0.3)
    module.save_model(tmp_path / "expert", "# A card")
    assert (tmp_path / "expert" / "README.md").read_text() == "# A card"
    assert not list((tmp_path / "expert").glob(".saving*"))
    plain = build("tiny")
    plain.load_state_dict(torch.load(tmp_path / "expert" / "model.pth", weights_only=True), strict=True)
    masks = forward(plain, folder)
    ious, areas = [], np.zeros(2)
    for name, mask in masks.items():
        truth = np.asarray(Image.open(folder / "masks" / f"{name}.png")) > 127
        both, either = (mask & truth).sum(), (mask | truth).sum()
        ious.append(both / either)
        areas += both, either
    assert exact == pytest.approx(np.mean(ious), abs=1e-11)
    assert after["val/discs"] == pytest.approx(exact, abs=1e-7)
    measures = module.measures()["discs"]
    assert measures["dataset_iou"] == pytest.approx(areas[0] / areas[1], abs=1e-11)
    assert measures["dice"] == pytest.approx(np.mean([2 * iou / (1 + iou) for iou in ious]), abs=1e-11)
    module.check_compatible(tiny, tmp_path / "expert")
    stored = module.read_weights(tmp_path / "expert")
    assert all(torch.equal(stored[name], p) for name, p in module.evolved_parameters().items())


def test_costly_measures_are_those_of_the_test_half(tiny: Path, folder: Path) -> None:
    module = sam(tiny)
    assert scores(module, folder).keys() == {"val/discs", "val/discs/dice", "val/discs/dataset_iou"}
    tested = scores(module, folder, split="test")
    named = {"dice", "dataset_iou", "s_measure", "e_measure", "mae"}
    assert tested.keys() == {"test/discs", *(f"test/discs/{name}" for name in named)}
    assert module.outcomes.keys() == {f"discs/{number}" for number in range(8)}


@pytest.mark.parametrize("loss", ["structure", "dice_focal"])
def test_the_loss_is_taken_at_the_size_of_the_input_without_its_padding(
    tiny: Path, folder: Path, loss: Any
) -> None:
    module = sam(tiny, loss=loss)
    module.log = lambda *_, **__: None  # type: ignore[method-assign] # there is no Trainer to log to
    examples = {k: v for k, v in batch(folder).items() if k in ("image", "size")}
    mask = torch.rand(8, 1, 64, 64, generator=torch.Generator().manual_seed(0)) < 0.3
    values = []
    for image, (height, width), truth in zip(examples["image"], examples["size"].tolist(), mask, strict=True):
        pixels = module.sam.preprocess(image[:, :height, :width])
        sparse, dense = module.sam.prompt_encoder(points=None, boxes=None, masks=None)
        logits, _ = module.sam.mask_decoder(
            image_embeddings=module.sam.image_encoder(pixels[None]),
            image_pe=module.sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        full = F.interpolate(logits, (64, 64), mode="bilinear", align_corners=False)
        inside = torch.zeros(1, 1, 64, 64)
        inside[..., :height, :width] = 1
        truth[..., height:, :], truth[..., width:] = False, False
        values.append(module.loss(full, truth[None], inside))
    found = module.training_step({**examples, "mask": mask.to(torch.uint8)}, 0)
    torch.testing.assert_close(found, torch.stack(values).mean(), rtol=1e-4, atol=1e-5)
    assert (module.loss is structure_loss) == (loss == "structure")


@pytest.mark.parametrize("kind", ["none", "box", "points"])
def test_gradient_checkpointing_gives_the_same_losses(tiny: Path, folder: Path, kind: Any) -> None:
    prompt = Prompt(kind)
    plain = fit(sam(tiny), folder, steps=2, prompt=prompt)
    assert fit(sam(tiny, gradient_checkpointing=True), folder, steps=2, prompt=prompt) == pytest.approx(plain)


def test_resume_equals_an_uninterrupted_fit(tiny: Path, folder: Path, tmp_path: Path) -> None:
    whole = sam(tiny)
    keep = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    seen = fit(whole, folder, steps=6, max_epochs=3, callbacks=[keep], enable_checkpointing=True, augment=True)
    for step in (2, 3):  # at the end of and within an epoch of two steps
        resumed = sam(tiny)
        rest = fit(resumed, folder, steps=6, max_epochs=3, resume=tmp_path / f"step={step}.ckpt", augment=True)
        assert rest == seen[step:]
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_the_best_checkpoint_is_found_by_the_task_s_score(tiny: Path, folder: Path, tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path, monitor="val/discs", mode="max")
    fit(sam(tiny), folder, steps=4, callbacks=[best], enable_checkpointing=True, limit_val_batches=None)
    assert best.best_model_score is not None
    assert Path(best.best_model_path).exists()


def test_the_shipped_fits_can_be_continued(tiny: Path, folder: Path, tmp_path: Path) -> None:
    files = sorted((ROOT / "configs" / "sam").glob("fit_*.yaml"))
    configs = {file.stem: yaml.safe_load(file.read_text()) for file in files}
    mixed = configs.pop("fit_all")["trainer"]["callbacks"]
    experts = configs.values()
    sections = {json.dumps(c["trainer"]["callbacks"]).replace(Path(c["out"]).name, "discs") for c in experts}
    (callbacks,) = map(json.loads, sections)  # they differ in the task's name alone
    assert mixed == callbacks[1:]  # no one score tells its best epoch

    def run(out: Path, *more: L.Callback, resume: Any = None) -> tuple[SAMModule, ModelCheckpoint]:
        shipped = [dict(callback["init_args"]) for callback in callbacks]
        best, last = (ModelCheckpoint(out, **one) for one in shipped)
        module = sam(tiny, lr=0.02)  # so much that the score falls and rises
        options = {"max_epochs": 4, "enable_checkpointing": True, "limit_val_batches": None}
        fit(module, folder, steps=-1, callbacks=[best, last, *more], resume=resume, augment=True, **options)
        return module, best

    whole, expected = run(tmp_path / "whole")
    with pytest.raises(InterruptedError):
        run(tmp_path / "cut", Stop(5))
    resumed, best = run(tmp_path / "cut", resume="last")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert best.best_model_score == expected.best_model_score
    assert Path(best.best_model_path).name == Path(expected.best_model_path).name
    assert len(list((tmp_path / "cut").iterdir())) == 2


def test_frozen_parts_stay_as_they_are(tiny: Path, folder: Path) -> None:
    module = sam(tiny, frozen=["prompt_encoder", "image_encoder.blocks.1", "image_encoder.patch_embed"])
    before = {name: p.detach().clone() for name, p in module.evolved_parameters().items()}
    fit(module, folder, steps=2)
    same = {name for name, p in module.evolved_parameters().items() if torch.equal(p, before[name])}
    parts = ("prompt_encoder.", "image_encoder.blocks.1.", "image_encoder.patch_embed.")
    unused = ("mask_decoder.iou_prediction_head.", *(f"mask_decoder.output_hypernetworks_mlps.{k}." for k in "123"))
    assert same == {name for name in before if name.startswith((*parts, *unused))}


def test_what_cannot_be_frozen_is_refused(tiny: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"in 'image_encoder.block'; there are .*image_encoder\.blocks"):
        sam(tiny, frozen=["image_encoder.block"])
    with pytest.raises(ValueError, match="nothing is left to train"):
        fit(sam(tiny, frozen=["image_encoder", "prompt_encoder", "mask_decoder"]), folder, steps=1)


def test_lora_exports_a_plain_model_and_the_adapter(tiny: Path, folder: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    frozen = ["prompt_encoder", "mask_decoder"]
    module = sam(tiny, lora=LoRA(rank=4, alpha=8.0), frozen=frozen, gradient_checkpointing=True)
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    assert len(trained) == 4 * 2 * 2
    assert all(".attn." in name and ".lora_" in name for name in trained)
    losses = fit(module, folder, steps=12)
    assert losses[-1] < losses[0]
    module.save_model(tmp_path / "expert", "card")
    examples = batch(folder)

    def masks(other: SAMModule) -> Tensor:
        return torch.cat([mask.flatten() for mask in other.predict(examples)])

    torch.testing.assert_close(masks(sam(tmp_path / "expert")), masks(module), atol=1e-5, rtol=1e-4)
    adapted = sam(tiny)
    assert (masks(adapted) - masks(module)).abs().max() > 1e-2
    peft.PeftModel.from_pretrained(adapted.sam, tmp_path / "expert" / "adapter")
    torch.testing.assert_close(masks(adapted), masks(module), atol=1e-5, rtol=1e-4)
    sam(tiny).check_compatible(tiny, tmp_path / "expert")


def test_adapters_in_frozen_parts_do_not_train(tiny: Path) -> None:
    frozen = ["image_encoder.blocks.0", "image_encoder.blocks.1.attn.qkv.weight"]
    trained = {n for n, p in sam(tiny, lora=LoRA(), frozen=frozen).sam.named_parameters() if p.requires_grad}
    assert not any(name.startswith("image_encoder.blocks.0.") for name in trained)
    assert sum(name.startswith("image_encoder.blocks.") for name in trained) == 3 * 2 * 2


def test_with_lora_the_decoder_trains_too(tiny: Path) -> None:
    trained = {n for n, p in sam(tiny, lora=LoRA()).sam.named_parameters() if p.requires_grad}
    assert "mask_decoder.mask_tokens.weight" in trained
    assert all(".lora_" in name for name in trained if name.startswith("image_encoder."))


def test_bfloat16_masks_do_not_depend_on_autocast(tiny: Path, folder: Path, tmp_path: Path) -> None:
    module = sam(tiny, dtype="bfloat16")
    assert {p.dtype for p in module.evolved_parameters().values()} == {torch.bfloat16}
    examples = batch(folder, prompt=Prompt("box"))
    alone = module.predict(examples)
    with torch.autocast("cpu", torch.bfloat16):
        within = module.predict(examples)
    assert all(torch.equal(a, b) for a, b in zip(alone, within, strict=True))
    full = sam(tiny).predict(examples)
    assert all((a - b).abs().max() < 0.1 for a, b in zip(alone, full, strict=True))
    module.save_model(tmp_path, "card")
    assert {tensor.dtype for tensor in weights.read(tmp_path).values()} == {torch.float32}


def two_processes(base: Path, folder: Path, out: Path) -> None:
    """Score with two processes, of which one has more batches; then fit, where DDP asks for every gradient."""
    module, two = sam(base), {"devices": 2, "strategy": "ddp_fork"}
    (found,) = trainer(**two).test(module, datamodule=data(folder), verbose=False)
    fit(module, folder, steps=4, limit_val_batches=None, check_val_every_n_epoch=1, **two)
    whole = sam(base, frozen=[])  # as the docstring of `frozen` says
    fit(whole, folder, steps=1, devices=2, strategy="ddp_fork_find_unused_parameters_true")
    few = data(folder, eval_batch_size=8)
    for begin in (trainer(max_steps=1, **two).fit, trainer(**two).validate, trainer(**two).test):
        with pytest.raises(ProcessRaisedException, match=r"eval_batch_size 8 makes 1 .* discs's 8 .* set it to 4"):
            begin(module, datamodule=few)
    with pytest.raises(ValueError, match=r"trainer\.strategy ModelParallelStrategy is not supported.*`ddp`"):
        fit(module, folder, steps=1, strategy=ModelParallelStrategy())
    out.write_text(json.dumps(found))


def test_two_processes_give_the_scores_of_one(tiny: Path, folder: Path, tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from tests.sam.test_module import two_processes
two_processes(Path({str(tiny)!r}), Path({str(folder)!r}), Path({str(tmp_path / "out.json")!r}))
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "out.json").read_text()) == scores(sam(tiny), folder, split="test")


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_a_precision_that_changes_the_weights_is_refused(tiny: Path, folder: Path, precision: Any) -> None:
    with pytest.raises(ValueError, match=rf"precision {precision} .* take bf16-mixed .* model\.dtype: bfloat16"):
        fit(sam(tiny), folder, steps=1, precision=precision)
    host = EvolutionHost(sam(tiny))
    with pytest.raises(ValueError, match=rf"precision {precision}"):
        trainer(precision=precision).validate(host, datamodule=EvaluationData(data(folder), "optimisation"))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"dtype": "float16"}, r"model\.dtype: expected one of auto, float32, bfloat16, got 'float16'"),
        ({"loss": "dice"}, r"model\.loss: expected one of structure, dice_focal, got 'dice'"),
        ({"warmup_ratio": 100}, r"model\.warmup_ratio must lie in \[0, 1\], got 100"),
        ({"min_lr_ratio": -0.1}, r"model\.min_lr_ratio must lie in \[0, 1\], got -0\.1"),
        ({"lr": 0.0}, r"model\.lr must be above 0, got 0\.0"),
    ],
)
def test_arguments_out_of_range_are_refused(tiny: Path, argument: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sam(tiny, **argument)


def test_images_of_another_size_than_the_model_s_are_refused(tiny: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.image_size is 128, but .* set data\.image_size to 64"):
        scores(sam(tiny), folder, image_size=128)


def test_models_that_do_not_belong_together_are_refused(tiny: Path, tmp_path: Path) -> None:
    module = sam(tiny)
    other = make_sam(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match=r"other: .*gaussian_matrix.* only fine-tuned versions"):
        module.check_compatible(tiny, other)
    state = dict(weights.read(tiny))
    state["image_encoder.pos_embed"] = torch.zeros(1, 4, 4, 64)
    torch.save(state, tmp_path / "small.pth")
    with pytest.raises(ValueError, match=r"small\.pth .*pos_embed is \[1, 4, 4, 64\]"):
        module.check_compatible(tiny, tmp_path / "small.pth")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        sam(tmp_path / "nowhere")

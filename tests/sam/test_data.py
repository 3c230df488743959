"""Batches: their form, their determinism, what is decoded when, and what is said of bad files."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.distributed as dist
from jsonargparse import ArgumentParser
from PIL import Image
from segment_anything.utils.transforms import ResizeLongestSide
from torch import nn

from cyqd.sam.data import SAMData
from cyqd.sam.layouts import Folder
from cyqd.sam.masks import read_image, read_mask
from cyqd.sam.prompts import Prompt
from cyqd.sam.task import Segmentation
from cyqd.sam.transforms import resize_mask
from tests.sam.test_masks import DATA, DOMAINS, bad_files, needs_data

BOX, POINTS = Prompt("box"), Prompt("points", points=3)


def write_pairs(root: Path, number: int, *, seed: int = 0) -> Path:
    """Write images of several shapes with a bright rectangle, which is their mask."""
    generator = np.random.default_rng(seed)
    for part in "images", "masks":
        (root / part).mkdir(parents=True)
    for index in range(number):
        height, width = [(40, 60), (60, 40), (90, 90), (130, 70)][index % 4]
        mask = np.zeros((height, width), np.uint8)
        top, left = generator.integers(2, 15, 2)
        mask[top : top + 20, left : left + 15] = 255
        image = generator.integers(0, 100, (height, width, 3)) + mask[..., None] // 2
        Image.fromarray(image.astype(np.uint8)).save(root / f"images/i{index:02}.png")
        Image.fromarray(mask).save(root / f"masks/i{index:02}.png")
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "leaf", 12)


class Recorder(L.LightningModule):
    """Keeps a hash of every training batch, and saves checkpoints behind some of them."""

    def __init__(self, checkpoints: dict[int, Path]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.checkpoints = checkpoints
        self.seen: list[str] = []

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        content = b"".join(batch[key].numpy().tobytes() for key in sorted(batch))
        self.seen.append(hashlib.sha256(content).hexdigest())
        return self.weight.sum()

    def on_train_batch_end(self, *_: Any) -> None:
        if self.trainer.global_step in self.checkpoints:
            self.trainer.save_checkpoint(self.checkpoints[self.trainer.global_step])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer() -> L.Trainer:
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    return L.Trainer(max_epochs=2, accelerator="cpu", **quiet)


def fit(data: SAMData, *, ckpt: Path | None = None, checkpoints: dict[int, Path] | None = None) -> list[str]:
    module = Recorder(checkpoints or {})
    trainer().fit(module, datamodule=data, ckpt_path=ckpt)
    return module.seen


def training_data(root: Path, **arguments: Any) -> SAMData:
    defaults: dict[str, Any] = {"image_size": 64, "batch_size": 3, "seed": 1, "prompt": BOX}
    return SAMData(train=[Folder(root)], **{**defaults, **arguments})


def attached(data: SAMData, stage: str = "fit") -> SAMData:
    data.trainer = trainer()
    data.setup(stage)
    return data


@pytest.mark.parametrize(("prompt", "keys"), [(Prompt(), set()), (BOX, {"boxes"}), (POINTS, {"points", "labels"})])
def test_training_batches(root: Path, prompt: Prompt, keys: set[str]) -> None:
    loader = attached(training_data(root, prompt=prompt)).train_dataloader()
    assert len(loader) == 4
    for batch in loader:
        assert batch.keys() == {"image", "size", "mask"} | keys
        assert (batch["image"].shape, batch["image"].dtype) == ((3, 3, 64, 64), torch.uint8)
        assert (batch["mask"].shape, batch["mask"].dtype) == ((3, 1, 64, 64), torch.uint8)
        assert (batch["size"].shape, batch["size"].dtype) == ((3, 2), torch.long)
        assert batch["size"].amax(dim=1).tolist() == [64] * 3
        assert batch["mask"].max() == 1
        for image, mask, (height, width) in zip(batch["image"], batch["mask"], batch["size"].tolist(), strict=True):
            for values in image, mask:
                assert not values[:, height:].any()
                assert not values[:, :, width:].any()
        if prompt.kind == "box":
            assert (batch["boxes"].shape, batch["boxes"].dtype) == ((3, 1, 4), torch.float32)
        if prompt.kind == "points":
            assert (batch["points"].shape, batch["labels"].shape) == ((3, 3, 2), (3, 3))


def test_prompts_fit_the_augmented_mask(root: Path) -> None:
    data = attached(training_data(root, prompt=Prompt("box", box_jitter=0)))
    for batch in data.train_dataloader():
        for mask, box in zip(batch["mask"][:, 0], batch["boxes"][:, 0], strict=True):
            y, x = mask.nonzero().T
            assert box.tolist() == [x.min(), y.min(), x.max(), y.max()]


def test_an_augmentation_that_changes_the_size_still_fills_the_frame(root: Path) -> None:
    crop = training_data(root, augment=_transforms(["albumentations.CenterCrop", {"height": 30, "width": 20}]))
    batch = next(iter(attached(crop).train_dataloader()))
    assert [sorted(size) for size in batch["size"].tolist()] == [[43, 64]] * 3


def _transforms(*transforms: list[Any]) -> list[Any]:
    parser = ArgumentParser()
    parser.add_subclass_arguments(SAMData, "data")
    written = [{"class_path": name, "init_args": arguments} for name, arguments in transforms]
    arguments = {"class_path": "cyqd.sam.data.SAMData", "init_args": {"augment": written}}
    return parser.instantiate(parser.parse_object({"data": arguments})).data.transforms  # type: ignore[no-any-return]


def test_transforms_come_from_yaml_by_class_path() -> None:
    flip, jitter = _transforms(
        ["albumentations.HorizontalFlip", {"p": 0.25}], ["albumentations.ColorJitter", {"brightness": [0.9, 1.1]}]
    )
    assert flip.p == 0.25
    assert tuple(jitter.brightness) == (0.9, 1.1)
    assert SAMData(augment=False).transforms == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_fit_sees_the_batches_of_an_uninterrupted_one(root: Path, workers: int, tmp_path: Path) -> None:
    checkpoints = {step: tmp_path / f"{step}.ckpt" for step in (2, 3, 6)}
    whole = fit(training_data(root), checkpoints=checkpoints)
    assert len(set(whole)) == 8  # two epochs, augmented differently
    for step, path in checkpoints.items():
        assert fit(training_data(root, num_workers=workers), ckpt=path) == whole[step:]


def test_another_seed_gives_other_batches(root: Path) -> None:
    assert not set(fit(training_data(root))) & set(fit(training_data(root, seed=2)))


def tasks(root: Path, *names: str) -> list[Segmentation]:
    return [Segmentation(Folder(root), name=name) for name in names or ("leaf",)]


@pytest.mark.parametrize("prompt", [Prompt(), BOX, POINTS])
def test_evaluation_batches(root: Path, prompt: Prompt) -> None:
    data = attached(SAMData(tasks(root), image_size=64, eval_batch_size=4, prompt=prompt), "validate")
    (loader,) = data.val_dataloader()
    batches = list(loader)
    assert [len(batch["id"]) for batch in batches] == [4, 2]
    for batch in batches:
        assert batch["task"] is data.tasks[0]
        assert batch["measures"] == ("dice", "intersection", "union")
        for i, name in enumerate(batch["id"]):
            image, mask = read_image(root / f"images/{name}.png"), read_mask(root / f"masks/{name}.png")
            resized = ResizeLongestSide(64).apply_image(image)
            height, width = resized.shape[:2]
            assert batch["size"][i].tolist() == [height, width]
            np.testing.assert_array_equal(batch["image"][i, :, :height, :width].permute(1, 2, 0), resized)
            assert int(batch["image"][i].long().sum()) == int(resized.astype(int).sum())
            assert batch["truth"][i].dtype == torch.bool
            np.testing.assert_array_equal(batch["truth"][i], mask)
            if prompt.kind == "box":
                y, x = mask.nonzero()
                box = np.array([[x.min(), y.min(), x.max(), y.max()]])
                expected = ResizeLongestSide(64).apply_boxes(box, mask.shape)
                np.testing.assert_allclose(batch["boxes"][i], expected, rtol=1e-6)
            if prompt.kind == "points":
                for x, y in batch["points"][i].tolist():
                    assert mask[round(y * mask.shape[0] / height), round(x * mask.shape[1] / width)]


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    tensors = all(torch.equal(one[k], two[k]) for k in one if isinstance(one[k], torch.Tensor))
    return tensors and one["id"] == two["id"] and all(map(torch.equal, one["truth"], two["truth"]))


def test_images_are_decoded_once_within_the_budget(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "p", 12)
    arguments: dict[str, Any] = {"image_size": 64, "eval_batch_size": 4, "prompt": POINTS}
    kept, read = (attached(SAMData(tasks(root), cache_gb=gb, **arguments), "validate") for gb in (1, 0))
    first = list(kept.val_dataloader()[0])
    assert all(map(same, first, read.val_dataloader()[0]))
    assert len(kept.cache.kept) == 6
    assert not read.cache.kept
    for path in (root / "images").iterdir():
        path.unlink()
    assert all(map(same, first, kept.val_dataloader()[0]))
    with pytest.raises(ValueError, match="no such file"):
        list(read.val_dataloader()[0])


def test_the_budget_is_kept(root: Path) -> None:
    data = attached(SAMData(tasks(root), image_size=64, cache_gb=30e3 / 1e9), "validate")
    list(data.val_dataloader()[0])
    assert 1 <= len(data.cache.kept) < 6
    assert sum(sample.nbytes for sample in data.cache.kept.values()) <= 30e3


def test_each_process_decodes_its_own_batches_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        data = attached(SAMData(tasks(root), image_size=64, eval_batch_size=2), "validate")
        names = {name for batch in data.val_dataloader()[0] for name in batch["id"]}
        assert {pair.id for pair in data.cache.kept} == names
        seen.append(names)
    assert not seen[0] & seen[1]
    assert seen[0] | seen[1] == {pair.id for pair in data.tasks[0].problems("optimisation")}


def test_a_batch_survives_lightnings_transfer(root: Path) -> None:
    data = attached(SAMData(tasks(root), image_size=64), "test")
    batch = next(iter(data.test_dataloader()[0]))
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved["task"] is batch["task"]
    assert moved["id"] == batch["id"]
    assert moved["image"].is_meta
    assert all(truth.is_meta for truth in moved["truth"])


def test_loaders_follow_the_tasks(root: Path) -> None:
    data = attached(SAMData(tasks(root, "one", "two"), image_size=64), "validate")
    assert [loader.task.name for loader in data.val_dataloader()] == ["one", "two"]
    data.tasks = data.tasks[1:]
    assert [loader.task.name for loader in data.test_dataloader()] == ["two"]
    assert list(data.splits()) == ["two"]


def test_splits_tell_when_a_file_changes(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "p", 8)
    first = SAMData(tasks(root)).splits()["leaf"]
    assert sorted(first["optimisation"] + first["test"]) == [f"i{i:02}" for i in range(8)]
    assert SAMData(tasks(root)).splits()["leaf"] == first
    Image.fromarray(np.full((40, 60), 255, np.uint8)).save(root / "masks/i00.png")
    assert SAMData(tasks(root)).splits()["leaf"]["sha256"] != first["sha256"]


def test_bad_files_of_all_layouts_are_named_at_once(root: Path, tmp_path: Path) -> None:
    for name in "one", "two":
        bad_files(tmp_path / name)
    data = SAMData(tasks(tmp_path / "two"), train=[Folder(root), Folder(tmp_path / "one")])
    with pytest.raises(ValueError, match=r"14 pairs of image and mask are bad.*skip_bad: true") as error:
        attached(data)
    for name in "one", "two":
        assert f"{name}/masks/empty.png: the mask is empty" in str(error.value)


def test_bad_files_are_skipped_with_a_count_and_their_names(tmp_path: Path) -> None:
    bad_files(tmp_path / "bad")
    write_pairs(tmp_path / "good", 4)
    task = Segmentation(Folder(tmp_path / "good"), test=Folder(tmp_path / "bad"), skip_bad=True)
    data = SAMData([task], train=[Folder(tmp_path / "bad")], skip_bad=True, image_size=32)
    with (
        pytest.warns(UserWarning, match="1 of 1 training images are scored on, too"),
        pytest.warns(UserWarning, match="7 bad pairs of image and mask are left out") as warnings,
    ):
        attached(data)
    assert "cut_mask.png: cannot be read" in str(warnings[0].message)
    assert [pair.id for pair in data.examples] == ["good"]
    data.setup("validate")
    assert len(data.examples) == 1
    assert [pair.id for pair in task.problems("test")] == ["good"]


def test_training_images_that_are_scored_on_are_counted(tmp_path: Path) -> None:
    write_pairs(tmp_path / "one", 3)
    write_pairs(tmp_path / "two", 4)
    with pytest.warns(UserWarning, match="3 of 7 training images are scored on, too"):
        attached(SAMData(tasks(tmp_path / "one"), train=[Folder(tmp_path / "one"), Folder(tmp_path / "two")]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attached(SAMData(tasks(tmp_path / "one"), train=[Folder(tmp_path / "two")]))


def test_a_pair_too_thin_for_the_models_input_is_bad(tmp_path: Path) -> None:
    write_pairs(tmp_path, 4)
    for part in "images", "masks":
        Image.new("L", (200, 1), 255).save(tmp_path / part / "thin.png")
    assert len(SAMData(tasks(tmp_path), image_size=128).splits()["leaf"]["test"]) == 2
    with pytest.raises(ValueError, match=r"thin\.png: 200×1 pixels, too thin to be resized to 64"):
        SAMData(tasks(tmp_path), image_size=64).splits()
    skipping = SAMData([Segmentation(Folder(tmp_path), name="leaf", skip_bad=True)], image_size=64)
    with pytest.warns(UserWarning, match="1 bad pairs"):
        splits = skipping.splits()["leaf"]
    assert "thin" not in splits["optimisation"] + splits["test"]


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.train is empty"):
        SAMData().setup("fit")
    with pytest.raises(ValueError, match="two tasks have one name"):
        SAMData(tasks(tmp_path, "leaf", "leaf"))
    with pytest.raises(ValueError, match=r"data\.batch_size must be at least 1"):
        SAMData(batch_size=0)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        attached(SAMData(tasks(tmp_path)), "validate")


@needs_data
@pytest.mark.data
def test_real_images_of_all_domains_at_once() -> None:
    """Up to 4000×3000 pixels, scored at original size."""
    real = [Segmentation(Folder(DATA / domain), name=domain, limit=6, test_limit=1) for domain in DOMAINS]
    large = max(Folder(DATA / "leaf").pairs(), key=lambda pair: np.prod(Image.open(pair.image).size))
    data = attached(SAMData(real, image_size=128, prompt=BOX, eval_batch_size=4), "validate")
    for loader in data.val_dataloader():
        for batch in loader:
            for name, truth, size in zip(batch["id"], batch["truth"], batch["size"].tolist(), strict=True):
                assert truth.any(), name
                assert max(size) == 128
                assert truth.shape[0] / truth.shape[1] == pytest.approx(size[0] / size[1], rel=0.02)
    sample = data.cache.get(large)
    assert sample.shape == (3000, 4000)
    assert sample.image.shape == (96, 128, 3)
    mask = read_mask(large.mask)
    assert resize_mask(mask, 128).mean() == pytest.approx(mask.mean(), abs=0.01)

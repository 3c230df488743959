"""Training batches of augmented images, and the data module."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from cyqd.sam.evaluation import EvaluationLoader, SampleCache
from cyqd.sam.layouts import Layout, Pair
from cyqd.sam.masks import check, complaint, read_image, read_mask
from cyqd.sam.prompts import Prompt
from cyqd.sam.task import Segmentation
from cyqd.sam.transforms import Augmentation, Transform, default_augmentation, pad, resize, resize_mask
from cyqd.training.loading import ResumableLoader, ResumableSampler
from cyqd.training.splits import SPLITS, Split


class EpochSampler(ResumableSampler):
    """Yields (epoch, index), so that an example can depend on both whichever process makes it."""

    def __iter__(self) -> Iterator[tuple[int, int]]:  # type: ignore[override]
        return ((self.epoch, index) for index in super().__iter__())


class TrainingSet(Dataset[dict[str, Tensor]]):
    """Augmented images with masks and prompts; an example is a function of seed, epoch and index.

    An image is resized to the model's input before it is augmented, which is faster, and once more where the
    augmentation changed its longest side. The prompt is made from the augmented mask, and so fits it.

    Args:
        pairs: what to learn.
        size: side of the model's input.
        prompt: how prompts are made.
        augmentation: what is done to the images.
        seed: of augmentation and prompts.
    """

    def __init__(
        self, pairs: Sequence[Pair], *, size: int, prompt: Prompt, augmentation: Augmentation, seed: int
    ) -> None:
        self.pairs, self.size, self.prompt, self.augmentation, self.seed = pairs, size, prompt, augmentation, seed

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        epoch, index = key
        pair = self.pairs[index]
        seeds = np.random.SeedSequence([self.seed, epoch, index])
        image, mask = resize(read_image(pair.image), self.size), resize_mask(read_mask(pair.mask), self.size)
        image, mask = self.augmentation(image, mask, int(seeds.generate_state(1)[0]))
        if max(mask.shape) != self.size:
            image, mask = resize(image, self.size), resize_mask(mask, self.size)
        return {
            "image": pad(image, self.size),
            "size": torch.tensor(mask.shape),
            "mask": pad(mask, self.size),
            **self.prompt.tensors(mask, np.random.default_rng(seeds), jitter=True),
        }


class SAMData(L.LightningDataModule):
    """Image-mask pairs to fine-tune on, and tasks to score on.

    Args:
        tasks: scored in validation and test, one loader each; may be empty for fine-tuning alone.
        train: pairs to fine-tune on; needed for fine-tuning alone.
        image_size: side of the model's input in pixels: 1024 for Meta's models.
        prompt: what the model is told beside the image, in training and in evaluation.
        augment: whether training images are augmented, or a list of albumentations' transforms to do it with.
        batch_size: images per step and process; the global batch is this × processes × the Trainer's
            ``accumulate_grad_batches``.
        eval_batch_size: images that are evaluated at once.
        skip_bad: leave bad training pairs out instead of stopping; a task has a ``skip_bad`` of its own.
        seed: of the training order, augmentation and prompts; the run's own if not given.
        num_workers: processes that make training batches. (Evaluation images are read by threads.)
        cache_gb: memory for evaluation images, which are decoded once and kept; a process keeps those it scores.
            An image of 1024 × 1024 pixels takes 3.3 MB. What exceeds it is decoded anew every time.

    Raises:
        ValueError: if a size is below 1, or two tasks have one name.

    Attributes:
        draws: whether scores depend on the run's seed; they do not, as points are drawn by the pair.
    """

    draws = False

    def __init__(
        self,
        tasks: list[Segmentation] | None = None,
        *,
        train: list[Layout] | None = None,
        image_size: int = 1024,
        prompt: Prompt = Prompt(),  # noqa: B008
        augment: bool | list[Transform] = True,
        batch_size: int = 4,
        eval_batch_size: int = 8,
        skip_bad: bool = False,
        seed: int | None = None,
        num_workers: int = 0,
        cache_gb: float = 8.0,
    ) -> None:
        super().__init__()
        for key, number in {
            "image_size": image_size,
            "batch_size": batch_size,
            "eval_batch_size": eval_batch_size,
        }.items():
            if number < 1:
                raise ValueError(f"data.{key} must be at least 1, got {number}")
        if cache_gb < 0:
            raise ValueError(f"data.cache_gb must be at least 0, got {cache_gb}")
        self.tasks = list(tasks or [])
        if len(names := [task.name for task in self.tasks]) != len(set(names)):
            raise ValueError(f"data.tasks: two tasks have one name, give each a `name` of its own: {names}")
        self.train = list(train or [])
        self.image_size = image_size
        for task in self.tasks:
            task.image_size = image_size
        self.prompt = prompt
        self.transforms = (default_augmentation() if augment else []) if isinstance(augment, bool) else augment
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.skip_bad = skip_bad
        self.seed = seed
        self.num_workers = num_workers
        self.cache = SampleCache(size=image_size, prompt=prompt, budget=cache_gb * 1e9)
        self.examples: list[Pair] = []

    def setup(self, stage: str) -> None:
        """Find all files that ``stage`` needs, and read each of them once.

        Raises:
            FileNotFoundError: if a folder is missing.
            ValueError: naming all bad files, or if there is nothing to fine-tune on.
        """
        if stage == "fit" and not self.train:
            raise ValueError("data.train is empty: give at least one layout to fine-tune on")
        train = [pair for layout in self.train for pair in layout.pairs()] if stage == "fit" else []
        bad = self._check(train)
        if stage == "fit":
            self.examples = [pair for pair in train if pair not in bad]
            if not self.examples:
                raise ValueError(f"data.train: all {len(train)} pairs are bad:{complaint(list(bad.values()))}")
            scored = {p.image.resolve() for task in self.tasks for split in SPLITS for p in task.problems(split)}
            if known := sum(pair.image.resolve() in scored for pair in self.examples):
                rank_zero_warn(f"{known} of {len(self.examples)} training images are scored on, too: no fair test")

    def _check(self, train: Sequence[Pair] = ()) -> dict[Pair, str]:
        """Check training pairs and all tasks' pairs; return the bad training pairs, which may be skipped."""
        sets = [(train, self.skip_bad), *(([*chain(*task.pairs)], task.skip_bad) for task in self.tasks)]
        quiet = self.trainer is not None and not self.trainer.is_global_zero
        with tqdm(
            total=sum(len(pairs) for pairs, _ in sets),
            desc="check",
            unit="pair",
            disable=quiet,
            leave=False,
            delay=2,
        ) as bar:
            found = [(check(pairs, bar.update, image_size=self.image_size), skip) for pairs, skip in sets]
        fatal = {problem: None for bad, skip in found if not skip for problem in bad.values()}
        if fatal:
            raise ValueError(
                f"{len(fatal)} pairs of image and mask are bad (mend them, or leave them out with skip_bad: true):"
                + complaint(list(fatal))
            )
        skipped = {problem: None for bad, _ in found for problem in bad.values()}
        if skipped:
            rank_zero_warn(f"{len(skipped)} bad pairs of image and mask are left out:{complaint(list(skipped))}")
        return found[0][0]

    def train_dataloader(self) -> ResumableLoader[dict[str, Tensor]]:
        """Return batches: ``image``, ``size``, the prompt's tensors, and ``mask`` uint8 [B, 1, S, S] of 0 and 1."""
        assert self.trainer is not None
        seed = torch.initial_seed() % 2**31 if self.seed is None else self.seed
        examples = TrainingSet(
            self.examples,
            size=self.image_size,
            prompt=self.prompt,
            augmentation=Augmentation(self.transforms),
            seed=seed,
        )
        sampler = EpochSampler(
            len(examples), seed=seed, rank=self.trainer.global_rank, processes=self.trainer.world_size
        )
        return ResumableLoader(
            examples,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> list[EvaluationLoader]:
        """Return one loader per task over its optimisation split."""
        return self._loaders("optimisation")

    def selection_dataloader(self) -> list[EvaluationLoader]:
        """Return one loader per task over what is kept back of its optimisation half."""
        return self._loaders("selection")

    def test_dataloader(self) -> list[EvaluationLoader]:
        """Return one loader per task over its test split."""
        return self._loaders("test")

    def _loaders(self, split: Split) -> list[EvaluationLoader]:
        loaders: list[EvaluationLoader] = []
        for task in self.tasks:
            dealt = sum(len(loader.batches.batches) for loader in loaders)
            options = {"batch_size": self.eval_batch_size, "offset": dealt}
            loaders.append(EvaluationLoader(task, split, cache=self.cache, **options))
        return loaders

    def test_batches(self, problems: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield pairs of the test splits, each as (name, batch of its own).

        Args:
            problems: their names, "task/id".
        """
        for loader in self._loaders("test"):
            for pair in loader.pairs:
                if (name := f"{loader.task.name}/{pair.id}") in problems:
                    yield name, loader.collate([pair], [self.cache.get(pair)])

    def splits(self) -> dict[str, dict[str, list[str]]]:
        """Return the ids of the pairs of all splits, by task, and a hash of their files."""
        self._check()
        found: dict[str, dict[str, list[str]]] = {}
        for task in self.tasks:
            digest = hashlib.sha256()
            for split in SPLITS:
                for pair in task.problems(split):
                    digest.update(pair.id.encode() + pair.image.read_bytes() + pair.mask.read_bytes())
            ids: dict[str, list[str]] = {split: [pair.id for pair in task.problems(split)] for split in SPLITS}
            found[task.name] = {**ids, "sha256": [digest.hexdigest()]}
        return found

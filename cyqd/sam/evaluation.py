"""Evaluation batches: images are decoded and resized once, and then kept in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from cyqd.sam.layouts import Pair
from cyqd.sam.masks import THREADS, read_image, read_mask
from cyqd.sam.prompts import Prompt
from cyqd.sam.task import Segmentation
from cyqd.sam.transforms import pad, resize
from cyqd.training import ShardedBatchSampler
from cyqd.training.splits import Split


class Sample(NamedTuple):
    """An evaluation image as it is kept: resized but not padded, and its mask in bits."""

    image: NDArray[np.uint8]  # [h, w, 3]
    truth: NDArray[np.uint8]  # packed bits of [H, W]
    shape: tuple[int, int]  # (H, W)
    prompt: dict[str, Tensor]

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.image.nbytes + self.truth.nbytes


class SampleCache:
    """Reads evaluation images and keeps what fits.

    Args:
        size: side of the model's input.
        prompt: how prompts are made; jitter does not apply, and points are drawn by the pair's id.
        budget: bytes to keep.
    """

    def __init__(self, *, size: int, prompt: Prompt, budget: float) -> None:
        self.size, self.prompt, self.budget = size, prompt, budget
        self.kept: dict[Pair, Sample] = {}
        self.lock = Lock()

    def get(self, pair: Pair) -> Sample:
        """Return a pair's sample; called by several threads at once, each for pairs of its own."""
        if pair in self.kept:
            return self.kept[pair]
        image, mask = resize(read_image(pair.image), self.size), read_mask(pair.mask)
        seed = int.from_bytes(hashlib.sha256(pair.id.encode()).digest()[:8], "big")
        scale = (image.shape[1] / mask.shape[1], image.shape[0] / mask.shape[0])
        prompt = self.prompt.tensors(mask, np.random.default_rng(seed), scale=scale)
        sample = Sample(image, np.packbits(mask), (mask.shape[0], mask.shape[1]), prompt)
        with self.lock:
            if self.budget >= sample.nbytes:
                self.budget -= sample.nbytes
                self.kept[pair] = sample
        return sample


class EvaluationLoader:
    """Iterates over this process's batches of one split of a task; the next one is decoded while one is scored.

    A batch holds ``image`` uint8 [B, 3, S, S], ``size`` int64 [B, 2] (height and width of the resized image in it),
    the prompt's tensors, and, as lists, ``id`` and ``truth`` (bool [H, W] at original size); ``task`` is the
    :class:`Segmentation`, and ``measures`` the names of its measures that are computed on this split.

    Args:
        task: whose pairs.
        split: which of them.
        cache: reads them.
        batch_size: images per batch.
        offset: the process that gets the first batch.
    """

    def __init__(
        self, task: Segmentation, split: Split, *, cache: SampleCache, batch_size: int, offset: int = 0
    ) -> None:
        self.task, self.split, self.cache = task, split, cache
        self.pairs = task.problems(split)
        self.batches = ShardedBatchSampler(len(self.pairs), batch_size=batch_size, offset=offset)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        batches = [[self.pairs[i] for i in batch] for batch in self.batches]
        with ThreadPoolExecutor(THREADS) as pool:
            ahead = [pool.submit(self.cache.get, pair) for pair in batches[0]] if batches else []
            for number, pairs in enumerate(batches):
                samples = [reading.result() for reading in ahead]
                ahead = [pool.submit(self.cache.get, pair) for after in batches[number + 1 :][:1] for pair in after]
                yield self.collate(pairs, samples)

    def collate(self, pairs: Sequence[Pair], samples: Sequence[Sample]) -> dict[str, Any]:
        """Return some pairs' batch; see the class."""
        tensors = [
            {
                "image": pad(sample.image, self.cache.size),
                "size": torch.tensor(sample.image.shape[:2]),
                **sample.prompt,
            }
            for sample in samples
        ]
        return {
            **default_collate(tensors),
            "id": [pair.id for pair in pairs],
            "truth": [_unpack(sample) for sample in samples],
            "task": self.task,
            "measures": self.task.measured(self.split),
        }


def _unpack(sample: Sample) -> Tensor:
    height, width = sample.shape
    bits = np.unpackbits(sample.truth, count=height * width)
    return torch.from_numpy(bits.reshape(height, width)).bool()

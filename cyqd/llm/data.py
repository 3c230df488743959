"""Training batches from chats, and evaluation batches from tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from cyqd.llm.chat import IGNORED, Conversation, Example, read_conversations, tokenise
from cyqd.llm.scripted import Check, check_task
from cyqd.llm.tasks.base import Task
from cyqd.llm.tasks.problems import Problem
from cyqd.training import ShardedBatchSampler
from cyqd.training.loading import ResumableLoader, ResumableSampler
from cyqd.training.splits import SPLITS, Split

CHUNK = 1000  # conversations tokenised at a time


class LengthGroupedSampler(ResumableSampler):
    """Shuffles examples such that those of similar length meet in a batch, on every process at once.

    The examples are shuffled, cut into pools of ``pool`` global batches, sorted by length within a pool, and the
    batches are shuffled again. All of it is a function of (seed, epoch); Lightning sets the epoch, and leaves a
    DistributedSampler as it is.

    Args:
        lengths: of the examples.
        batch_size: examples per batch and process.
        seed: of the order.
        rank: this process.
        processes: their number; the last few examples are repeated so that all get equally many.
        pool: batches that are sorted by length together; 1 only shuffles.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        processes: int = 1,
        pool: int = 50,
    ) -> None:
        super().__init__(len(lengths), seed=seed, rank=rank, processes=processes)
        self.lengths = lengths
        self.block = batch_size * processes
        self.pool = pool * self.block

    def order(self) -> Sequence[int]:
        """Return this process's examples of the epoch; see :class:`ResumableSampler`."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator).tolist()
        order = [order[i % len(order)] for i in range(self.total_size)]
        pools = (order[i : i + self.pool] for i in range(0, len(order), self.pool))
        ordered = [i for part in pools for i in sorted(part, key=lambda i: -self.lengths[i])]
        blocks = [ordered[i : i + self.block] for i in range(0, len(ordered), self.block)]
        tail = [blocks.pop()] if len(blocks[-1]) < self.block else []  # a short batch comes last
        shuffled = [blocks[i] for i in torch.randperm(len(blocks), generator=generator).tolist()]
        return [i for block in shuffled + tail for i in block[self.rank :: self.num_replicas]]


def collate(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Pad examples on the right to [batch, length]; padding is masked and not learned, so any token will do."""
    length = max(len(example.ids) for example in examples)
    input_ids = torch.zeros(len(examples), length, dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, IGNORED)
    for row, example in enumerate(examples):
        end = len(example.ids)
        input_ids[row, :end] = torch.from_numpy(example.ids)
        attention_mask[row, :end] = 1
        labels[row, :end] = torch.from_numpy(example.labels)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


class ProblemBatch:
    """Problems of one task; a plain object, so that Lightning does not look for tensors in it.

    Args:
        task: whose problems.
        problems: some of them.
    """

    def __init__(self, task: Task, problems: list[Problem]) -> None:
        self.task = task
        self.problems = problems


class ProblemLoader:
    """Iterates over this process's batches of one task, problems of similar length together.

    Args:
        task: whose problems.
        split: which of them.
        batch_size: problems per batch.
        offset: the process that gets the first batch.
    """

    def __init__(self, task: Task, split: Split, *, batch_size: int, offset: int = 0) -> None:
        self.task = task
        self.problems = task.problems(split)
        order = sorted(range(len(self.problems)), key=lambda i: -_characters(self.problems[i]))
        self.batches = ShardedBatchSampler(len(self.problems), batch_size=batch_size, order=order, offset=offset)

    def __iter__(self) -> Iterator[ProblemBatch]:
        return (ProblemBatch(self.task, [self.problems[i] for i in batch]) for batch in self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _characters(problem: Problem) -> int:
    return sum(len(message["content"]) for message in problem.messages)


class LLMData(L.LightningDataModule):
    """Chats to fine-tune on, and tasks to score on.

    Args:
        tasks: scored in validation and test, one loader each; may be empty for fine-tuning alone.
        train: JSONL files of conversations; needed for fine-tuning alone.
        batch_size: conversations per step and process; the global batch is this × processes × the Trainer's
            ``accumulate_grad_batches``.
        max_length: tokens of a conversation. A longer one is cut behind its last reply that fits as a whole, or
            dropped if none does.
        eval_batch_size: dialogues that are generated for at once.
        length_pool: batches that are sorted by length together, which saves padding; 1 only shuffles. Mind mixtures
            of skills whose lengths differ: a batch of one length is then a batch of one skill, which trains worse.
        seed: of the training order; the run's own if not given.
        num_workers: processes that make training batches.

    Raises:
        ValueError: if a size is below 1.
    """

    def __init__(
        self,
        tasks: list[Task] | None = None,
        *,
        train: list[Path] | None = None,
        batch_size: int = 8,
        max_length: int = 2048,
        eval_batch_size: int = 128,
        length_pool: int = 1,
        seed: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        sizes = {"batch_size": batch_size, "eval_batch_size": eval_batch_size}
        for key, number in {**sizes, "length_pool": length_pool, "max_length": max_length}.items():
            if number < 1:
                raise ValueError(f"data.{key} must be at least 1, got {number}")
        self.tasks = list(tasks or [])
        self.train = [Path(path) for path in train or []]
        self.batch_size = batch_size
        self.max_length = max_length
        self.eval_batch_size = eval_batch_size
        self.length_pool = length_pool
        self.seed = seed
        self.num_workers = num_workers
        self.examples: list[Example] = []

    def setup(self, stage: str) -> None:
        """Read and tokenise the training files, with the tokenizer of the module that is fitted.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if no file is given, one is bad, or nothing in them fits ``max_length``.
        """
        if stage != "fit" or self.examples:
            return
        if not self.train:
            raise ValueError("data.train is empty: give at least one JSONL file to fine-tune on")
        conversations = [c for path in self.train for c in read_conversations(path)]
        assert self.trainer is not None
        tokenizer = cast(PreTrainedTokenizerBase, self.trainer.lightning_module.tokenizer)
        self.examples = self._tokenise(tokenizer, conversations, quiet=not self.trainer.is_global_zero)

    def _tokenise(
        self, tokenizer: PreTrainedTokenizerBase, conversations: list[Conversation], *, quiet: bool
    ) -> list[Example]:
        examples: list[Example] = []
        cut = dropped = 0
        chunks = range(0, len(conversations), CHUNK)
        for start in tqdm(chunks, desc="tokenise", unit="thousand", disable=quiet or len(chunks) < 5):
            more, c, d = tokenise(tokenizer, conversations[start : start + CHUNK], max_length=self.max_length)
            examples += more
            cut, dropped = cut + c, dropped + d
        if cut or dropped:
            rank_zero_warn(
                f"{cut} of {len(conversations)} conversations cut behind their last reply within "
                f"{self.max_length} tokens, {dropped} dropped (their first reply ends later)"
            )
        if not examples:
            raise ValueError(f"no conversation fits data.max_length = {self.max_length} tokens")
        return examples

    def train_dataloader(self) -> ResumableLoader[Example]:
        """Return right-padded batches of chats."""
        assert self.trainer is not None
        sampler = LengthGroupedSampler(
            [len(example.ids) for example in self.examples],
            batch_size=self.batch_size,
            seed=torch.initial_seed() % 2**31 if self.seed is None else self.seed,
            rank=self.trainer.global_rank,
            processes=self.trainer.world_size,
            pool=self.length_pool,
        )
        return ResumableLoader(
            self.examples,  # type: ignore[arg-type]
            batch_size=self.batch_size,
            sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> list[ProblemLoader]:
        """Return one loader per task over its optimisation split."""
        return self._loaders("optimisation")

    def selection_dataloader(self) -> list[ProblemLoader]:
        """Return one loader per task over what is kept back of its optimisation half."""
        return self._loaders("selection")

    def test_dataloader(self) -> list[ProblemLoader]:
        """Return one loader per task over its test split."""
        return self._loaders("test")

    def splits(self) -> dict[str, dict[str, list[str]]]:
        """Return the ids of the problems of all splits, by task, and a hash of them and of the chat template."""
        found: dict[str, dict[str, list[str]]] = {}
        for task in self.tasks:
            parts = {split: task.problems(split) for split in SPLITS}
            content = repr([(p.id, p.messages, p.spec) for problems in parts.values() for p in problems])
            content += task.template or ""
            digest = hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()
            found[task.name] = {**{split: [p.id for p in parts[split]] for split in SPLITS}, "sha256": [digest]}
        return found

    @property
    def draws(self) -> bool:
        """Whether scores depend on the run's seed: replies are drawn by it, unless the likeliest are taken."""
        return any(task.temperature > 0 for task in self.tasks)

    def check_tasks(self, progress: Callable[[], object], *, limit: int | None = None) -> Iterator[Check]:
        """Play gold, empty and wrong replies through every task; see :func:`cyqd.llm.scripted.check_task`."""
        try:
            for task in self.tasks:
                yield from check_task(task, progress=progress, limit=limit)
        finally:
            self.close()

    def close(self) -> None:
        """Give back what the tasks' environments hold."""
        for task in self.tasks:
            task.close()

    def _loaders(self, split: Split) -> list[ProblemLoader]:
        loaders: list[ProblemLoader] = []
        for task in self.tasks:
            dealt = sum(len(loader.batches.batches) for loader in loaders)
            batch_size = max(1, self.eval_batch_size // task.samples)
            loaders.append(ProblemLoader(task, split, batch_size=batch_size, offset=dealt))
        return loaders

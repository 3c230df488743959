"""A causal language model: fine-tuned on chats, scored by dialogues with environments."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from cyqd.llm import weights
from cyqd.llm.chat import IGNORED, render
from cyqd.llm.data import ProblemBatch
from cyqd.llm.dialogue import Dialogue, Dialogues
from cyqd.llm.generation import generate
from cyqd.llm.tasks.base import Task, Turn
from cyqd.llm.tasks.problems import Problem
from cyqd.training import EvolvableModule
from cyqd.training.lora import LoRA, add_adapters, merged, save_adapter
from cyqd.training.optimisation import adamw_with_cosine, optimizer_steps

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LLMModule(EvolvableModule):
    """A Hugging Face causal language model with its tokenizer.

    Of a vision-language model, only the language model evolves.

    Args:
        base: folder or hub name of the model that is fine-tuned, or that the experts were tuned from.
        dtype: of the live weights; ``auto`` takes the folder's own. Fine-tune in ``float32`` (with the Trainer's
            ``precision: bf16-mixed`` where the hardware has it): small updates are lost in bfloat16.
        lr: peak learning rate.
        min_lr_ratio: the cosine ends at this fraction of ``lr``.
        warmup_ratio: linear warm-up over this fraction of the steps.
        betas: AdamW's.
        weight_decay: AdamW's, on matrices only.
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        lora: train low-rank adapters instead of all weights; the expert is saved merged all the same.
        max_new_tokens: length limit of one reply.

    Raises:
        FileNotFoundError: if there is no such model, or it lacks weights or tokenizer.
        ValueError: if the tokenizer has no chat template, no end token is named, or replies fill the context.
    """

    def __init__(
        self,
        base: Path | str,
        *,
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        lr: float = 1e-5,
        min_lr_ratio: float = 0.1,
        warmup_ratio: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.1,
        gradient_checkpointing: bool = False,
        lora: LoRA | None = None,
        max_new_tokens: int = 512,
    ) -> None:
        super().__init__()
        self.base = weights.local_folder(base)
        self.lr, self.min_lr_ratio, self.warmup_ratio = lr, min_lr_ratio, warmup_ratio
        self.betas, self.weight_decay = betas, weight_decay
        self.lora = lora and replace(lora, targets=lora.targets or LORA_TARGETS)
        self.max_new_tokens = max_new_tokens
        self.tokenizer = weights.load_tokenizer(self.base)
        weights.FolderWeights(self.base)  # the clear error, before the slow load
        self.model: PreTrainedModel = weights.load_model(self.base, dtype=dtype)
        self.evolved_prefix = weights.language_prefix(self.model)
        self.eos_ids = self._end_tokens()
        self.context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or math.inf
        if not 1 <= max_new_tokens < self.context:
            raise ValueError(
                f"max_new_tokens = {max_new_tokens} leaves no room for replies or prompts in {self.context} tokens"
            )
        if gradient_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[no-untyped-call]
        if self.lora is not None:
            add_adapters(self.model, self.lora)
        self.matrices = {n for n, p in self.model.named_parameters() if p.ndim >= 2}  # FSDP flattens the live ones
        self.dialogues = Dialogues(self.reply, self.timings)

    def _end_tokens(self) -> set[int]:
        config = self.model.generation_config
        ends = config.eos_token_id if config is not None else None
        ends = ends if isinstance(ends, list) else [ends]
        ids = {int(end) for end in (*ends, self.tokenizer.eos_token_id) if end is not None}
        if not ids:
            raise ValueError(f"{self.base}: neither tokenizer nor generation_config.json names an end token")
        return ids

    # Fine-tuning

    def on_fit_start(self) -> None:
        """Leave evaluation mode, in which transformers loads models.

        Raises:
            ValueError: if there are tasks to score on, and a strategy that shards the parameters.
        """
        if len(self.metrics) and isinstance(self.trainer.strategy, (FSDPStrategy, ModelParallelStrategy)):
            raise ValueError(
                "dialogues need the whole model on every process: leave data.tasks empty with a strategy that "
                "shards parameters, and score the expert afterwards with `python -m cyqd test`"
            )
        self.model.train()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of the learned tokens.

        Args:
            batch: ``input_ids``, ``attention_mask`` and ``labels`` [batch, length]; labels are -100 where
                nothing is learned.
            batch_idx: not used.
        """
        targets = F.pad(batch["labels"][:, 1:], (0, 1), value=IGNORED)
        columns = (targets != IGNORED).any(dim=0).nonzero().squeeze(1)  # logits of prompts are never made
        logits = self.model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            use_cache=False,
            logits_to_keep=columns,
        ).logits
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets[:, columns].flatten(), ignore_index=IGNORED)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(targets))
        return loss

    def batch_sizes(self, batch: dict[str, Tensor]) -> dict[str, int | Tensor]:
        """Return a training batch's conversations, and its tokens without padding."""
        return {"samples": len(batch["labels"]), "tokens": batch["attention_mask"].sum()}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW with linear warm-up and a cosine to the minimum rate, stepped every optimizer step."""
        return adamw_with_cosine(
            ((n.replace("_fsdp_wrapped_module.", ""), p) for n, p in self.model.named_parameters()),
            steps=optimizer_steps(self.trainer),
            matrices=self.matrices,
            lr=self.lr,
            min_lr_ratio=self.min_lr_ratio,
            warmup_ratio=self.warmup_ratio,
            betas=self.betas,
            weight_decay=self.weight_decay,
        )

    # Evaluation

    def reply(self, task: Task, dialogues: Sequence[Dialogue]) -> list[str | None]:
        """Write the next message of some dialogues, all in one batch; None where there is no room for it."""
        for dialogue in dialogues:
            if dialogue.sample == 0 and (name := f"{task.name}/{dialogue.problem.id}") in self.watched:
                self.answers[name] = dialogue.transcript
        prompts = self.tokenizer(
            [render(self.tokenizer, d.messages, prompt=True, template=task.template) for d in dialogues],
            add_special_tokens=False,
            return_attention_mask=False,
        )["input_ids"]
        fits = [i for i, prompt in enumerate(prompts) if len(prompt) + self.max_new_tokens <= self.context]
        replies: list[str | None] = [None] * len(prompts)
        if fits:
            # Lightning's autocast spans some calls of this and not others; a reply must not depend on that.
            with torch.autocast(self.device.type, enabled=False):
                written = generate(
                    self.model,
                    [prompts[i] for i in fits],
                    max_new_tokens=self.max_new_tokens,
                    eos_ids=self.eos_ids,
                    pad_id=min(self.eos_ids),
                    temperature=task.temperature,
                    seeds=[_draw_seed(dialogues[i]) for i in fits],
                )
            for i, text in zip(fits, self.tokenizer.batch_decode(written, skip_special_tokens=True), strict=True):
                replies[i] = text
        return replies

    def on_validation_epoch_start(self) -> None:
        """Forget earlier scores."""
        self.reset_scores()

    def validation_step(self, batch: ProblemBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Begin the dialogues of a batch of problems; scores arrive in ``metrics`` as dialogues end."""
        self.dialogues.add(batch.task, batch.problems, partial(self._finish, batch.task, dataloader_idx))

    def on_validation_epoch_end(self) -> None:
        """End all dialogues; log the scores."""
        self.dialogues.drain()
        self.log_scores()

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def _finish(self, task: Task, dataloader_idx: int, problem: Problem, turn: Turn) -> None:
        problem_name = f"{task.name}/{problem.id}"
        measures = {name: turn.measures.get(name, 0.0) for name in task.measures_of(problem)}
        self.record(dataloader_idx, problem_name, turn.score, measures)
        if turn.fault is not None:
            self.faults[problem_name] = turn.fault
        if turn.retried is not None:
            self.retries[problem_name] = turn.retried

    # The seam to the engine

    def evolved_parameters(self) -> dict[str, torch.nn.Parameter]:
        """Return the live parameters that evolve, by their names in the model's files."""
        return {n: p for n, p in self.model.named_parameters() if n.startswith(self.evolved_prefix)}

    def read_weights(self, path: Path) -> Mapping[str, Tensor]:
        """Return a Hugging Face folder's weights by the live parameters' names, memory-mapped.

        Raises:
            FileNotFoundError: if there are no safetensors at ``path``.
            ValueError: if their names are not those of the live parameters.
        """
        stored = weights.FolderWeights(weights.local_folder(path))
        stored.bind(self.model)
        return stored

    def check_compatible(self, base: Path, expert: Path) -> None:
        """Check that two folders agree in tokenizer, chat template and configuration.

        Raises:
            ValueError: naming the file and what differs.
        """
        weights.check_compatible(weights.local_folder(base), weights.local_folder(expert))

    def hub(self) -> dict[str, str]:
        """Return what model cards say; see :meth:`EvolvableModule.hub`."""
        kind, pipeline = "AutoModelForCausalLM", "text-generation"
        if self.evolved_prefix:
            kind, pipeline = "AutoModelForImageTextToText", "image-text-to-text"
        code = f'from transformers import {kind}, AutoTokenizer\n\nmodel = {kind}.from_pretrained(".")\n'
        code += 'tokenizer = AutoTokenizer.from_pretrained(".")'
        return {"library": "transformers", "pipeline": pipeline, "code": code}

    def save_model(self, path: Path, card: str) -> None:
        """Write a Hugging Face folder that plain ``from_pretrained`` loads, in the dtype of the base's folder.

        With a strategy that shards parameters, call it on all processes before the Trainer tears down (for
        instance in ``on_train_end``); the first process writes.

        Args:
            path: folder; weights of an earlier save are replaced, other files stay.
            card: text of the model card, ``README.md``.
        """
        state = self._full_state()
        attached = self._trainer is not None
        if attached and not self.trainer.is_global_zero:
            return
        path.mkdir(parents=True, exist_ok=True)
        for leftover in path.glob(".saving-*"):  # of a killed process
            shutil.rmtree(leftover)
        with tempfile.TemporaryDirectory(dir=path, prefix=".saving-") as name:
            folder = Path(name)
            if self.lora is not None:
                save_adapter(state, self.lora, folder / "adapter", base=str(self.base), task_type="CAUSAL_LM")
                state = merged(state, self.lora)
            dtype = weights.stored_dtype(self.base)
            state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}
            self.model.save_pretrained(  # by the live names, which read_weights expects
                folder, state_dict=state, save_original_format=False
            )
            self.tokenizer.save_pretrained(folder)
            weights.write_dtype(folder, dtype)
            (folder / "README.md").write_text(card, encoding="utf-8")
            for stale in path.glob("model*.safetensors*"):  # another number of shards, or their index
                stale.unlink()
            for file in [file for file in folder.rglob("*") if file.is_file()]:
                target = path / file.relative_to(folder)
                target.parent.mkdir(exist_ok=True)
                os.replace(file, target)

    def _full_state(self) -> dict[str, Tensor]:
        """Return the model's state dict, gathered from all processes where a strategy has sharded it."""
        if self._trainer is None or self.trainer.lightning_module is not self:
            return self.model.state_dict()
        state = self.trainer.strategy.lightning_module_state_dict()
        return {name.removeprefix("model."): t for name, t in state.items() if name.startswith("model.")}


def _draw_seed(dialogue: Dialogue) -> int:
    """Return the seed of a reply's draws: a function of the run's seed and of what is replied to."""
    key = (torch.initial_seed(), dialogue.problem.id, dialogue.sample, len(dialogue.replies))
    return int.from_bytes(hashlib.sha256(json.dumps(key).encode()).digest()[:8], "big") >> 1

"""A Segment Anything model: fine-tuned on masks, scored by the IoU of its masks at original size."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from segment_anything import sam_model_registry
from torch import Tensor
from torch.nn import functional as F

from cyqd.sam import weights
from cyqd.sam.data import SAMData
from cyqd.sam.losses import LOSSES
from cyqd.sam.metrics import score
from cyqd.sam.pictures import picture
from cyqd.sam.segmenter import original_size, segment, without_padding
from cyqd.training import EvolvableModule, Picture
from cyqd.training.lora import LoRA, add_adapters, merged, save_adapter
from cyqd.training.optimisation import adamw_with_cosine, optimizer_steps
from cyqd.training.splits import Split

LORA_TARGETS = ("qkv", "proj")

UNUSED = (
    "prompt_encoder.mask_downscaling",
    *(f"mask_decoder.output_hypernetworks_mlps.{token}" for token in (1, 2, 3)),
    "mask_decoder.iou_prediction_head",
)
"""What a loss on the single mask of a prompt without masks never reaches: none of it trains."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
"""The Trainer's, as it names them, that leave the weights and what encodes positions in their own dtypes."""


class SAMModule(EvolvableModule):
    """A Segment Anything model that makes one mask per image.

    The defaults are those of the paper's source for its experts, Conv-LoRA (Zhong et al., ICLR 2024), with a cosine
    for its linear decay of the learning rate. The predicted IoU is not trained, and neither are the three masks of
    ``multimask_output``.

    Args:
        base: the model that is fine-tuned, or that the experts were tuned from: Meta's ``.pth`` file, or a folder
            that this class wrote.
        architecture: ``vit_h``, ``vit_l``, ``vit_b`` or ``tiny``; found out by default.
        dtype: of the live weights; ``auto`` takes the file's own. Fine-tune in ``float32`` (with the Trainer's
            ``precision: bf16-mixed`` where the hardware has it) and evolve in ``bfloat16`` to save time.
        loss: ``structure`` (weighted cross-entropy and weighted IoU) or ``dice_focal`` (as SAM itself was trained);
            both on logits at the size of the model's input, padding left out.
        lr: peak learning rate, above 0.
        min_lr_ratio: the cosine ends at this fraction of ``lr``, in [0, 1].
        warmup_ratio: linear warm-up over this fraction of the steps, in [0, 1].
        betas: AdamW's.
        weight_decay: AdamW's, on parameters of two or more dimensions.
        frozen: parts that do not train, by the beginning of their parameters' names, such as ``image_encoder`` or
            ``image_encoder.blocks.0``; adapters in them do not train either. No prompt reaches all of the prompt
            encoder: to train it (``[]``) on several processes, set ``trainer.strategy`` to
            ``ddp_find_unused_parameters_true``.
        gradient_checkpointing: recompute the encoder's activations in the backward pass to save memory.
        lora: train low-rank adapters in the encoder's blocks (on ``qkv`` and ``proj`` of the attention unless it
            names other layers) instead of the encoder's weights; the mask decoder still trains unless it is frozen.
            The expert is saved merged all the same.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: if it is damaged or of another architecture, ``frozen`` names no part of it, or another argument
            is out of its range.
    """

    def __init__(
        self,
        base: Path | str,
        *,
        architecture: str | None = None,
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        loss: Literal["structure", "dice_focal"] = "structure",
        lr: float = 1e-4,
        min_lr_ratio: float = 0.0,
        warmup_ratio: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 1e-4,
        frozen: Sequence[str] = ("prompt_encoder",),
        gradient_checkpointing: bool = False,
        lora: LoRA | None = None,
    ) -> None:
        super().__init__()
        for key, name, known in (("loss", loss, LOSSES), ("dtype", dtype, ("auto", *DTYPES))):
            if name not in known:
                raise ValueError(f"model.{key}: expected one of {', '.join(known)}, got {name!r}")
        for key, share in {"min_lr_ratio": min_lr_ratio, "warmup_ratio": warmup_ratio}.items():
            if not 0 <= share <= 1:
                raise ValueError(f"model.{key} must lie in [0, 1], got {share}")
        if not lr > 0:
            raise ValueError(f"model.lr must be above 0, got {lr}")
        self.base = Path(base)
        self.loss = LOSSES[loss]
        self.lr, self.min_lr_ratio, self.warmup_ratio = lr, min_lr_ratio, warmup_ratio
        self.betas, self.weight_decay = betas, weight_decay
        self.gradient_checkpointing = gradient_checkpointing
        self.lora = lora and replace(lora, targets=lora.targets or LORA_TARGETS)
        self.stored_dtypes = {name: tensor.dtype for name, tensor in weights.read(self.base).items()}
        live = DTYPES.get(dtype) or next(iter(self.stored_dtypes.values()))
        architecture = architecture or weights.architecture_of(self.base)
        self.sam = weights.load(self.base, architecture, dtype=live)
        assert architecture is not None  # else there would be an error by now
        self.architecture = architecture
        if self.lora is not None:
            self.sam.image_encoder.requires_grad_(False)
            add_adapters(self.sam.image_encoder.blocks, self.lora)
        self._freeze([*UNUSED, *frozen])

    def _freeze(self, parts: Sequence[str]) -> None:
        parameters = {name.replace(".base_layer.", "."): p for name, p in self.sam.named_parameters()}  # LoRA's
        for part in parts:
            found = [p for name, p in parameters.items() if f"{name}.".startswith(f"{part}.")]
            if not found:
                known = {".".join(name.split(".")[:depth]) for name in parameters for depth in (1, 2)}
                raise ValueError(f"frozen: no parameter is in {part!r}; there are {', '.join(sorted(known))}")
            for parameter in found:
                parameter.requires_grad_(False)

    @property
    def image_size(self) -> int:
        """Side of the model's input, in pixels."""
        return int(self.sam.image_encoder.img_size)

    def _logits(self, batch: Mapping[str, Any], *, checkpointing: bool = False) -> Tensor:
        """Return logits [B, 1, L, L] for the images and prompts of a batch.

        Raises:
            ValueError: if the images are not of the model's input size.
        """
        if (side := batch["image"].shape[-1]) != self.image_size:
            raise ValueError(
                f"data.image_size is {side}, but {self.base} takes images of {self.image_size} pixels a side: "
                f"set data.image_size to {self.image_size}"
            )
        return segment(self.sam, batch["image"], batch["size"], batch, checkpointing=checkpointing)[0]

    def setup(self, stage: str) -> None:
        """Check what the Trainer was told, and make the metrics.

        Raises:
            ValueError: if its precision or strategy does not suit, or a process would have nothing to score.
        """
        super().setup(stage)
        if self.trainer.precision not in PRECISIONS:
            raise ValueError(
                f"trainer.precision {self.trainer.precision} would change the dtype of what encodes positions: "
                "take bf16-mixed (or 32-true, 16-mixed); model.dtype: bfloat16 is for evaluation in bfloat16"
            )
        if isinstance(self.trainer.strategy, (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)):
            raise ValueError(
                f"trainer.strategy {type(self.trainer.strategy).__name__} is not supported: ViT-H trains whole on "
                "one 80 GB GPU; take `ddp` for several"
            )
        if self.trainer.lightning_module is self:  # an evolution's host lets processes be idle
            self._check_batches("test" if stage == "test" else "optimisation")

    def _check_batches(self, split: Split) -> None:
        """Check that every process has a batch of every task, without which Lightning fails on some of them."""
        processes = self.trainer.world_size
        for task in self._tasks:
            pairs, size = len(task.problems(split)), self.trainer.datamodule.eval_batch_size  # type: ignore[attr-defined]
            if (batches := math.ceil(pairs / size)) < processes:
                mend = f"set it to {pairs // processes}" if pairs >= processes else f"use {pairs} processes"
                raise ValueError(
                    f"data.eval_batch_size {size} makes {batches} batches of {task.name}'s {pairs} pairs of the "
                    f"{split} half, too few for {processes} processes: {mend} or fewer"
                )

    # Fine-tuning

    def on_fit_start(self) -> None:
        """Leave evaluation mode, in which the model is built."""
        self.sam.train()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss.

        Args:
            batch: ``image``, ``size`` and the prompts, as :func:`cyqd.sam.segmenter.segment` takes them, and
                ``mask`` uint8 [B, 1, S, S] of 0 and 1.
            batch_idx: not used.
        """
        logits = self._logits(batch, checkpointing=self.gradient_checkpointing)
        side = self.image_size
        logits = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
        loss = self.loss(logits, batch["mask"], without_padding(batch["size"], side))
        self.log("train/loss", loss, prog_bar=True, batch_size=len(logits))
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW with linear warm-up and a cosine to the minimum rate, stepped every optimizer step.

        Raises:
            ValueError: if nothing is left to train.
        """
        if not any(parameter.requires_grad for parameter in self.sam.parameters()):
            raise ValueError("frozen: nothing is left to train")
        return adamw_with_cosine(
            self.sam.named_parameters(),
            steps=optimizer_steps(self.trainer),
            matrices={name for name, parameter in self.sam.named_parameters() if parameter.ndim >= 2},
            lr=self.lr,
            min_lr_ratio=self.min_lr_ratio,
            warmup_ratio=self.warmup_ratio,
            betas=self.betas,
            weight_decay=self.weight_decay,
        )

    # Evaluation

    @torch.no_grad()
    def predict(self, batch: Mapping[str, Any]) -> list[Tensor]:
        """Return the foreground's probability at original size, float32 [H, W] per image.

        The Trainer's autocast does not apply, so that a mask depends on the weights and their dtype alone.

        Args:
            batch: of an evaluation loader.
        """
        with torch.autocast(self.device.type, enabled=False):
            return [
                original_size(logits, size, truth.shape).sigmoid()
                for logits, size, truth in zip(
                    self._logits(batch), batch["size"].tolist(), batch["truth"], strict=True
                )
            ]

    def on_validation_epoch_start(self) -> None:
        """Forget earlier scores."""
        self.reset_scores()

    def validation_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score the images of a batch."""
        for i, (probability, truth) in enumerate(zip(self.predict(batch), batch["truth"], strict=True)):
            name = f"{batch['task'].name}/{batch['id'][i]}"
            iou, measures = score(probability, truth, batch["measures"])
            self.record(dataloader_idx, name, iou, measures)
            if name in self.watched:
                this = {key: batch[key][i : i + 1] for key in ("image", "size", "truth")}
                self.answers[name] = picture(this, probability)

    def on_validation_epoch_end(self) -> None:
        """Log the scores."""
        self.log_scores()

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    # The seam to the engine

    def evolved_parameters(self) -> dict[str, torch.nn.Parameter]:
        """Return all live parameters, by Sam's own names."""
        return dict(self.sam.named_parameters())

    def read_weights(self, path: Path) -> Mapping[str, Tensor]:
        """Return a checkpoint's tensors by Sam's own names, memory-mapped.

        Raises:
            FileNotFoundError: if there is no checkpoint at ``path``.
            ValueError: if it is damaged, or of another architecture.
        """
        state = weights.read(path)
        weights.check(state, self.architecture, source=path)
        return state

    def check_compatible(self, base: Path, expert: Path) -> None:
        """Check that two checkpoints have this model's architecture and the same encoding of positions.

        Raises:
            ValueError: naming the file and what differs.
        """
        ours, theirs = self.read_weights(base), self.read_weights(expert)
        for name in dict(self.sam.named_buffers()).keys() & ours.keys():
            if not torch.allclose(ours[name].float(), theirs[name].float(), rtol=1e-2):
                raise ValueError(
                    f"{expert}: {name}, which no training changes, is not that of {base}; only fine-tuned versions "
                    "of the base can be merged"
                )

    def pictures(self, data: L.LightningDataModule, problems: Sequence[str]) -> dict[str, Picture]:
        """Return images with their true and their predicted masks; see :meth:`EvolvableModule.pictures`."""
        assert isinstance(data, SAMData)
        found = {}
        for name, batch in data.test_batches(problems):
            batch |= {key: value.to(self.device) for key, value in batch.items() if isinstance(value, Tensor)}
            found[name] = picture(batch, self.predict(batch)[0])
        return found

    def hub(self) -> dict[str, str]:
        """Return what model cards say; see :meth:`EvolvableModule.hub`."""
        if self.architecture in sam_model_registry:
            code = "from segment_anything import sam_model_registry\n\n"
            code += f'sam = sam_model_registry["{self.architecture}"](checkpoint="model.pth")'
        else:
            code = 'from cyqd.sam import weights\n\nsam = weights.load(".")'
        return {"library": "segment-anything", "pipeline": "mask-generation", "code": code}

    def save_model(self, path: Path, card: str) -> None:
        """Write a folder with safetensors and a ``.pth`` for ``sam_model_registry``, in the dtypes of the base.

        With LoRA, the model is merged, and ``adapter/`` holds the encoder's adapters as a peft folder.

        Args:
            path: folder; an earlier model in it is replaced, other files stay.
            card: text of the model card, ``README.md``.
        """
        if self._trainer is not None and not self.trainer.is_global_zero:
            return
        state: Mapping[str, Tensor] = self.sam.state_dict()
        path.mkdir(parents=True, exist_ok=True)
        if self.lora is not None:
            self._save_adapter(state, path / "adapter")
            state = merged(state, self.lora)
        state = {name: tensor.to(self.stored_dtypes[name]) for name, tensor in state.items()}
        weights.save(path, state, self.architecture, card)

    def _save_adapter(self, state: Mapping[str, Tensor], folder: Path) -> None:
        assert self.lora is not None
        mark = ".lora_A.default.weight"
        layers = [name.removesuffix(mark) for name in state if name.endswith(mark)]
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".saving-") as name:
            save_adapter(state, replace(self.lora, targets=layers), Path(name), base=str(self.base))
            folder.mkdir(exist_ok=True)
            for file in Path(name).iterdir():
                os.replace(file, folder / file.name)

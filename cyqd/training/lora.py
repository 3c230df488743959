"""Low-rank adapters through peft, and the plain model that they amount to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


@dataclass
class LoRA:
    """Train low-rank adapters in place of the full matrices.

    Attributes:
        rank: of every adapter.
        alpha: adapters are scaled by ``alpha / rank``.
        dropout: on the adapters' input.
        targets: names of the linear layers that get an adapter; the domain's choice if not given.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: Sequence[str] | None = None

    @property
    def scale(self) -> float:
        """The adapters' factor."""
        return self.alpha / self.rank


def add_adapters(model: nn.Module, lora: LoRA) -> None:
    """Give the model trainable adapters on ``lora.targets``, in place, and freeze the rest.

    Raises:
        ImportError: if peft is not installed.
        ValueError: if the model has no such layer, or one is not linear.
    """
    config = _peft_config(lora)
    from peft import inject_adapter_in_model

    for target in lora.targets or ():
        layers = [layer for name, layer in model.named_modules() if name.rpartition(".")[2] == target]
        if not layers or not all(isinstance(layer, torch.nn.Linear) for layer in layers):
            raise ValueError(f"lora.targets: {type(model).__name__} has no linear layers called {target!r}")
    inject_adapter_in_model(config, model)


def _peft_config(lora: LoRA, **more: Any) -> Any:
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError('LoRA needs peft: pip install "cyqd[lora]"') from error
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type] # peft means any number
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets or ()),
        **more,
    )


def merged(state: Mapping[str, Tensor], lora: LoRA) -> dict[str, Tensor]:
    """Return the plain model's state dict: W + α/r · B A for every adapted matrix, summed in float32."""
    plain = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            continue
        if ".base_layer." in name:
            layer, _, kind = name.partition(".base_layer.")
            name = f"{layer}.{kind}"
            if kind == "weight":
                down, up = (state[f"{layer}.lora_{part}.default.weight"].float() for part in "AB")
                tensor = (tensor.float() + lora.scale * (up @ down)).to(tensor.dtype)
        plain[name] = tensor
    return plain


def save_adapter(
    state: Mapping[str, Tensor], lora: LoRA, folder: Path, *, base: str, task_type: str | None = None
) -> None:
    """Write the adapters as a peft folder; ``task_type`` is peft's name for what the model does."""
    folder.mkdir(parents=True, exist_ok=True)
    _peft_config(lora, base_model_name_or_path=base, task_type=task_type, inference_mode=True).save_pretrained(
        str(folder)
    )
    adapters = {
        f"base_model.model.{name.replace('.default.', '.')}": tensor.contiguous()
        for name, tensor in state.items()
        if ".lora_" in name
    }
    save_file(adapters, folder / "adapter_model.safetensors", metadata={"format": "pt"})

"""Hugging Face folders: finding them, their weights by name, and what two of them must have in common."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from cyqd.evolution.weights import StoredWeights

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
DOWNLOADED = ["*.json", "*.safetensors", "*.model", "*.jinja", "README.md", "LICEN[CS]E*", "NOTICE*", "USE_POLICY*"]

# Config fields that say how a model is stored, trained or run, but not which function its weights compute.
NEUTRAL = {
    "_attn_implementation", "_name_or_path", "attention_dropout", "bos_token_id", "dtype", "eos_token_id",
    "initializer_range", "name_or_path", "output_attentions", "output_hidden_states", "pad_token_id",
    "pretraining_tp", "return_dict", "torch_dtype", "transformers_version", "use_cache",
}  # fmt: skip


def local_folder(name: Path | str) -> Path:
    """Return the folder of a model, which is downloaded first where ``name`` is a hub name that is not cached.

    Raises:
        FileNotFoundError: if it is neither a folder with a ``config.json`` nor a model on the hub.
    """
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"{path} is no Hugging Face model: it holds no config.json")
        return path
    try:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)) or str(name).startswith("."):
            raise FileNotFoundError(f"model folder {name} not found")
        return Path(snapshot_download(str(name), allow_patterns=DOWNLOADED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise FileNotFoundError(f"{name} is neither a folder nor a model that the hub gives: {error}") from error


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a folder's tokenizer, which must have a chat template.

    Raises:
        FileNotFoundError: if the folder holds no tokenizer.
        ValueError: if the tokenizer has no chat template.
    """
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise FileNotFoundError(
            f"{folder} holds no tokenizer (none of {', '.join(TOKENIZER_FILES)}); save the base's tokenizer there"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if tokenizer.chat_template is None:
        raise ValueError(
            f"the tokenizer in {folder} has no chat template; use an instruction-tuned model, or put its "
            "chat_template.jinja there"
        )
    return tokenizer


def load_model(folder: Path, *, dtype: str = "auto") -> PreTrainedModel:
    """Load a folder's causal language model, or vision-language model, in its own or another dtype.

    With the meta device as default, nothing but its config is read.
    """
    config = AutoConfig.from_pretrained(folder)
    kind = AutoModelForCausalLM if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING else AutoModelForImageTextToText
    model: PreTrainedModel
    if torch.get_default_device().type == "meta":
        live = stored_dtype(folder) if dtype == "auto" else getattr(torch, dtype)
        model = kind.from_config(config, dtype=live)  # type: ignore[no-untyped-call]
    else:
        model = kind.from_pretrained(folder, dtype=dtype, use_safetensors=True)
    return model


def language_prefix(model: PreTrainedModel) -> str:
    """Return what the names of a vision-language model's language parameters begin with; "" for other models."""
    if model.config.get_text_config() is model.config:
        return ""
    decoder = model.get_decoder()  # type: ignore[no-untyped-call]
    return next(f"{name}." for name, part in model.named_modules() if part is decoder)


def stored_dtype(folder: Path) -> torch.dtype:
    """Return the dtype of a folder's weights, as its config says; float32 where it does not."""
    dtype = AutoConfig.from_pretrained(folder).dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def write_dtype(folder: Path, dtype: torch.dtype) -> None:
    """Note the dtype of a folder's weights in its config."""
    config = AutoConfig.from_pretrained(folder)
    config.dtype = dtype
    config.save_pretrained(folder)


class FolderWeights(StoredWeights):
    """A folder's tensors by name; see :class:`cyqd.evolution.weights.StoredWeights`.

    Args:
        folder: holds ``model.safetensors``, or shards of it and their index.

    Raises:
        FileNotFoundError: if it holds neither, or lacks a shard.
        ValueError: if a file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        try:
            super().__init__(folder)
        except FileNotFoundError as error:
            if not any(folder.glob("pytorch_model*.bin")):
                raise
            raise FileNotFoundError(
                f"{error}; it holds pickled .bin weights, which cyqd does not read. Convert them: python -c "
                f"\"from transformers import AutoModelForCausalLM as M; M.from_pretrained('{folder}')"
                f".save_pretrained('{folder}')\""
            ) from error

    def bind(self, model: PreTrainedModel) -> None:
        """Offer exactly the names of the model's parameters, whichever of the tied names are stored.

        Raises:
            ValueError: if names are missing or left over, or tied tensors differ.
        """
        live = dict(model.named_parameters())
        stored = dict(self._source)
        for alias, name in model.all_tied_weights_keys.items():
            if alias in stored and name in stored and not torch.equal(self[alias], self[name]):
                raise ValueError(
                    f"{self.path}: {alias} and {name} differ, but its config.json ties them; set "
                    "tie_word_embeddings to false there, and in the base"
                )
            if alias in stored:
                stored.setdefault(name, stored.pop(alias))
        ignored = {name for name, _ in model.named_buffers()}
        extra = [n for n in stored.keys() - live.keys() - ignored if not n.endswith("rotary_emb.inv_freq")]
        missing = live.keys() - stored.keys()
        if extra or missing:
            raise ValueError(
                f"the tensors in {self.path} are not those of {type(model).__name__}: {len(missing)} missing "
                f"{sorted(missing)[:3]}, {len(extra)} unknown {sorted(extra)[:3]}. A folder written by another "
                "major version of transformers may use other names: load it with from_pretrained and save it "
                "with save_pretrained(..., save_original_format=False)"
            )
        self._source = {name: stored[name] for name in live}


def check_compatible(base: Path, expert: Path) -> None:
    """Check that two folders' models differ in nothing but their weights.

    Raises:
        ValueError: naming the file and what differs.
    """
    configs = [_function_of(AutoConfig.from_pretrained(folder).to_dict()) for folder in (base, expert)]
    for key in sorted(configs[0].keys() | configs[1].keys()):
        ours, theirs = (config.get(key) for config in configs)
        if ours != theirs:
            raise ValueError(
                f"{expert / 'config.json'}: {key} is {theirs!r}, but {ours!r} in {base / 'config.json'}; "
                "only fine-tuned versions of the base can be merged"
            )
    facets = [_tokenizer_facets(load_tokenizer(folder)) for folder in (base, expert)]
    for facet, ours in facets[0].items():
        if ours != facets[1][facet]:
            raise ValueError(
                f"the tokenizer in {expert} differs from that in {base}: "
                + _difference(facet, ours, facets[1][facet])
            )


def _function_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config's fields that matter, sub-configs flattened to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if key in NEUTRAL:
            continue
        if isinstance(value, dict):
            flat.update({f"{key}.{inner}": v for inner, v in _function_of(value).items()})
        else:
            flat[key] = value
    return flat


def _tokenizer_facets(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    facets = {
        "vocabulary": tokenizer.get_vocab(),
        "special tokens": {k: v for k, v in tokenizer.special_tokens_map.items() if k != "pad_token"},
        "chat template": tokenizer.chat_template,
    }
    if tokenizer.is_fast:
        pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
        facets.update({part: pipeline.get(part) for part in ("normalizer", "pre_tokenizer", "model")})
    return facets


def _difference(facet: str, ours: Any, theirs: Any) -> str:
    if facet == "vocabulary":
        only = sorted(theirs.keys() - ours.keys())[:3] or sorted(ours.keys() - theirs.keys())[:3]
        return f"vocabulary ({len(theirs)} tokens, the base's has {len(ours)}; e.g. {only})"
    return f"{facet} ({theirs!r:.60}, the base's is {ours!r:.60})"

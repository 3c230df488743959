"""Saved models as mappings from parameter names to tensors, read when asked for."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

Reader = Callable[[str], Tensor]


class StoredWeights(Mapping[str, Tensor]):
    """A saved model's tensors by name, memory-mapped: one is read when it is asked for, and not kept.

    Args:
        path: a folder with ``model.safetensors``, or with shards of it and their index; or a file, safetensors or a
            state dict that torch saved (``.pth``).

    Raises:
        FileNotFoundError: if there is no such model, or a shard is missing.
        ValueError: if a file is damaged, or holds more than tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._source: dict[str, tuple[Reader, str]] = {}  # name → its file's reader, name therein
        for file in _files(path):
            names, read = _open(file)
            self._source.update((name, (read, name)) for name in names)

    def __getitem__(self, name: str) -> Tensor:
        read, stored = self._source[name]
        return read(stored)

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)

    def __contains__(self, name: object) -> bool:
        return name in self._source


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / SINGLE).is_file():
        return [path / SINGLE]
    if not (path / INDEX).is_file():
        raise FileNotFoundError(f"no {SINGLE} or {INDEX} in {path}" if path.is_dir() else f"no model at {path}")
    try:
        shards = json.loads((path / INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        files = [path / shard for shard in sorted(set(shards))]
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # TypeError and AttributeError: no objects
        raise ValueError(
            f"{path / INDEX} is damaged: expected a JSON object with weight_map, names → files, got {error!r}; "
            "download or save it anew"
        ) from error
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{path / INDEX} names {file.relative_to(path)}, which is not there")
    return files


def _open(file: Path) -> tuple[Iterable[str], Reader]:
    if file.suffix != ".safetensors":
        state = _state_dict(file)
        return state, state.__getitem__
    try:
        handle = safe_open(file, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged or incomplete: {error}") from error
    return handle.keys(), handle.get_tensor  # type: ignore[no-untyped-call]


def _state_dict(file: Path) -> dict[str, Tensor]:
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{file} is damaged, incomplete, or written by torch before 1.6; download or save it anew")
    try:
        state = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # pickle's, zip's or torch's own, by what is wrong
        raise ValueError(
            f"{file} is damaged, or holds more than tensors; download it anew, or save model.state_dict()"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        content = f"a dict of {list(state)[:4]}" if isinstance(state, dict) else type(state).__name__
        raise ValueError(f"{file}: expected a state dict, names → tensors, got {content}; save model.state_dict()")
    return state

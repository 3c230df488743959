"""Checkpoints: Meta's ``.pth`` files, and the folders this project writes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from segment_anything.modeling import Sam
from torch import Tensor

from cyqd.evolution.storage import load_json, save_json
from cyqd.evolution.weights import StoredWeights
from cyqd.sam.architecture import ARCHITECTURES, build, shapes

TENSORS, CHECKPOINT, CONFIG = "model.safetensors", "model.pth", "config.json"


def read(path: Path | str) -> Mapping[str, Tensor]:
    """Return a checkpoint's tensors by Sam's own names, memory-mapped: not to be written to.

    Args:
        path: a ``.pth`` file that holds a state dict, or a folder with ``model.safetensors``.

    Raises:
        FileNotFoundError: if there is neither.
        ValueError: if the file is damaged, or no state dict.
    """
    return StoredWeights(_tensor_file(Path(path)))


def _tensor_file(path: Path) -> Path:
    file = path / TENSORS if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{path}: no {TENSORS} in this folder" if path.is_dir() else f"no model at {path}")
    return file


def architecture_of(path: Path | str) -> str | None:
    """Return a checkpoint's architecture: what its ``config.json`` says, else the one its shapes fit, else None.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if ``config.json`` names no known architecture, or the file is damaged.
    """
    config = Path(path) / CONFIG
    if config.is_file():
        content = load_json(config)
        if not isinstance(content, dict):
            raise ValueError(f'{config}: expected an object such as {{"architecture": "vit_h"}}, got {content!r}')
        if (named := content.get("architecture")) not in [*ARCHITECTURES]:
            raise ValueError(f"{config}: architecture: expected one of {', '.join(ARCHITECTURES)}, got {named!r}")
        return str(named)
    stored = {name: tuple(tensor.shape) for name, tensor in read(path).items()}
    return next((architecture for architecture in ARCHITECTURES if shapes(architecture) == stored), None)


def check(state: Mapping[str, Tensor], architecture: str, *, source: object) -> None:
    """Check that tensors are those of an architecture.

    Args:
        state: tensors by name.
        architecture: its name.
        source: what to call them in an error.

    Raises:
        ValueError: naming what is missing, unknown, or of another shape.
    """
    expected = shapes(architecture)
    problems = [f"{name} is missing" for name in expected if name not in state]
    problems += [f"{name} is unknown" for name in state if name not in expected]
    problems += [
        f"{name} is {list(state[name].shape)}, not {list(shape)}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ValueError(f"{source} does not hold the tensors of {architecture}: {'; '.join(problems[:3])}{more}")


def load(path: Path | str, architecture: str | None = None, *, dtype: torch.dtype = torch.float32) -> Sam:
    """Build the live model of a checkpoint: a copy that may be written to.

    Args:
        path: as :func:`read` takes it.
        architecture: its name; found out by default.
        dtype: of the parameters. Buffers stay in float32: they encode positions.

    Raises:
        FileNotFoundError: if there is no checkpoint.
        ValueError: if it is damaged, or not of that or of any known architecture.
    """
    architecture = architecture or architecture_of(path)
    if architecture is None:
        raise ValueError(f"{path} fits none of {', '.join(ARCHITECTURES)}")
    state = read(path)
    check(state, architecture, source=path)
    with torch.device("meta"):  # no random values that would be replaced at once
        sam = build(architecture)
    parameters = {name for name, _ in sam.named_parameters()}
    copies = {n: t.to(dtype if n in parameters else torch.float32, copy=True) for n, t in state.items()}
    sam.load_state_dict(copies, assign=True)
    return sam


def save(path: Path, state: Mapping[str, Tensor], architecture: str, card: str) -> None:
    """Write a folder: safetensors, a ``.pth`` that ``sam_model_registry`` loads, ``config.json``, ``README.md``.

    Every file takes its place at once, as a whole; what else lies in the folder stays.

    Args:
        path: the folder.
        state: tensors by Sam's own names.
        architecture: its name.
        card: Markdown text of the model card.

    Raises:
        ValueError: if the tensors are not those of the architecture.
    """
    check(state, architecture, source="the model to save")
    path.mkdir(parents=True, exist_ok=True)
    for leftover in path.glob(".saving-*"):  # of a killed process
        shutil.rmtree(leftover)
    # A view of a larger storage, as a memory-mapped file gives, would be pickled with all of that storage.
    own = {n: t.detach().cpu().contiguous() for n, t in state.items()}
    own = {n: t if t.untyped_storage().nbytes() == t.nbytes else t.clone() for n, t in own.items()}
    with tempfile.TemporaryDirectory(dir=path, prefix=".saving-") as name:
        folder = Path(name)
        save_file(own, folder / TENSORS, metadata={"format": "pt"})
        torch.save(own, folder / CHECKPOINT)
        save_json(folder / CONFIG, {"architecture": architecture})
        (folder / "README.md").write_text(card, encoding="utf-8")
        for file in folder.iterdir():
            os.replace(file, path / file.name)

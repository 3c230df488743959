"""The demos' own configs, shrunk, so that the real path is what is tested."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from cyqd.__main__ import main
from tests.conftest import ROOT


def shrink(name: str, folder: Path, smaller: Mapping[str, str]) -> Path:
    """Copy a demo's configs with texts replaced, and with ``folder`` in place of runs/demo/NAME.

    Args:
        name: the demo's folder in configs/demo.
        folder: where the copies go, into ``configs``.
        smaller: fewer steps and problems, by what the shipped configs say.
    """
    configs = folder / "configs"
    configs.mkdir()
    texts = {path.name: path.read_text() for path in (ROOT / "configs" / "demo" / name).glob("*.yaml")}
    for old in smaller:
        assert any(old in text for text in texts.values()), f"no demo config says {old!r} any more"
    for file, text in texts.items():
        for old, new in {**smaller, f"runs/demo/{name}": str(folder)}.items():
            text = text.replace(old, new)
        (configs / file).write_text(text)
    return configs


def fit_all(configs: Path, *names: str) -> None:
    """Run some of the fits, and leave PyTorch's threads as they were."""
    threads = torch.get_num_threads()
    for name in names:
        main(["fit", "--config", str(configs / f"fit_{name}.yaml")])
    torch.set_num_threads(threads)

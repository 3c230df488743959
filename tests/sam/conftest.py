"""A random tiny Segment Anything model, as a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cyqd.sam import weights
from cyqd.sam.architecture import build


def make_sam(folder: Path, *, seed: int = 0) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sam = build("tiny")
    with torch.no_grad():  # segment_anything begins with zeros here, which would hide mistakes
        for name, parameter in sam.named_parameters():
            if "pos" in name.rpartition(".")[2]:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(seed))
    weights.save(folder, sam.state_dict(), "tiny", "# A random tiny model\n")
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sam(tmp_path_factory.mktemp("sam") / "tiny")

"""The expert space that most tests share, and reproducible property tests."""

from __future__ import annotations

import pytest
import torch
from hypothesis import settings

from cyqd.evolution import ExpertSpace
from tests.evolution.models import open_space

settings.register_profile("cyqd", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("cyqd")


@pytest.fixture(scope="session")
def space(tmp_path_factory: pytest.TempPathFactory) -> ExpertSpace:
    """A float32 base with three experts; nothing writes to it."""
    return open_space(tmp_path_factory.mktemp("space"))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)

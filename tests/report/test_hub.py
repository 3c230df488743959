"""A push that cannot go well is refused before any work, by huggingface_hub's own client."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.report.hub import Hub, serve_hub

CHECK = "import sys; from cyqd.report.hub import check_push; check_push(sys.argv[1])"
PUSH = "import sys, pathlib; from cyqd.report.hub import push; push(pathlib.Path(sys.argv[2]), sys.argv[1])"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve_hub(user="ada", refused=("ada/full",)) as hub:
        yield hub


def run(hub: Hub, code: str, *arguments: object, **settings: str) -> str:
    """Run code in a process of its own, since the client reads its settings on import; return its errors."""
    settings = {"HF_ENDPOINT": hub.address, "HF_TOKEN": hub.token, "PYTHONPATH": str(ROOT), **settings}
    environment = {**os.environ, **settings, "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env=environment, capture_output=True, text=True
    )
    return done.stderr


@pytest.mark.parametrize("name", ["ada/model", "laboratory/model"])
def test_own_and_organisations_repositories_are_fine(hub: Hub, name: str) -> None:
    assert run(hub, CHECK, name) == ""
    assert not hub.created


@pytest.mark.parametrize(
    ("settings", "name", "expected"),
    [
        ({}, "grace/model", "ValueError: push: the token is of ada, laboratory, who cannot push to grace"),
        ({"HF_HUB_OFFLINE": "1"}, "ada/model", "OSError: push: HF_HUB_OFFLINE is set"),
        ({"HF_TOKEN": "hf_wrong"}, "ada/model", "cannot be used; leave --push out to export alone"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "ada/model", "OSError: push: http://127.0.0.1:9 cannot be used"),
    ],
    ids=["owner", "offline", "token", "no network"],
)
def test_what_cannot_be_pushed_is_refused(hub: Hub, settings: dict[str, str], name: str, expected: str) -> None:
    assert expected in run(hub, CHECK, name, **settings)
    assert not hub.created


def test_without_a_token_there_is_nothing_to_try(hub: Hub, tmp_path: Path) -> None:
    assert "run `hf auth login`" in run(hub, CHECK, "ada/model", HF_TOKEN="", HF_HOME=str(tmp_path))


def test_a_refused_commit_says_where_the_model_lies(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# A model\n")
    message = run(hub, PUSH, "ada/full", tmp_path)
    assert f"the model lies in {tmp_path}, to be pushed with `hf upload ada/full {tmp_path}`" in message
    assert not hub.repositories["ada/full"]

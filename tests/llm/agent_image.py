"""The image that the tests' containers start from: built when it is missing, kept, and used by all of them."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

import pytest
from docker.errors import ImageNotFound

from cyqd.llm.environments.containers import docker_client
from cyqd.llm.images import build

IMAGE = "local-os/default"


def base_image() -> str:
    """Return the image to build on; skips where there is none."""
    if "CYQD_TEST_BASE_IMAGE" not in os.environ:
        pytest.skip("CYQD_TEST_BASE_IMAGE names no image to build on")
    return os.environ["CYQD_TEST_BASE_IMAGE"]


def agent_image() -> str:
    """Return AgentBench's default image; one process builds it and the others wait."""
    base = base_image()
    with (Path(tempfile.gettempdir()) / "cyqd-test-image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            docker_client().images.get(IMAGE)
        except ImageNotFound:
            build([IMAGE], base=base, network="host")
    return IMAGE

"""Docker: the client, whose container is whose, and removing what dead processes left behind."""

from __future__ import annotations

import atexit
import os
import platform
import threading
from contextlib import suppress
from pathlib import Path

import docker
from docker.errors import APIError, DockerException, NotFound
from requests.exceptions import RequestException

from cyqd.llm.environments.sandbox import SandboxUnavailable

LABEL = "cyqd.owner"
CLIENT_SECONDS = 60  # a request to the daemon fails after this


class DockerUnavailable(SandboxUnavailable):
    """No Docker daemon answers, or it lacks an image that is needed."""


_lock = threading.Lock()
_client: docker.DockerClient | None = None


def docker_client() -> docker.DockerClient:
    """Return this process's one client; the first call reaps, and what this process starts is removed at its exit.

    The daemon is found as the ``docker`` command finds it: DOCKER_HOST, else the local socket. Thread-safe. A
    forked child makes its own.

    Raises:
        DockerUnavailable: if no daemon answers.
    """
    global _client
    with _lock:
        if _client is None:
            try:
                client = docker.from_env(timeout=CLIENT_SECONDS, max_pool_size=64)
                client.ping()
            except (DockerException, RequestException) as error:
                raise DockerUnavailable(
                    f"no Docker daemon answers ({error}): install Docker (Debian and Ubuntu: docker.io), start it, "
                    "and let this user reach it (group docker, or DOCKER_HOST for another address)"
                ) from error
            reap(client)
            atexit.register(_remove_own, client, os.getpid())
            _client = client
        return _client


def labels() -> dict[str, str]:
    """Return the labels of everything that this process starts; no other process passes for their owner."""
    return {LABEL: " ".join(_identity(os.getpid()))}


def reap(client: docker.DockerClient) -> int:
    """Remove the containers whose owner, a process of this machine, is dead.

    Those of other machines that share the daemon, or of other process namespaces, are left alone.

    Returns:
        How many were removed.
    """
    return sum(remove(client, name) for name, owner, state in _ours(client) if _dead(owner, state))


def remove(client: docker.DockerClient, name: str) -> bool:
    """Kill and remove a container and its anonymous volumes; False where it is gone or on its way out."""
    try:
        client.api.remove_container(name, v=True, force=True)
    except NotFound:
        return False
    except APIError as error:
        if error.status_code == 409:  # "removal is already in progress"
            return False
        raise
    return True


def _ours(client: docker.DockerClient) -> list[tuple[str, list[str], str]]:
    """Return id, owner and state of each container that is any cyqd's."""
    found = client.api.containers(all=True, filters={"label": LABEL})
    return [(c["Id"], c["Labels"][LABEL].split(), c["State"]) for c in found]


def _identity(pid: int) -> list[str]:
    """Return host, boot, process namespace, pid and start time of a process; no process: "-" for the last."""
    try:
        # Fields after the command's name, which may hold anything; the 22nd of all is the start time in ticks.
        start = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
        )
    except (FileNotFoundError, ProcessLookupError):
        start = "-"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return [platform.node() or "-", boot, os.readlink("/proc/self/ns/pid"), str(pid), start]


def _dead(owner: list[str], state: str) -> bool:
    if len(owner) != 5 or owner[0] != (platform.node() or "-"):
        return False
    now = _identity(int(owner[3]))
    if owner[1] != now[1]:  # before the machine was started again; nothing that runs is from there
        return state != "running"
    return owner[2] == now[2] and owner[4] != now[4]


def _remove_own(client: docker.DockerClient, pid: int) -> None:
    if os.getpid() != pid:
        return
    own = labels()[LABEL].split()
    with suppress(DockerException, RequestException):  # the daemon went away; the next start reaps
        for name, owner, _ in _ours(client):
            if owner == own:
                remove(client, name)


def _forget() -> None:
    global _client, _lock
    _client, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)

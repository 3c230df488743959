"""A warm pool of containers of one image, each used once: no network, limits, nothing of the host."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import docker
from docker.errors import DockerException, ImageNotFound
from requests.exceptions import RequestException

from cyqd.llm.environments.containers import DockerUnavailable, docker_client, labels, remove
from cyqd.llm.environments.driven import COMMAND, Container, ContainerFault

PATIENCE_SECONDS = 30.0  # for a daemon that is being started again

# What useradd, chown, su, sudo and apt need of root's powers, and no more.
_CAPABILITIES = ["AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"]


@dataclass(frozen=True)
class ContainerLimits:
    """What a container may use.

    Attributes:
        memory_mb: memory of all its processes, in MiB; there is no swap.
        processes: processes and threads at one time.
        cpus: CPU seconds per second.
        disk_mb: size of its files together, in MiB, where the daemon's storage driver can limit it; elsewhere the
            size of each file.
        free_mb: there is a fault where the daemon's disk has less room than this, in MiB.
    """

    memory_mb: int = 512
    processes: int = 256
    cpus: float = 1.0
    disk_mb: int = 256
    free_mb: int = 256


class ContainerPool:
    """Containers of one image, started ahead in the background. Thread-safe.

    A container's loopback network comes from a small second container that outlives it and serves the next one:
    setting one up takes as long as all else. No two containers have the same network at a time.

    Args:
        image: the image, which has bash and python3.
        warm: how many are started ahead.
        limits: what each may use.
    """

    def __init__(self, image: str, *, warm: int, limits: ContainerLimits = ContainerLimits()) -> None:
        self.image = image
        self.warm = warm
        self.limits = limits
        self._threads = ThreadPoolExecutor(max(2, warm), thread_name_prefix="containers")
        self._started: deque[Future[Container]] = deque()
        self._networks: list[str] = []
        self._sizes = True  # until the daemon says that it cannot limit them
        self._lock = threading.Lock()

    def take(self) -> Container:
        """Return a fresh container, ready to use.

        Raises:
            ContainerFault: if none can be started.
            DockerUnavailable: if there is no daemon or no such image.
        """
        with self._lock:
            earlier = set(self._started)  # what failed in them may be over
        while True:
            with self._lock:
                while len(self._started) <= self.warm:
                    self._started.append(self._threads.submit(self._start))
                future = self._started.popleft()
            try:
                container = future.result()
            except ContainerFault:
                if future not in earlier:
                    raise
                continue
            if container.alive:
                return container
            container.close()  # it was killed while it waited

    def close(self) -> None:
        """Remove the containers that wait to be used, and the networks; those in use are their users' to close."""
        with self._lock:
            started, self._started = list(self._started), deque()
        for future in started:
            if not future.cancel():
                with suppress(ContainerFault, DockerUnavailable):
                    future.result().close()
        self._threads.shutdown()
        while self._networks:
            self._remove(self._networks.pop())

    def _start(self) -> Container:
        client = docker_client()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self._start_on(client, self._network(client))
            except ImageNotFound as error:
                raise DockerUnavailable(
                    f"Docker has no image {self.image}: build it with `python -m cyqd images`, or pull it"
                ) from error
            except (DockerException, RequestException) as error:
                if "storage-opt" in str(error) and self._sizes:
                    self._sizes = False
                elif "executable file not found" in str(error):
                    raise DockerUnavailable(
                        f"image {self.image} has no python3, which drives its containers"
                    ) from None
                elif time.monotonic() > deadline:
                    raise ContainerFault(f"no container of {self.image} can be started: {error}") from error
                else:
                    time.sleep(0.2)

    def _network(self, client: docker.DockerClient) -> str:
        """Return a container whose network is free."""
        with self._lock:
            if self._networks:
                return self._networks.pop()
        api = client.api
        config = api.create_host_config(
            network_mode="none",
            log_config={"type": "none"},
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            mem_limit="16m",
            pids_limit=4,
        )
        made = api.create_container(
            self.image, ["sleep", "infinity"], hostname="os", user="65534", host_config=config, labels=labels()
        )
        api.start(made["Id"])
        return str(made["Id"])

    def _start_on(self, client: docker.DockerClient, network: str) -> Container:
        api, limits = client.api, self.limits
        disk = limits.disk_mb << 20
        config = api.create_host_config(
            network_mode=f"container:{network}",
            log_config={"type": "none"},
            cap_drop=["ALL"],
            cap_add=_CAPABILITIES,
            mem_limit=limits.memory_mb << 20,
            memswap_limit=limits.memory_mb << 20,
            pids_limit=limits.processes,
            nano_cpus=int(limits.cpus * 1e9),
            storage_opt={"size": str(disk)} if self._sizes else None,
            ulimits=[
                docker.types.Ulimit(name="fsize", soft=disk, hard=disk),
                docker.types.Ulimit(name="core", soft=0, hard=0),
            ],
        )
        name = ""
        try:
            made = api.create_container(self.image, COMMAND, stdin_open=True, host_config=config, labels=labels())
            name = made["Id"]
            attached = api.attach_socket(name, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
            container = Container(name, attached, limits.free_mb, lambda: self._later(name, network))
            api.start(name)
            container.hello()
        except BaseException:
            if name:
                self._remove(name)
            self._remove(network)  # which may be the reason
            raise
        return container

    def _later(self, name: str, network: str) -> None:
        """Remove a container in the background; its network is free then."""

        def clear() -> None:
            if not self._remove(name):
                self._remove(network)
                return
            with self._lock:
                self._networks.append(network)

        try:
            self._threads.submit(clear)
        except RuntimeError:  # the pool is closed, or the interpreter ends
            self._remove(name)
            self._remove(network)

    def _remove(self, name: str) -> bool:
        """Return whether the container was there and is gone; the next start's reaping takes what this leaves."""
        try:
            return remove(docker_client(), name)
        except (DockerUnavailable, DockerException, RequestException):
            return False

"""A MySQL or MariaDB server in a container with no network, reached through a socket in a private folder."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import docker
import pymysql
from docker.errors import DockerException, ImageNotFound
from docker.models.containers import Container
from requests.exceptions import RequestException
from sqlalchemy.engine import URL

from cyqd.llm.environments.containers import DockerUnavailable, docker_client, labels, remove
from cyqd.llm.environments.mysql import MySQL
from cyqd.llm.environments.sql import DatabaseFault, DatabaseUnavailable, SQLOptions

IMAGE = "mariadb:10.11"
START_SECONDS = 180.0  # the published images set a server up when they start
MEMORY = "2g"  # disk included, which is in memory
DISK = "1g"
PROCESSES = 512

# What an entry point needs to make its files the server's and to become the server's user.
_CAPABILITIES = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"]
_FOLDER = "/cyqd"  # in the container


class MySQLContainer(MySQL):
    """A server in a container, started when it is first needed, and again when it died.

    The container is removed when the process ends, or by the next start where that was killed.

    Args:
        image: the published ``mysql`` or ``mariadb``, or one that understands MYSQL_ROOT_PASSWORD and takes the
            server's options as they do; by default :data:`IMAGE`. It must be there: nothing is pulled.
        options: for all of its databases.
    """

    _alone = True

    def __init__(self, image: str | None, options: SQLOptions) -> None:
        super().__init__(URL.create("mysql+pymysql"), options)
        self.image = image or IMAGE
        self._container: Container | None = None
        self._folder: _PrivateFolder | None = None

    def close(self) -> None:
        """Remove the container; see :meth:`SQLEngine.close`."""
        super().close()
        with self._lock:
            self._remove()

    def _locate(self) -> URL:
        try:
            if self._container is not None:
                self._container.reload()
                if self._container.status == "running":
                    return self._url
            self._remove()
            return self._start(docker_client())
        except (DockerException, RequestException) as error:
            if self._usable:
                raise DatabaseFault(f"the database's container failed: {error}") from error
            raise DatabaseUnavailable(f"no container of {self.image} could be started: {error}") from error

    def _start(self, client: docker.DockerClient) -> URL:
        password = secrets.token_hex(16)
        self._folder = _PrivateFolder()
        shared = self._folder.path / "run"
        shared.mkdir()
        shared.chmod(0o777)  # the server's user is another one
        url = URL.create("mysql+pymysql", "root", password, "localhost", query={"unix_socket": str(shared / "sql")})
        try:
            self._container = client.containers.create(
                self.image,
                [f"--socket={_FOLDER}/sql", "--skip-name-resolve", "--skip-symbolic-links"],
                labels=labels(),
                environment={"MYSQL_ROOT_PASSWORD": password},
                volumes={str(shared): {"bind": _FOLDER}},
                tmpfs={"/var/lib/mysql": f"size={DISK}"},
                network_mode="none",
                mem_limit=MEMORY,
                memswap_limit=MEMORY,
                pids_limit=PROCESSES,
                cap_drop=["ALL"],
                cap_add=_CAPABILITIES,
                security_opt=["no-new-privileges"],
            )
            self._container.start()
            self._wait(url)
        except BaseException as error:
            self._remove()
            if isinstance(error, ImageNotFound):
                raise DockerUnavailable(
                    f"Docker has no image {self.image}: run `docker pull {self.image}`, or `python -m cyqd images "
                    "cyqd/mariadb` and take the engine docker:cyqd/mariadb"
                ) from error
            raise
        return url

    def _wait(self, url: URL) -> None:
        """Wait until the server answers: not the one for the set-up, which has no network, not even inside."""
        assert self._container is not None
        deadline = time.monotonic() + START_SECONDS
        options = {"unix_socket": url.query["unix_socket"], "user": url.username, "password": url.password}
        while time.monotonic() < deadline:
            with suppress(pymysql.Error), pymysql.connect(**options, ssl_disabled=True) as connection:
                cursor = connection.cursor()
                cursor.execute("SELECT @@skip_networking")
                if not cursor.fetchone()[0]:
                    return
            self._container.reload()
            if self._container.status == "exited":
                break
            time.sleep(0.2)
        said = self._container.logs(tail=5).decode(errors="replace").strip()
        raise DockerException(f"its server did not start; it said: {said}")

    def _remove(self) -> None:
        if self._container is not None:
            with suppress(DockerException, RequestException):  # the daemon is gone; the next start reaps
                remove(docker_client(), self._container.id)
            self._container = None
        if self._folder is not None:
            self._folder.remove()
            self._folder = None


class _PrivateFolder:
    """A folder for this user alone, locked while its process lives; making one removes those of the dead."""

    def __init__(self) -> None:
        new = Path(tempfile.mkdtemp(prefix="cyqd-new-"))
        self._lock = os.open(new, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.path = new.rename(new.with_name(new.name.replace("new", "sql", 1)))
        for other in self.path.parent.glob("cyqd-sql-*"):
            with suppress(OSError):  # it is another user's, it is in use, or somebody else removes it
                lock = os.open(other, os.O_RDONLY)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(other)
                finally:
                    os.close(lock)

    def remove(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

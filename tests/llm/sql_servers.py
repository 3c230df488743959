"""Servers for tests: the one that runs beside them, a container's, and one of a test's own that it may kill."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pymysql
import pytest
from docker.errors import ImageNotFound

from cyqd.llm.environments.containers import docker_client
from cyqd.llm.images import FOLDER

IMAGE = "cyqd/mariadb"


def server_url() -> str:
    """Return the URL of the server that runs beside the tests."""
    if "CYQD_TEST_MYSQL" not in os.environ:
        pytest.skip("CYQD_TEST_MYSQL names no MySQL or MariaDB server")
    return os.environ["CYQD_TEST_MYSQL"]


def container_url() -> str:
    """Return the engine of a container whose image stands in for the published one; builds it if it is missing."""
    if "CYQD_TEST_BASE_IMAGE" not in os.environ:
        pytest.skip("CYQD_TEST_BASE_IMAGE names no image to build on")
    images = docker_client().images
    try:
        images.get(IMAGE)
    except ImageNotFound:
        base = {"BASE": os.environ["CYQD_TEST_BASE_IMAGE"]}
        images.build(
            path=str(FOLDER), dockerfile="mariadb.Dockerfile", buildargs=base, network_mode="host", tag=IMAGE
        )
    return f"docker:{IMAGE}"


class Server:
    """A MariaDB in a folder of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        user = f"--user={getpass.getuser()}"
        data = ["--no-defaults", user, f"--datadir={folder}/data"]
        setup = ["--skip-test-db", "--auth-root-authentication-method=normal"]
        subprocess.run(["mariadb-install-db", *data, *setup], check=True, capture_output=True)
        self._command = [
            "mariadbd", *data, *(options or ["--skip-symbolic-links"]), "--skip-networking",
            f"--socket={folder}/sql", f"--pid-file={folder}/pid",
            "--innodb-buffer-pool-size=16M", "--innodb-log-file-size=4M",
        ]  # fmt: skip
        self.url = f"mysql+pymysql://root@localhost/?unix_socket={folder}/sql"
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.ask("SELECT 1")
                return
            except pymysql.OperationalError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def wait_for(self, sql: str, count: int) -> None:
        """Wait until ``count`` connections run statements that start so."""
        running = f"SELECT COUNT(*) FROM information_schema.processlist WHERE info LIKE '{sql}%'"
        deadline = time.monotonic() + 60
        while self.ask(running) != [count]:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def kill(self) -> None:
        """Let it die as in a crash."""
        self.process.kill()
        self.process.wait()

    def ask(self, sql: str) -> list[Any]:
        """Return the first column of an answer."""
        with pymysql.connect(unix_socket=f"{self.folder}/sql", user="root") as connection:
            cursor = connection.cursor()
            cursor.execute(sql)
            return [row[0] for row in cursor.fetchall()]

    def leftovers(self) -> list[str]:
        """Return what scratch databases and accounts there are."""
        return self.ask("SHOW DATABASES LIKE 'cyqd%'") + self.ask(
            "SELECT user FROM mysql.user WHERE user LIKE 'cyqd%'"
        )


@contextmanager
def own_server(*options: str) -> Iterator[Server]:
    """Run a server that a test may kill; with ``options`` in place of the one that keeps its files together."""
    if not shutil.which("mariadbd"):
        pytest.skip("there is no mariadbd (Debian: mariadb-server)")
    with tempfile.TemporaryDirectory(prefix="cyqd-test-") as folder:  # a short path: it is a socket's, too
        server = Server(Path(folder), *options)
        try:
            yield server
        finally:
            server.kill()

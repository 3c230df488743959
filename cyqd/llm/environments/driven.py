"""A container with the driver inside, seen from outside."""

from __future__ import annotations

import json
import secrets
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

COMMAND = ["python3", "-ISc", "import sys; exec(bytes.fromhex(sys.stdin.buffer.readline().decode()))"]
START_SECONDS = 60.0  # a container is ready by then
GRACE_SECONDS = 30.0  # a driver answers within a request's own limit and this

_DRIVER = Path(__file__).with_name("driver.py").read_text(encoding="utf-8").encode().hex() + "\n"
_LINE = 1 << 20  # bytes of the longest answer


class ContainerFault(Exception):
    """A container or the daemon broke."""


class Finished(NamedTuple):
    """How a script ended: its exit code, None where it ran out of time, and what it printed (64 KiB at most)."""

    exit_code: int | None
    output: str


class Container:
    """A container with a driver inside. Used by one thread at a time."""

    def __init__(self, name: str, attached: Any, free_mb: int, give_back: Callable[[], object]) -> None:
        self.name = name
        self._free_mb = free_mb
        self._attached = attached  # docker's file object, which owns the socket
        self._socket: socket.socket = attached._sock
        self._give_back = give_back
        self._received = bytearray()

    def script(self, language: str, code: str, *arguments: str, seconds: float) -> Finished:
        """Run a program of its own as root in ``/``.

        Args:
            language: "bash" or "python".
            code: its text, given with ``-c``.
            arguments: its arguments.
            seconds: it is killed after this time.

        Raises:
            ContainerFault: if the container broke.
        """
        answer = self._ask(seconds, script=[language, code, *arguments])
        return Finished(answer["exit"], answer["output"])

    def shell(self, text: str, *, silence: float, seconds: float) -> str:
        """Run commands in the container's one login shell, or type them into what still holds its terminal.

        Args:
            text: the commands.
            silence: stop listening when the program neither printed nor computed for this many seconds; it goes on.
            seconds: kill what holds the terminal after this time.

        Returns:
            What the terminal showed, control sequences included, 64 KiB at most.

        Raises:
            ContainerFault: if the container broke.
        """
        output: str = self._ask(seconds, shell=text, silence=silence)["output"]
        return output

    @property
    def alive(self) -> bool:
        """Whether nothing is known to be wrong with it, between two requests."""
        return not select.select([self._socket], [], [], 0)[0]

    def close(self) -> None:
        """Give it back to be removed in the background."""
        self._attached._response.close()
        self._give_back()

    def hello(self) -> None:
        """Give a container that was just started its driver, and wait until it is ready."""
        self._send(_DRIVER)
        self._ask(START_SECONDS - GRACE_SECONDS)

    def _ask(self, seconds: float, **request: Any) -> dict[str, Any]:
        token = secrets.token_hex(16)
        self._send(json.dumps({"token": token, **request, "seconds": seconds}) + "\n")
        answer = self._answer(token, time.monotonic() + seconds + GRACE_SECONDS)
        free = answer["free"] >> 20
        if free < self._free_mb:
            raise ContainerFault(f"the daemon's disk is full: {free} MiB are free, {self._free_mb} are needed")
        return answer

    def _send(self, line: str) -> None:
        try:
            self._socket.settimeout(GRACE_SECONDS)
            self._socket.sendall(line.encode())
        except OSError as error:
            raise ContainerFault(f"container {self.name[:12]} is gone ({error})") from error

    def _answer(self, token: str, deadline: float) -> dict[str, Any]:
        """Return the line that has the token; other processes may write what they like beside it."""
        line = bytearray()
        while True:
            # Docker's frames: stream (1 or 2), three zero bytes, length; see its API reference, "attach".
            header = self._exactly(8, deadline)
            line += self._exactly(int.from_bytes(header[4:], "big"), deadline)
            *whole, rest = line.split(b"\n")
            line = rest[-_LINE:]
            for text in whole:
                if token.encode() in text:
                    with suppress(ValueError, TypeError):
                        answer = json.loads(text)
                        if answer["token"] == token:
                            return dict(answer)

    def _exactly(self, count: int, deadline: float) -> bytes:
        while len(self._received) < count:
            try:
                self._socket.settimeout(max(0.001, deadline - time.monotonic()))
                chunk = self._socket.recv(1 << 16)
            except OSError as error:
                raise ContainerFault(f"container {self.name[:12]} does not answer ({error})") from error
            if not chunk:
                raise ContainerFault(f"container {self.name[:12]} was stopped")
            self._received += chunk
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

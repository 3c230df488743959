"""The worker process: enters the jail once, then forks and watches one job after the other.

Protocol: one JSON object a line. The worker says ``{"ready": true}`` or ``{"unavailable": why}``; then every
request (the fields of a job and ``limits``) is answered by the fields of an outcome, or by ``{"fault": why}``.

Imports the standard library and its siblings only: everything imported here is visible to the jobs.
"""

from __future__ import annotations

# What programs commonly import is imported here once, so that a job finds it loaded.
import bisect  # noqa: F401
import collections  # noqa: F401
import copy  # noqa: F401
import dataclasses  # noqa: F401
import datetime  # noqa: F401
import decimal  # noqa: F401
import enum  # noqa: F401
import fractions  # noqa: F401
import functools  # noqa: F401
import gc
import heapq  # noqa: F401
import itertools  # noqa: F401
import json
import math  # noqa: F401
import operator  # noqa: F401
import os
import random  # noqa: F401
import re  # noqa: F401
import select
import signal
import site
import sqlite3  # noqa: F401
import statistics  # noqa: F401
import string  # noqa: F401
import sys
import time
import traceback
import typing  # noqa: F401
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import starmap
from os import _exit  # bound here: a program may replace what the module holds
from typing import Any, NoReturn

from . import jail, linux, program

LOOK_SECONDS = 0.01  # between two looks at what the job uses
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Serve requests from descriptor 0 until it ends."""
    sys.path.pop(0)  # the folder that this package was found in
    replies = os.fdopen(os.dup(1), "w", encoding="ascii", buffering=1)
    try:
        jail.enter()
    except OSError as error:
        print(json.dumps({"unavailable": str(error)}), file=replies)
        return
    os.environ.clear()
    path = [f"{sys.base_prefix}/bin", "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"]
    home = {"HOME": jail.HOME, "PWD": jail.HOME, "USER": "user", "LOGNAME": "user"}
    os.environ.update(home, PATH=":".join(dict.fromkeys(path)), LANG="C.UTF-8", PYTHONHASHSEED="0")
    site.setquit()
    own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY)
    gc.collect()
    gc.freeze()
    print(json.dumps({"ready": True}), file=replies)
    with open(0, encoding="ascii") as requests:
        for line in requests:
            try:
                reply = _run(json.loads(line), own_pids)
            except Exception:
                reply = {"fault": traceback.format_exc()}
            print(json.dumps(reply), file=replies)


def _run(request: Mapping[str, Any], own_pids: int) -> dict[str, Any]:
    """Run one job; when this returns, every process of the job is gone."""
    token = os.urandom(16)
    pipes = [os.pipe() for _ in range(3)]  # stdout, stderr, verdict
    linux.setns(own_pids, linux.CLONE_NEWPID)  # a second unshare is refused unless the first is undone
    linux.unshare(linux.CLONE_NEWPID)
    started = time.monotonic()
    init = os.fork()
    if not init:
        _become_init(request, token, [write for _, write in pipes])
    for _, write in pipes:
        os.close(write)
    streams = {read: bytearray() for read, _ in pipes}
    try:
        status = _watch(streams, request["limits"], started)
    finally:
        for read in streams:
            os.close(read)
        os.kill(init, signal.SIGKILL)  # its pid namespace, and with it all that the job started, goes too
        code = os.waitstatus_to_exitcode(os.waitpid(init, 0)[1])
    out, err, verdict = (bytes(data) for data in streams.values())
    most = request["limits"]["output_bytes"]
    reply = {
        "stdout": out[:most].decode(errors="replace"),
        "stderr": err[: most - len(out[:most])].decode(errors="replace"),
        "seconds": time.monotonic() - started,
    }
    if status:
        return {**reply, "status": status, "exit_code": None, "completed": False}
    if code < 0:  # its process 1 cannot be signalled from inside
        return {"fault": f"the job was killed from outside, by signal {-code}"}
    if not verdict.startswith(token):
        return {"fault": f"the job could not be set up (exit code {code}):\n{reply['stderr']}"}
    completed = verdict == 2 * token if request["language"] == "python" else code == 0
    return {**reply, "status": "error" if code else "ok", "exit_code": code, "completed": completed}


def _become_init(request: Mapping[str, Any], token: bytes, outputs: list[int]) -> NoReturn:
    """Be process 1 of the job: build its cell, start the program, reap, and end as the program ended."""
    try:
        for number, fd in enumerate([os.open("/dev/null", os.O_RDONLY), *outputs]):
            os.dup2(fd, 100 + number)  # out of the way of the numbers wanted below
        for number in range(4):
            os.dup2(100 + number, number)
        os.closerange(4, 1 << 20)
        jail.open_cell(request["limits"]["disk_mb"])
        child = os.fork()
        if not child:
            jail.give_up_privileges(request["limits"])
            program.run(request, token)
        while True:
            pid, status = os.wait()
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                os._exit(code if code >= 0 else 128 - code)  # a signal's number as the shell gives it
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        _exit(1)


def _watch(streams: dict[int, bytearray], limits: Mapping[str, float], started: float) -> str | None:
    """Collect the job's output until it is over.

    Args:
        streams: the pipes' reading ends and what was read from them.
        limits: the fields of ``sandbox.Limits``.
        started: monotonic time at which the job began, in seconds.

    Returns:
        The status of the limit that the job went over, or None where it ended by itself: process 1 of the job holds
        the pipes' other ends to its death, so their end is the job's.
    """
    poller = select.poll()
    for fd in streams:
        poller.register(fd, select.POLLIN)
    open_fds, look_at = set(streams), started + LOOK_SECONDS
    while open_fds:
        now = time.monotonic()
        if now >= started + limits["wall_seconds"]:
            return "timeout"
        if now >= look_at:
            over = _over(limits)
            if over:
                return over
            look_at = time.monotonic() + LOOK_SECONDS
        for fd, _ in poller.poll(LOOK_SECONDS * 1000):
            data = os.read(fd, 65536)
            streams[fd] += data
            if not data:
                poller.unregister(fd)
                open_fds.remove(fd)
        if sum(map(len, streams.values())) > limits["output_bytes"] + 2 * 16:
            return "output"
    return None


@dataclass(frozen=True)
class _Use:
    seconds: float
    megabytes: float


def _over(limits: Mapping[str, float]) -> str | None:
    """Return the status of the limit that the job's processes, all but this one in /proc, are over; else None."""
    uses = {pid: use for pid in os.listdir("/proc") if pid.isdigit() and pid != "1" and (use := _use(pid))}
    if len(uses) > limits["processes"] + 1:  # its process 1 is ours; newer kernels do not let it come to this
        return "error"
    if sum(use.seconds for use in uses.values()) > limits["cpu_seconds"]:
        return "timeout"
    # Resident pages count once for each process that shares them. Only where that is too much is the exact share
    # worth its price.
    most = limits["memory_mb"]
    if sum(use.megabytes for use in uses.values()) > most and sum(starmap(_share, uses.items())) > most:
        return "memory"
    return None


def _use(pid: str) -> _Use | None:
    """Return what a process uses, with the CPU time of the children that it reaped; None where it is gone."""
    with suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
        return _Use(sum(map(int, fields[11:15])) / _TICKS, int(fields[21]) * _PAGE / 2**20)
    return None


def _share(pid: str, use: _Use) -> float:
    """Return a process's share of memory in megabytes, shared pages divided; 0 where it is gone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            return next((int(line.split()[1]) / 1024 for line in file if line.startswith(b"Pss:")), 0.0)
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    except PermissionError:  # it made itself undumpable
        return use.megabytes


if __name__ == "__main__":
    main()

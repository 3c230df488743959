"""Runs an experiment's commands as processes, several at once; what fails does not stop the rest."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO

from tqdm import tqdm

from cyqd.training.experiment import Job

PATIENCE = 10.0
"""Seconds that processes are given to end by themselves."""

Running = dict[str, tuple[Job, "subprocess.Popen[bytes]"]]


class BusyError(RuntimeError):
    """The command is being run already."""


def run_batch(jobs: Sequence[Job], logs: Path, *, at_once: int = 1, title: str = "cells") -> list[Job]:
    """Run commands, each with its output in a log; these end with this process, by Ctrl-C or otherwise.

    Args:
        jobs: what to run, in this order.
        logs: folder of the logs, which are appended to.
        at_once: how many run at a time.
        title: what the progress bar says.

    Returns:
        Those that failed, each of which has been reported in a line.
    """
    waiting, failed = deque(jobs), []
    running: Running = {}
    bar = tqdm(total=len(jobs), desc=title, unit="run", disable=not jobs)

    def end(job: Job, problem: str) -> None:
        bar.update()
        if problem:
            failed.append(job)
            bar.write(f"failed: {job.name}: {problem}", file=sys.stderr)

    with bar, _ended_with_us(running):
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.popleft()
                try:
                    running[job.slug] = job, _start(job, logs)
                except BusyError as error:
                    end(job, str(error))
            for job, process in list(running.values()):
                if process.poll() is not None:
                    del running[job.slug]
                    end(job, _problem(job, process.returncode, logs))
            time.sleep(0.1)
    return failed


def become(job: Job, logs: Path) -> None:
    """Run a command in place of this process, so that signals and exit codes are its own.

    Raises:
        BusyError: if it is being run already.
    """
    log = _claim(job, logs)
    os.set_inheritable(log.fileno(), True)
    job.begin()
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", *job.arguments])


def _claim(job: Job, logs: Path) -> IO[bytes]:
    """Open a command's log and lock it: while a process holds it open, no other one may run the command."""
    logs.mkdir(parents=True, exist_ok=True)
    log = (logs / f"{job.slug}.log").open("ab")
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.close()
        raise BusyError(f"another process is running it, and writes {log.name}") from None
    return log


def _start(job: Job, logs: Path) -> subprocess.Popen[bytes]:
    with _claim(job, logs) as log:
        log.write(f"\n$ {job.line}\n".encode())
        log.flush()
        job.begin()
        return subprocess.Popen(
            [sys.executable, "-m", *job.arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is for us to pass on
        )


def _problem(job: Job, code: int, logs: Path) -> str:
    log = logs / f"{job.slug}.log"
    if code:
        return f"exit code {code}, see {log}"
    return "" if job.done else f"it ended without what it is for, see {log}"


@contextmanager
def _ended_with_us(running: Running) -> Iterator[None]:
    """End what is running when the block is left, also by SIGTERM."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        for which in (signal.SIGTERM, signal.SIGKILL):
            for _, process in running.values():
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, which)  # with what it has started
            patience = time.monotonic() + PATIENCE
            for _, process in running.values():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(patience - time.monotonic(), 0))
        signal.signal(signal.SIGTERM, before)

"""A pool of sandboxed workers that run model-written programs.

A program sees no network, no file of the user's, no variable of the environment and no process but its own; it is
stopped when it uses more than its limits. ``worker/jail.py`` says how. Not defended against: flaws of the kernel
itself; kernel memory such as socket buffers, which only the limits on processes and descriptors bound; and a
program that is written to search its own interpreter's memory for the proof that it completed.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

START_SECONDS = 30.0  # a worker is ready by then
GRACE_SECONDS = 5.0  # a worker answers within the job's wall limit and this

Status = Literal["ok", "error", "timeout", "memory", "output", "fault"]


class SandboxUnavailable(RuntimeError):
    """The system refuses what the sandbox is built from; there is no fall-back to running on the host."""


class _WorkerFailure(Exception):
    """A worker died, hung or could not set a job up."""


@dataclass(frozen=True)
class Limits:
    """What a job may use.

    Attributes:
        wall_seconds: time from start to end.
        cpu_seconds: CPU time of all its processes together.
        memory_mb: memory of all its processes together, in MiB; its files come on top.
        processes: processes and threads at one time.
        output_bytes: stdout and stderr together.
        disk_mb: size of all its files together, in MiB.
    """

    wall_seconds: float = 5.0
    cpu_seconds: float = 5.0
    memory_mb: int = 512
    processes: int = 32
    output_bytes: int = 65536
    disk_mb: int = 64


@dataclass(frozen=True)
class Job:
    """A program to run, with stdin empty, as an ordinary user in a fresh directory that is its cwd and HOME.

    Attributes:
        source: the program's text.
        language: what it is written in. Python programs run in this interpreter's version, standard library only.
        files: relative path → text, laid out in the directory.
    """

    source: str
    language: Literal["python", "bash"] = "python"
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a job ended. All of its processes are gone by then.

    Attributes:
        status: "ok": exit code 0; "error": another one, or too many processes; "timeout" (wall or CPU), "memory",
            "output": stopped at that limit; "fault": the sandbox itself failed, twice.
        exit_code: the program's; 128 + n where signal n ended it, None where the sandbox stopped it.
        stdout: what it printed, at most ``Limits.output_bytes``; undecodable bytes are replaced.
        stderr: likewise, of what stdout left; on a fault the reason.
        seconds: wall-clock time.
        completed: Python: the source ran to its end with no exception, SystemExit included; bash: exit code 0.
        retried: why it was run again on a fresh worker, where it was.
    """

    status: Status
    exit_code: int | None
    stdout: str
    stderr: str
    seconds: float
    completed: bool
    retried: str | None = None


def cpus_of_this_process() -> int:
    """Return its share of the machine's CPUs, at least 1: LOCAL_WORLD_SIZE is how many processes there are."""
    return max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class Sandbox:
    """A pool of workers, each started when it is first needed. Thread-safe; a context manager.

    Args:
        workers: how many jobs run at a time; by default the CPUs of this process divided by LOCAL_WORLD_SIZE, the
            number of processes that share them.
    """

    def __init__(self, *, workers: int | None = None) -> None:
        if workers is None:
            workers = cpus_of_this_process()
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self._pid = os.getpid()
        # A worker is killed by the kernel when the thread that started it ends, so each thread keeps its own.
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")
        self._own = threading.local()
        self._workers: set[_Worker] = set()
        self._available = False

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, job: Job, limits: Limits = Limits()) -> Future[Outcome]:
        """Run a job in the background.

        Returns:
            The outcome to come. Its ``result()`` raises SandboxUnavailable where no worker can be started.

        Raises:
            ValueError: if a file's path is absolute or leads out of the job's directory.
            RuntimeError: if the sandbox is closed or was made before this process was forked.
        """
        if os.getpid() != self._pid:
            raise RuntimeError("this Sandbox belongs to the parent process; make one after the fork")
        for name in job.files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
                raise ValueError(f"a job's file needs a relative path inside its directory, got {name!r}")
        return self._threads.submit(self._run, job, limits)

    def close(self) -> None:
        """Let running jobs end, cancel waiting ones, and end the workers."""
        if os.getpid() != self._pid:
            return
        self._threads.shutdown(cancel_futures=True)
        while self._workers:
            self._workers.pop().kill()

    def _run(self, job: Job, limits: Limits) -> Outcome:
        request = {
            "source": job.source,
            "language": job.language,
            "files": dict(job.files),
            "limits": asdict(limits),
        }
        started = time.monotonic()
        reason = None
        for _ in range(2):
            try:
                answer = self._worker().exchange(request, limits.wall_seconds + GRACE_SECONDS)
                return Outcome(**answer, retried=reason)
            except _WorkerFailure as failure:
                reason = str(failure)
                self._discard()
        return Outcome("fault", None, "", str(reason), time.monotonic() - started, False)

    def _worker(self) -> _Worker:
        if not hasattr(self._own, "worker"):
            try:
                self._own.worker = _Worker()
            except (SandboxUnavailable, OSError) as error:
                if not self._available:
                    raise
                raise _WorkerFailure(f"no new worker could be started: {error}") from error
            self._available = True  # from now on, a failure to start one is a fault of the moment
            self._workers.add(self._own.worker)
        worker: _Worker = self._own.worker
        return worker

    def _discard(self) -> None:
        worker: _Worker | None = self._own.__dict__.pop("worker", None)
        if worker is not None:
            self._workers.discard(worker)
            worker.kill()


class _Worker:
    """A worker process, and the conversation with it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            # The interpreter behind the virtual environment, whose folder the jail does not show.
            [os.path.realpath(sys.executable), "-sS", "-m", "worker"],
            # One arena: each reserves address space, which is limited. One hash seed: sets keep their order.
            env={"PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "1", "LANG": "C.UTF-8"},
            cwd=Path(__file__).parent,
            start_new_session=True,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdin
        os.set_blocking(self.process.stdin.fileno(), False)
        try:
            greeting = self._receive(time.monotonic() + START_SECONDS)
        except _WorkerFailure as failure:
            self.kill()
            raise SandboxUnavailable(f"the sandbox's worker did not start: {failure}") from failure
        if "unavailable" in greeting:
            self.kill()
            raise SandboxUnavailable(_explain(greeting["unavailable"]))

    def exchange(self, request: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Have a job run and return its outcome's fields; raises _WorkerFailure if they do not come in time."""
        deadline = time.monotonic() + seconds
        self._send(json.dumps(request).encode() + b"\n", deadline)
        reply = self._receive(deadline)
        if "fault" in reply:
            raise _WorkerFailure(reply["fault"])
        return reply

    def kill(self) -> None:
        """End the worker and, with it, its job."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe
            pipe.close()

    def _send(self, data: bytes, deadline: float) -> None:
        assert self.process.stdin
        fd = self.process.stdin.fileno()
        view = memoryview(data)
        while view:
            if not select.select([], [fd], [], max(0.0, deadline - time.monotonic()))[1]:
                raise _WorkerFailure("the worker stopped reading")
            try:
                view = view[os.write(fd, view) :]
            except BrokenPipeError:
                raise self._death() from None

    def _receive(self, deadline: float) -> dict[str, Any]:
        assert self.process.stdout
        fd, data = self.process.stdout.fileno(), bytearray()
        while not data.endswith(b"\n"):
            if not select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise _WorkerFailure("the worker stopped answering")
            chunk = os.read(fd, 1 << 20)
            if not chunk:
                raise self._death()
            data += chunk
        reply: dict[str, Any] = json.loads(data)
        return reply

    def _death(self) -> _WorkerFailure:
        assert self.process.stderr
        self.process.kill()
        said = self.process.stderr.read().decode(errors="replace").strip()
        return _WorkerFailure(f"the worker died with exit code {self.process.wait()}{': ' * bool(said)}{said}")


def _explain(refusal: str) -> str:
    """Return what to do about a refused system call, as far as this system's settings tell."""
    advice = []
    for path, bad, good in (
        ("kernel/unprivileged_userns_clone", "0", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user/max_user_namespaces", "0", "10000"),
    ):
        setting = Path("/proc/sys", path)
        if setting.exists() and setting.read_text(encoding="ascii").strip() == bad:
            advice.append(f"set it free with `sysctl -w {path.replace('/', '.')}={good}` as root")
    if not advice:
        advice.append(
            "the sandbox needs Linux on x86_64 or aarch64 with user namespaces, and bash; start a Docker container "
            "with `--security-opt seccomp=unconfined --security-opt systempaths=unconfined`"
        )
    return f"model-written programs cannot be confined here ({refusal}): {'; '.join(advice)}"


_shared: Sandbox | None = None
_shared_lock = threading.Lock()


def shared_sandbox() -> Sandbox:
    """Return this process's one pool, made at the first call and closed at exit. A forked child makes its own."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = Sandbox()
            atexit.register(_shared.close)
        return _shared


def _forget_shared() -> None:
    global _shared, _shared_lock
    _shared, _shared_lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget_shared)

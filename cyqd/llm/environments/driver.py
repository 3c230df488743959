"""The first process of a container, sent to it as text: runs scripts, and keeps one login shell on a terminal.

Protocol: one JSON object a line on stdin and stdout. Every answer has ``free``, the free bytes of the disk, and the
request's ``token``, which other processes of the container do not know. Answers begin and end with a line break.

- A request with a ``token`` and neither of the following asks whether the shell stands.
- ``{"script": [language, code, argument, ...], "seconds": s}`` runs a program of its own in ``/`` with stdin empty.
  The answer is ``{"exit": code, "output": text}``; null for a code: it ran out of time or could not be started.
- ``{"shell": text, "silence": s, "seconds": s}`` runs commands in the shell, or types them into the program that
  still holds its terminal. The answer ``{"output": text}`` comes when the shell is free again, when that program
  neither printed nor computed for ``silence`` seconds, or after ``seconds``, where it is killed.

Runs in whatever Python an image has, from 3.8: the standard library only, nothing of this package.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import sys
import termios
import time

KEPT = 65536  # bytes of an output; what comes after them is read and dropped
FLOOD = 1 << 24  # a command that printed this many bytes is killed
LOOK = 0.25  # seconds between two looks at a program that prints nothing
TEXT = 250  # the descriptor where the shell finds what to run
PROGRAMS = {"bash": "/bin/bash", "python": sys.executable}

codes: dict[int, int | None] = {}  # pid of a program that was started -> its exit code, None while it runs


def main() -> None:
    """Answer requests until stdin ends."""
    for path, text in ("/etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost\n"), ("/etc/resolv.conf", ""):
        with open(path, "w") as file:  # shared with the containers that had the same network before
            file.write(text)
        os.chmod(path, 0o644)
        os.chown(path, 0, 0)
    os.environ.pop("LC_CTYPE", None)  # which Python set for itself
    wake, waker = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which the first process of a container survives
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    shell = Shell(wake)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        answer = {"token": request["token"]}
        reap(wake)
        if "script" in request:
            answer["exit"], answer["output"] = script(wake, request["seconds"], *request["script"])
        elif "shell" in request:
            answer["output"] = shell.run(request["shell"], request["silence"], request["seconds"])
        disk = os.statvfs("/")
        answer["free"] = disk.f_bavail * disk.f_frsize
        # On a line of its own, whatever others have written there.
        told = b"\n%s\n" % json.dumps(answer).encode()
        while told:
            told = told[os.write(1, told) :]  # a child that ends cuts a long one short


def spawn(arguments: list[str], descriptors: dict[int, int], terminal: bool = False) -> int | None:
    """Start a program in a session of its own, with the given descriptors; None where there is no room for it."""
    for _ in range(20):
        try:
            pid = os.fork()
            break
        except OSError:  # the container is full of processes
            os.kill(-1, signal.SIGKILL)
            time.sleep(0.05)
            reap()
    else:
        return None
    if pid:
        codes[pid] = None
        return pid
    try:
        with open("/proc/self/oom_score_adj", "w") as score:  # out of memory: this dies before the driver
            score.write("1000")
        os.setsid()
        for target, source in descriptors.items():
            os.dup2(source, target)
        if terminal:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            os.environ["TERM"] = "xterm"
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
            signal.signal(number, signal.SIG_DFL)
        os.chdir("/")
        os.execv(arguments[0], arguments)
    finally:
        os._exit(126)


def reap(wake: int | None = None) -> None:
    """Take the exit codes of processes that ended, strangers included."""
    if wake is not None:
        read(wake)
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        if pid in codes:
            codes[pid] = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def read(fd: int) -> bytes:
    """Return what can be read now; b"" at the end and where nothing can."""
    try:
        return os.read(fd, 1 << 16)
    except OSError:  # EAGAIN; EIO once nobody has the terminal any more
        return b""


def script(wake: int, seconds: float, language: str, code: str, *arguments: str) -> tuple[int | None, str]:
    """Run a program to its end; return its exit code, and stdout and stderr as one text."""
    out, into = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY)
    tail = ["--", *arguments] if language == "bash" and arguments else arguments
    pid = spawn([PROGRAMS[language], "-c", code, *tail], {0: null, 1: into, 2: into})
    os.close(into)
    os.close(null)
    output, deadline, waited = bytearray(), time.monotonic() + seconds, [out, wake]
    while pid is not None and codes[pid] is None and (left := deadline - time.monotonic()) > 0:
        if out in select.select(waited, [], [], left)[0]:
            chunk = read(out)
            output += chunk[: KEPT - len(output)]
            if not chunk:
                waited.remove(out)
        reap(wake)
    if pid is not None and codes[pid] is None:
        os.killpg(pid, signal.SIGKILL)
    os.set_blocking(out, False)
    while len(output) < KEPT and (chunk := read(out)):  # not to its end: a process may have been left behind
        output += chunk[: KEPT - len(output)]
    os.close(out)
    return (None if pid is None else codes.pop(pid)), output.decode(errors="replace")


class Shell:
    """A login shell on a terminal of its own. One that ended is replaced when it is needed."""

    def __init__(self, wake: int) -> None:
        self.wake = wake
        self.text = os.memfd_create("text")
        self.runs = 0
        self.prompt = b""
        self.start(10)

    def start(self, seconds: float) -> None:
        """Start the shell on a new terminal and wait until it is free, at most for some seconds."""
        self.terminal, inner = pty.openpty()
        os.set_blocking(self.terminal, False)
        settings = termios.tcgetattr(inner)
        settings[3] &= ~termios.ECHO
        termios.tcsetattr(inner, termios.TCSANOW, settings)
        descriptors = {0: inner, 1: inner, 2: inner, TEXT: self.text}
        self.pid = spawn(["/bin/bash", "--login", "--noediting"], descriptors, terminal=True)
        os.close(inner)
        self.free = True
        self.play(self.command(""), seconds, seconds)

    def run(self, text: str, silence: float, seconds: float) -> str:
        """Run or type ``text``; return what was printed since the last time, without the shell's prompts."""
        before = read(self.terminal)
        self.free = self.free or self.prompt in before
        if self.pid is None or codes[self.pid] is not None:
            if self.pid is not None:
                del codes[self.pid]
            os.close(self.terminal)
            self.start(silence)
        text = text.replace("\0", "")
        typed = self.command(text) if self.free else text.encode(errors="replace") + b"\n"
        output = before + self.play(typed, silence, seconds)
        return re.sub(rb"\x1e\d+\x1e", b"", output).decode(errors="replace")

    def command(self, text: str) -> bytes:
        """Return what makes the shell run ``text``, and then show a prompt that says so.

        The text may change the prompt, but hardly the command that sets it.
        """
        os.ftruncate(self.text, 0)
        os.pwrite(self.text, text.encode(errors="replace"), 0)
        self.runs += 1
        self.prompt = b"\x1e%d\x1e" % self.runs
        line = """ set +o history; PROMPT_COMMAND="PS1=$'\\036%d\\036'"; eval "$(</dev/fd/%d)"\n"""
        return (line % (self.runs, TEXT)).encode()

    def play(self, typed: bytes, silence: float, seconds: float) -> bytes:
        """Type into the terminal, and return the first KEPT bytes that it shows until one of the limits is met."""
        output, end, printed, killed = bytearray(), b"", 0, False
        now = time.monotonic()
        quiet, stop = now + silence, now + seconds
        self.free = False
        while self.pid is not None and codes[self.pid] is None and now < quiet and not self.free:
            if now >= stop or printed > FLOOD:
                if killed:
                    break
                self.kill()
                killed, stop, printed = True, now + 1, 0
            writing = [self.terminal] if typed else []
            left = min(quiet, stop, now + LOOK) - now
            reading, writing, _ = select.select([self.terminal, self.wake], writing, [], left)
            if writing:
                typed = typed[self.write(typed) :]
            now = time.monotonic()
            chunk = b""
            if self.terminal in reading:
                chunk = read(self.terminal)
                output += chunk[: KEPT - len(output)]
                end = end[-len(self.prompt) :] + chunk
                printed += len(chunk)
                self.free = self.prompt in end
            if chunk or self.busy():
                quiet = now + silence
            reap(self.wake)
        return bytes(output + read(self.terminal)[: KEPT - len(output)])

    def write(self, typed: bytes) -> int:
        """Return how many bytes need not be written again: all of them where the terminal's queue is full."""
        try:
            return os.write(self.terminal, typed) or len(typed)
        except OSError:
            return len(typed)

    def busy(self) -> bool:
        """Return whether what holds the terminal computes or waits for the disk: a slow machine is no silence."""
        try:
            holder = os.tcgetpgrp(self.terminal)
        except OSError:  # nothing does
            return False
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/stat", "rb") as stat:
                    state, _, group = stat.read().rpartition(b")")[2].split()[:3]
            except OSError:  # it ended
                continue
            if int(group) == holder and state in b"RD":
                return True
        return False

    def kill(self) -> None:
        """Kill what holds the terminal, if anything does."""
        with contextlib.suppress(OSError):
            os.killpg(os.tcgetpgrp(self.terminal), signal.SIGKILL)


if __name__ == "__main__":
    main()

"""Run a job's program in the process that was forked for it. Nothing here returns."""

from __future__ import annotations

import atexit
import builtins
import linecache
import os
import random
import signal
import sys
import threading
import traceback
import types
from collections.abc import Mapping
from os import _exit, getpid, write  # bound here: the program may replace what the module holds
from pathlib import Path
from typing import Any, NoReturn

from . import jail

VERDICT = 3  # the descriptor on which a job reports
_NAME = "program.py"


def run(request: Mapping[str, Any], token: bytes) -> NoReturn:
    """Write the job's files and run it.

    Writes ``token`` to VERDICT when the program is about to start, and again when Python source ran to its end
    without an exception. A program that exits early, prints, closes or floods descriptors does not know the token;
    one written for the purpose could find it in this process's memory.

    Args:
        request: ``source``, ``language`` and ``files`` of the job.
        token: the job's secret.
    """
    for name, text in request["files"].items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="replace")
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL if request["language"] == "bash" else signal.SIG_IGN)
    if request["language"] == "bash":
        script = f"{jail.BOX}/script"
        Path(script).write_text(request["source"], encoding="utf-8", errors="replace")
        os.set_inheritable(VERDICT, False)
        write(VERDICT, token)
        os.execv("/bin/bash", ["bash", script])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    write(VERDICT, token)
    _exit(_run_python(request["source"], token))


def _run_python(source: str, token: bytes) -> int:
    """Run ``source`` as ``__main__`` and return the exit code that ``python program.py`` would have."""
    pid = getpid()
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    for name in [name for name in sys.modules if name.startswith("worker")]:
        del sys.modules[name]
    sys.modules["__main__"] = main
    sys.argv = [_NAME]
    sys.path.insert(0, jail.HOME)
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # type: ignore[misc]  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # type: ignore[misc]  # noqa: SIM115
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8")  # type: ignore[misc]  # noqa: SIM115
    linecache.cache[_NAME] = (len(source), None, source.splitlines(keepends=True), _NAME)
    random.seed(0)  # a job's outcome is a function of the job, as far as that can be had
    code = 1
    try:
        exec(compile(source, _NAME, "exec", dont_inherit=True), main.__dict__)
        if getpid() == pid:  # not a child that the program forked
            write(VERDICT, token)
        code = 0
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            code = (stop.code or 0) & 0xFF
        else:
            print(stop.code, file=sys.stderr)
    except BaseException as error:
        trace = error.__traceback__
        traceback.print_exception(type(error), error, trace and trace.tb_next)
    threading._shutdown()  # type: ignore[attr-defined]  # waits for the program's threads, as the interpreter would
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cyqd.llm import environments
from cyqd.llm.environments import Job, Limits, Sandbox, shared_sandbox

from .hostile import HELPER, PROGRAMS

pytestmark = pytest.mark.sandbox

SECRET = "SECRET-7d1f"
FOLDER = Path(environments.__file__).parent
ALONE = {**os.environ, "PYTHONPATH": str(FOLDER)}  # sandbox.py needs nothing else of cyqd, which loads slowly
TIGHT = Limits(wall_seconds=1.5, cpu_seconds=1.0, memory_mb=160, processes=16, output_bytes=20000, disk_mb=8)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    os.environ["CYQD_TEST_SECRET"] = SECRET
    with Sandbox(workers=1) as pool:
        pool.submit(Job("")).result()
        yield pool
    del os.environ["CYQD_TEST_SECRET"]


def children(pid: int) -> list[int]:
    """Return the pids of a process's children."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def keepers(pool: Sandbox) -> list[int]:
    """Return the pids of a pool's workers (their outer processes)."""
    return sorted(worker.process.pid for worker in pool._workers)


def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@pytest.mark.parametrize("name", PROGRAMS)
def test_hostile_program_is_contained(sandbox: Sandbox, name: str, tmp_path: Path) -> None:
    program = PROGRAMS[name]
    workers = keepers(sandbox)
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as abstract,
        tempfile.NamedTemporaryFile("w", dir=Path.home(), prefix=".cyqd-secret-") as in_home,
    ):
        abstract.bind(f"\0cyqd-test-{os.getpid()}")
        abstract.listen()
        files = [in_home.name, str(tmp_path / "secret"), __file__]
        for path in files[:2]:
            Path(path).write_text(SECRET)
        host = {"files": files, "port": tcp.getsockname()[1], "abstract": f"cyqd-test-{os.getpid()}"}
        laid_out = {"host.json": json.dumps(host), "escape.py": HELPER}
        started = time.monotonic()
        outcome = sandbox.submit(Job(program.source, program.language, laid_out), TIGHT).result()
        assert time.monotonic() - started < TIGHT.wall_seconds + 2
        for listener in (tcp, abstract):
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()
        assert [Path(path).read_text() for path in files[:2]] == [SECRET, SECRET]
    assert outcome.status in program.statuses.split(), outcome
    assert program.completed in (None, outcome.completed), outcome
    said = outcome.stdout + outcome.stderr
    assert not re.search(r"^ESCAPED", said, re.MULTILINE), outcome
    assert SECRET not in said
    assert "refused" in said or "escape import call" not in program.source, "it did not even try"
    assert not re.search("NameError|ImportError|ModuleNotFoundError", said), outcome
    assert len(said.encode()) <= 4 * TIGHT.output_bytes  # a replaced byte takes three

    assert keepers(sandbox) == workers, "the worker had to be replaced"
    (keeper,) = workers
    (zygote,) = children(keeper)
    assert children(zygote) == [], "a process outlived its job"
    after = sandbox.submit(Job("import os\nprint(6 * 7, os.listdir(), os.listdir('/tmp'))"), TIGHT).result()
    assert (after.status, after.stdout, after.completed) == ("ok", "42 [] []\n", True)


def test_python_job(sandbox: Sandbox) -> None:
    source = "import sqlite3, sys, helper\nprint(helper.X, open('d/e.txt').read())\nsys.stderr.write('é\\n')"
    outcome = sandbox.submit(Job(source, files={"helper.py": "X = 5", "d/e.txt": "text"})).result()
    assert (outcome.status, outcome.exit_code, outcome.stdout, outcome.stderr) == ("ok", 0, "5 text\n", "é\n")
    assert outcome.completed
    assert 0 < outcome.seconds < 5


def test_bash_job(sandbox: Sandbox) -> None:
    outcome = sandbox.submit(
        Job("cat a/b; pwd; echo $HOME; echo x > /tmp/y; exit 3", "bash", {"a/b": "ü\n"})
    ).result()
    assert (outcome.status, outcome.exit_code, outcome.stdout) == ("error", 3, "ü\n/box/home\n/box/home\n")
    assert not outcome.completed
    pipeline = "seq 9 | sort -rn | head -2 | awk '{s+=$1} END {print s}'; python3 -c 'print(1)' | cat <(cat)"
    outcome = sandbox.submit(Job(pipeline, "bash")).result()
    assert (outcome.stdout, outcome.exit_code, outcome.completed) == ("17\n1\n", 0, True)


def test_traceback_shows_the_programs_lines_only(sandbox: Sandbox) -> None:
    outcome = sandbox.submit(Job("def f():\n    return 1 / 0\nf()")).result()
    assert (outcome.status, outcome.exit_code) == ("error", 1)
    assert re.findall(r'File "(.*)", line (\d)', outcome.stderr) == [("program.py", "3"), ("program.py", "2")]
    assert "return 1 / 0" in outcome.stderr
    assert outcome.stderr.endswith("ZeroDivisionError: division by zero\n")
    outcome = sandbox.submit(Job("def")).result()
    assert outcome.stderr.endswith("SyntaxError: invalid syntax\n")
    assert "worker" not in outcome.stderr


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("import sys; sys.exit(3)", 3),
        ("raise SystemExit('no')", 1),
        ("import os; os.kill(os.getpid(), 11)", 139),
    ],
)
def test_exit_codes(sandbox: Sandbox, source: str, code: int) -> None:
    assert sandbox.submit(Job(source)).result().exit_code == code


def test_a_job_ends_as_the_interpreter_would(sandbox: Sandbox) -> None:
    source = (
        "import atexit, threading, time\natexit.register(print, 'exit')\n"
        "threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()\nprint(__name__, end=' ')"
    )
    assert sandbox.submit(Job(source)).result().stdout == "__main__ thread\nexit\n"


def test_jobs_are_reproducible(sandbox: Sandbox) -> None:
    job = Job("import random, sys\nprint(random.random(), {*'abcdef'}, 'worker' in sys.modules)")
    with Sandbox(workers=1) as other:
        first, second = sandbox.submit(job).result(), other.submit(job).result()
    assert first.stdout == second.stdout
    assert first.stdout.endswith("False\n")


def test_ordinary_concurrency_is_allowed(sandbox: Sandbox) -> None:
    source = (
        "from concurrent.futures import ThreadPoolExecutor\nimport multiprocessing, subprocess, sys\n"
        "print(sum(ThreadPoolExecutor(8).map(abs, range(9))))\n"
        "with multiprocessing.get_context('fork').Pool(3) as pool: print(pool.map(abs, [-1, 2]))\n"
        "print(subprocess.run([sys.executable, '-c', 'print(7)'], capture_output=True, text=True).stdout)"
    )
    outcome = sandbox.submit(Job(source)).result()
    assert (outcome.stdout, outcome.completed) == ("36\n[1, 2]\n7\n\n", True), outcome


def test_output_up_to_the_limit_is_kept(sandbox: Sandbox) -> None:
    limits = Limits(output_bytes=1000)
    exact = sandbox.submit(Job("print('x' * 999)"), limits).result()
    assert (exact.status, len(exact.stdout), exact.completed) == ("ok", 1000, True)
    more = sandbox.submit(Job("print('x' * 3000, flush=True)\nimport time; time.sleep(9)"), limits).result()
    assert (more.status, more.stdout, more.completed) == ("output", "x" * 1000, False)


def test_parallel_jobs_from_threads() -> None:
    with Sandbox(workers=2) as pool, ThreadPoolExecutor(4) as threads:
        outcomes = threads.map(lambda i: pool.submit(Job(f"print({i})")).result(), range(40))
        assert [outcome.stdout for outcome in outcomes] == [f"{i}\n" for i in range(40)]
        assert len(keepers(pool)) == 2


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "", "a\0"])
def test_file_paths_must_stay_inside(sandbox: Sandbox, name: str) -> None:
    with pytest.raises(ValueError, match="relative path"):
        sandbox.submit(Job("", files={name: ""}))


@pytest.mark.parametrize(("deaths", "status"), [(1, "ok"), (2, "fault")])
def test_killed_worker_is_replaced_and_the_job_tried_once_more(deaths: int, status: str) -> None:
    with Sandbox(workers=1) as pool:
        future = pool.submit(Job("import time; time.sleep(0.5); print(1)"))
        seen: set[int] = set()
        for _ in range(deaths):
            assert eventually(lambda: bool(set(keepers(pool)) - seen))
            (keeper,) = keepers(pool)
            assert eventually(lambda: bool(children(keeper) and children(children(keeper)[0])))  # noqa: B023
            seen.add(keeper)
            os.kill(keeper, signal.SIGKILL)
        outcome = future.result()
        assert outcome.status == status
        assert ("died" in outcome.stderr) == (status == "fault")
        assert pool.submit(Job("print(2)")).result().stdout == "2\n"


def test_hanging_worker_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cyqd.llm.environments.sandbox.GRACE_SECONDS", 0.5)
    with Sandbox(workers=1) as pool:
        pool.submit(Job("")).result()
        (zygote,) = children(keepers(pool)[0])
        os.kill(zygote, signal.SIGSTOP)
        big = Job("print(3)", files={"big": "x" * (1 << 20)})
        assert pool.submit(big, Limits(wall_seconds=1)).result().stdout == "3\n"
        assert eventually(lambda: not alive(zygote))


def test_a_job_that_cannot_be_set_up_is_a_fault(sandbox: Sandbox) -> None:
    outcome = sandbox.submit(Job("", files={"big": "x" * (2 << 20)}), Limits(disk_mb=1)).result()
    assert (outcome.status, outcome.completed) == ("fault", False)
    assert "File too large" in outcome.stderr or "No space left" in outcome.stderr


def test_close_leaves_no_process_and_refuses_jobs() -> None:
    pool = Sandbox(workers=2)
    for future in [pool.submit(Job("import time; time.sleep(0.1)")) for _ in range(4)]:
        future.result()
    processes = [pid for keeper in keepers(pool) for pid in (keeper, *children(keeper))]
    assert len(processes) == 4
    pool.close()
    pool.close()
    assert eventually(lambda: not any(map(alive, processes)))
    with pytest.raises(RuntimeError):
        pool.submit(Job(""))


def test_workers_die_with_a_killed_parent() -> None:
    source = (
        "import os, time\nfrom sandbox import Job, shared_sandbox\n"
        "pool = shared_sandbox()\npool.submit(Job('')).result()\npool.submit(Job('while True: pass'))\n"
        "if os.fork():\n  print(*[w.process.pid for w in pool._workers], flush=True)\ntime.sleep(3)"
    )  # the forked child, which outlives the parent, keeps the pipes open: only the parent's death can tell
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True, env=ALONE) as parent:
        assert parent.stdout
        keeper = int(parent.stdout.readline().split()[0])
        processes = [keeper, *children(keeper)]
        assert len(processes) == 2
        parent.kill()
        assert eventually(lambda: not any(map(alive, processes)), 1.0)


def test_shared_sandbox_is_one_per_process_and_survives_a_fork() -> None:
    pool = shared_sandbox()
    assert shared_sandbox() is pool
    assert pool.submit(Job("print(1)")).result().stdout == "1\n"
    child = os.fork()
    if not child:
        code = 1
        try:
            mine = shared_sandbox()
            with pytest.raises(RuntimeError, match="parent process"):
                pool.submit(Job(""))
            pool.close()
            code = 0 if mine is not pool and mine.submit(Job("print(2)")).result().stdout == "2\n" else 2
            mine.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pool.submit(Job("print(3)")).result().stdout == "3\n"


def test_error_names_the_setting_that_forbids_the_sandbox() -> None:
    source = (
        "from sandbox import Job, Sandbox, SandboxUnavailable\n"
        "with Sandbox(workers=1) as pool:\n"
        "  try: print(pool.submit(Job('')).result())\n"
        "  except SandboxUnavailable as error: print('unavailable:', error)"
    )
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$0" -c "$1"'
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", forbid, sys.executable, source]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=ALONE).stdout
    assert said.startswith("unavailable: model-written programs cannot be confined here ([Errno 28] unshare(")
    assert "sysctl -w user.max_user_namespaces=" in said


@pytest.mark.skipif(os.getuid() != 0, reason="where the tests run as an ordinary user, all of them show this")
def test_ordinary_user_needs_no_privileges() -> None:
    source = (
        "from sandbox import Job, Sandbox\n"
        "with Sandbox(workers=1) as pool: print(pool.submit(Job('import os; print(os.getuid())')).result().stdout)"
    )
    system_python = "/usr/bin/python3"
    if not Path(system_python).exists():
        pytest.skip("the running Python may lie where only root can read it, and there is no other")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(FOLDER, folder, dirs_exist_ok=True)
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        said = subprocess.run(
            [system_python, "-c", source], user=4321, group=4321, extra_groups=[], cwd="/",
            env={"PYTHONPATH": folder}, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    assert said == "1000\n\n"

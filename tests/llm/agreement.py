"""Verdicts on the same programs by the project's task and by EvalPlus's own checker."""

from __future__ import annotations

import io
import json
import os
import sys
import sysconfig
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import docker

from cyqd.llm.scripted import AT_ONCE
from cyqd.llm.tasks import CodingBenchmark

Verdict = tuple[bool, bool]  # passes on the base inputs; on all of them


def ours(task: CodingBenchmark, programs: Mapping[str, Sequence[str]]) -> dict[str, list[Verdict]]:
    """Return the task's verdicts on each problem's programs, by id."""
    problems = {p.id: p for split in ("optimisation", "test") for p in task.problems(split)}
    found: dict[str, list[Verdict]] = {}
    ids = list(programs)
    for start in range(0, len(ids), AT_ONCE):
        waiting = {
            id_: [task.submit(problems[id_], [f"```python\n{text}\n```"]) for text in programs[id_]]
            for id_ in ids[start : start + AT_ONCE]
        }
        for id_, futures in waiting.items():
            turns = [future.result() for future in futures]
            assert not any(turn.fault for turn in turns), turns
            found[id_] = [(turn.score == 1, turn.measures["plus"] == 1) for turn in turns]
    return found


def evalplus(
    records: Sequence[Mapping[str, Any]], programs: Mapping[str, Sequence[str]]
) -> dict[str, list[Verdict]]:
    """Return EvalPlus's verdicts, reached in a container with this interpreter and nothing else of the host.

    Args:
        records: problems in EvalPlus's format.
        programs: by task id.
    """
    lines = [json.dumps([record, programs[record["task_id"]]]) for record in records]
    here = Path(__file__).parent
    python = Path(sys.executable).resolve().relative_to(Path(sys.base_prefix).resolve())
    client = docker.from_env()
    container = client.containers.create(
        os.environ["CYQD_TEST_BASE_IMAGE"],
        ["/bin/sh", "-c", f"/python/{python} /checker.py < /job 2>&1"],
        volumes={
            "/usr": {"bind": "/usr", "mode": "ro"},
            str(Path(sys.base_prefix).resolve()): {"bind": "/python", "mode": "ro"},
            sysconfig.get_path("purelib"): {"bind": "/site", "mode": "ro"},
            str(here / "evalplus_checker.py"): {"bind": "/checker.py", "mode": "ro"},
        },
        environment={
            "PYTHONPATH": "/site",
            "LD_LIBRARY_PATH": "/python/lib",
            "HOME": "/tmp",
            "OMP_NUM_THREADS": "1",
        },
        network_mode="none",
        user="65534:65534",
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        tmpfs={"/tmp": "size=256m,mode=1777"},
        mem_limit="3g",
        pids_limit=64,
    )
    try:
        container.put_archive("/", _archive("job", "\n".join(lines).encode()))
        container.start()
        code = container.wait(timeout=3600)["StatusCode"]
        said = container.logs().decode()
    finally:
        container.remove(force=True)
    if code:
        raise RuntimeError(f"EvalPlus's checker failed with exit code {code}:\n{said[-2000:]}")
    verdicts = dict(json.loads(line) for line in said.splitlines() if line.startswith('["'))
    return {
        id_: [(v["base"] == "pass", v["base"] == v["plus"] == "pass") for v in found]
        for id_, found in verdicts.items()
    }


def _archive(name: str, data: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(data), 0o444
        archive.addfile(entry, io.BytesIO(data))
    return stream.getvalue()

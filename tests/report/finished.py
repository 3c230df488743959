"""Reads back W&B runs that this process itself finished: W&B's own process writes their end a moment later."""

from __future__ import annotations

import time
from pathlib import Path

from cyqd.evolution.storage import load_json
from cyqd.report.stored import read_records, run_logs
from tests.report.offline import Stored, read_offline


def read_finished(folder: Path, *, starts: int = 1, seconds: float = 30) -> list[Stored]:
    """Return every start of the W&B run whose folder this is, oldest first, once so many are on disk."""
    end = time.monotonic() + seconds
    id = load_json(folder / "wandb.json")["id"]
    while sum(_finished(log) for log in run_logs(folder, id)) < starts:
        assert time.monotonic() < end, f"W&B has not finished {folder}"
        time.sleep(0.05)
    return read_offline(folder)


def _finished(log: Path) -> bool:
    return any(record.HasField("exit") for record in read_records(log))

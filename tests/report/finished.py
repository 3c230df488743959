"""Reads back W&B runs that this process itself finished: W&B's own process writes their end a moment later."""

from __future__ import annotations

import time
from pathlib import Path

from cyqd.evolution.storage import load_json
from cyqd.report.stored import read_records, run_logs
from tests.report.offline import Stored, read_offline


def read_finished(folder: Path, *, seconds: float = 30) -> list[Stored]:
    """Return every start of the W&B run whose folder this is, oldest first, once all of them are on disk."""
    end = time.monotonic() + seconds
    logs = run_logs(folder, load_json(folder / "wandb.json")["id"])
    while not all(any(record.HasField("exit") for record in read_records(log)) for log in logs):
        assert time.monotonic() < end, f"W&B has not finished {folder}"
        time.sleep(0.05)
    return read_offline(folder)

"""What W&B has written to its transaction logs, by which a resumed run knows what a killed one could still store.

The format is LevelDB's log (blocks of 32 KiB, each record in one or more chunks) after a header of its own; every
record is a protobuf message of wandb's.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as messages

MAGIC = b":W&B"
HEADER = 7  # bytes, of the file and of every chunk
BLOCK = 32 * 1024
FULL, LAST = 1, 4  # kinds of the chunk that ends a record


def run_logs(folder: Path, id: str) -> list[Path]:
    """Return the transaction logs of a run, one for each time it was started or resumed, oldest first."""
    found = (folder / "wandb").glob(f"*run-*-{id}*/run-{id}.wandb")  # a second start within a second ends in -1
    return sorted(found, key=lambda path: path.parent.name.removeprefix("offline-"))  # by the time of the start


def read_records(path: Path) -> Iterator[Any]:
    """Yield what a transaction log holds; what is damaged, or was not written whole, ends it."""
    content = path.read_bytes()
    if not content.startswith(MAGIC):
        return
    position, record = HEADER, b""
    while position + HEADER <= len(content):
        room = BLOCK - position % BLOCK
        if room < HEADER:  # a chunk never begins at a block's very end
            position += room
            continue
        length = int.from_bytes(content[position + 4 : position + 6], "little")
        kind = content[position + 6]
        chunk = content[position + HEADER : position + HEADER + length]
        checksum = int.from_bytes(content[position : position + 4], "little")
        if len(chunk) < length or checksum != zlib.crc32(chunk, zlib.crc32(bytes([kind]))):
            return
        position += HEADER + length
        record += chunk
        if kind in (FULL, LAST):
            yield messages.Record.FromString(record)  # type: ignore[attr-defined] # made when imported
            record = b""


def history_row(history: Any) -> dict[str, Any]:
    """Return a row of W&B's history by key, ``_step`` among them; a table or an image is a dict."""
    row: dict[str, Any] = {}
    for item in history.item:
        inner, *keys = reversed([item.key] if item.key else item.nested_key)
        place = row
        for key in reversed(keys):
            place = place.setdefault(key, {})
        place[inner] = json.loads(item.value_json)
    return row


def last_step(folder: Path, id: str) -> int:
    """Return the last step that a run has stored, -1 if none."""
    steps = [
        history_row(record.history)["_step"]
        for path in run_logs(folder, id)
        for record in read_records(path)
        if record.HasField("history")
    ]
    return max(steps, default=-1)

"""Reads back what W&B really stored offline."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cyqd.report.stored import history_row, read_records, run_logs


@dataclass
class Stored:
    """One start of a W&B run.

    Attributes:
        files: where its media lie.
        run: its record: id, project, group, job type, config.
        rows: its history, media as what W&B says of them.
        summary: the newest value by key.
        artifacts: their records, manifests included.
    """

    files: Path
    run: Any = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)

    @property
    def config(self) -> dict[str, Any]:
        return {item.key: json.loads(item.value_json) for item in self.run.config.update}

    def media(self, row: dict[str, Any], *key: str) -> Path:
        """Return the file of an image, page or table, and check that it is what was logged."""
        said = row[".".join(key)]
        path = self.files / said["path"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == said["sha256"]
        return path

    def table(self, row: dict[str, Any], key: str) -> list[dict[str, Any]]:
        content = json.loads(self.media(row, key).read_text())
        return [dict(zip(content["columns"], cells, strict=True)) for cells in content["data"]]


def read_offline(folder: Path) -> list[Stored]:
    """Return every start of the W&B run whose folder this is, oldest first."""
    id = json.loads((folder / "wandb.json").read_text())["id"]
    found = []
    for path in run_logs(folder, id):
        stored = Stored(path.parent / "files")
        for record in read_records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                stored.run = record.run
            elif kind == "history":
                stored.rows.append(history_row(record.history))
            elif kind == "artifact":
                stored.artifacts.append(record.artifact)
            elif kind == "summary":
                stored.summary |= {
                    item.key: json.loads(item.value_json) for item in record.summary.update if item.key
                }
        found.append(stored)
    return found


def manifest(artifact: Any) -> dict[str, Any]:
    """Return an artifact's entries by name, and check the digests of those whose files are to be uploaded."""
    entries = {entry.path: entry for entry in artifact.manifest.contents}
    for entry in entries.values():
        if entry.local_path:
            digest = hashlib.md5(Path(entry.local_path).read_bytes()).digest()
            assert base64.b64encode(digest).decode() == entry.digest
    return entries

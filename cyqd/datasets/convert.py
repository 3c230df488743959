"""What is made of a downloaded file: itself, its unpacked content, files of an archive, or chat dialogues."""

from __future__ import annotations

import gzip
import json
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from cyqd.datasets.download import DownloadError, sha256_of
from cyqd.datasets.manifest import Source, leads_out
from cyqd.evolution.storage import atomic_path

ROLES = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
"""ShareGPT's names of the speakers, and ours."""

_UNREADABLE = (ValueError, gzip.BadGzipFile, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile)


def make(source: Source, downloaded: Path, out: Path, recorded: Mapping[str, str]) -> dict[str, str]:
    """Make the files of a source; nothing is overwritten by other content.

    Args:
        source: says what to make.
        downloaded: the file as downloaded.
        out: the output folder.
        recorded: SHA-256 of files that an earlier download made, by path relative to ``out``.

    Returns:
        The SHA-256 of each file made, by its path relative to ``out``.

    Raises:
        DownloadError: if another file is there, or an earlier download made another one.
        ValueError: if the download does not hold what the manifest says, or an archive would write elsewhere.
        ImportError: if reading it needs a package that is missing.
    """
    made: dict[str, str] = {}

    @contextmanager
    def output(path: str) -> Iterator[IO[bytes]]:
        with atomic_path(out / path) as temporary:
            with temporary.open("wb") as file:
                yield file
            made[path] = sha256_of(temporary)
            present = sha256_of(out / path) if (out / path).exists() else None
            for other, what in ((present, "another file is there"), (recorded.get(path), "it was another before")):
                if other not in (None, made[path]):
                    raise DownloadError(
                        f"{out / path}: {what}: sha256 {other}, but {source.url} gives {made[path]}; "
                        "move it and its .source.json away, or choose another --out"
                    )

    try:
        if source.unpack in ("tar", "zip"):
            members = _tar_members if source.unpack == "tar" else _zip_members
            for name, stream in members(source, downloaded):
                with output(f"{source.path}/{name}") as file:
                    shutil.copyfileobj(stream, file)
            if not made:
                raise ValueError(f"no file in {source.member}")
        elif source.chat is not None:
            with output(source.path) as file:
                for number, row in enumerate(_rows(downloaded), 1):
                    file.write(json.dumps({"messages": _messages(row, source.chat, number)}).encode() + b"\n")
        else:
            opener = gzip.open if source.unpack == "gz" else open
            with output(source.path) as file, opener(downloaded, "rb") as content:
                shutil.copyfileobj(content, file)
    except _UNREADABLE as error:
        raise ValueError(f"{source.url}: the download is not what its manifest says: {error}") from error
    return made


def _tar_members(source: Source, archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(archive) as tape:
        for entry in tape:
            name = _wanted(source, entry.name)
            if name and not entry.isdir():
                stream = tape.extractfile(entry) if entry.isfile() else None
                if stream is None:
                    raise ValueError(f"refused, since {entry.name} is a link or a device")
                yield name, stream


def _zip_members(source: Source, archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as bundle:
        for entry in bundle.infolist():
            name = _wanted(source, entry.filename)
            if name and not entry.is_dir():
                if stat.S_ISLNK(entry.external_attr >> 16):
                    raise ValueError(f"refused, since {entry.filename} is a link or a device")
                with bundle.open(entry) as stream:
                    yield name, stream


def _wanted(source: Source, name: str) -> str | None:
    """Return a member's path below the wanted folder; None if it lies elsewhere."""
    if leads_out(name):
        raise ValueError(f"refused, since the path {name!r} leads out of the archive")
    below_top = PurePosixPath(*PurePosixPath(name).parts[1:])
    folder = PurePosixPath(source.member or "")
    return str(below_top.relative_to(folder)) if folder in below_top.parents else None


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".parquet":
        try:
            from pyarrow.parquet import ParquetFile
        except ImportError as error:
            raise ImportError(f"reading {path} needs pyarrow: pip install 'cyqd[data]'") from error
        with ParquetFile(path) as table:
            for batch in table.iter_batches():
                yield from batch.to_pylist()
    else:
        with path.open(encoding="utf-8", newline="\n") as file:
            yield from (json.loads(line) for line in file if line.strip())


def _messages(row: dict[str, Any], chat: Mapping[str, str], number: int) -> list[dict[str, Any]]:
    """Return a row's dialogue as the training data's messages."""
    try:
        if "conversations" in chat:
            messages = [
                {"role": ROLES[turn["from"]], "content": turn["value"]}
                | ({"weight": 0} if turn.get("loss") is False and ROLES[turn["from"]] == "assistant" else {})
                for turn in row[chat["conversations"]]
            ]
        else:
            contents = {"user": row[chat["instruction"]], "assistant": row[chat["output"]]}
            messages = [{"role": role, "content": content} for role, content in contents.items()]
    except (KeyError, TypeError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"row {number}: {what}") from error
    for message in messages:
        if not isinstance(message["content"], str):
            raise ValueError(f"row {number}: expected texts, got {message['content']!r:.80}")
    return messages

"""Manifests: which public data sets there are, where they come from, under which licence, what is made of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from cyqd.evolution.storage import load_json

UNPACK = ("gz", "tar", "zip")
CHAT_KEYS = ({"instruction", "output"}, {"conversations"})


@dataclass(frozen=True)
class Source:
    """One file to download, and the file or folder that is made from it.

    Attributes:
        url: ``https://`` or ``http://`` address.
        path: what is made, relative to the output folder: a file, or a folder where an archive is unpacked.
        sha256: of the file as downloaded; None where none is published, then the first download's is recorded.
        bytes: size of the download; None if unknown.
        unpack: ``gz``, ``tar`` (also compressed) or ``zip``; None to keep the file as it is.
        member: folder of the archive whose files are wanted, without the archive's one top folder.
        chat: turns rows into chat dialogues. ``{"instruction": KEY, "output": KEY}`` names the keys of a question
            and its answer; ``{"conversations": KEY}`` that of a list in ShareGPT's form (``from``, ``value``, and
            ``loss``: false for what is not to be learned).
    """

    url: str
    path: str
    sha256: str | None = None
    bytes: int | None = None
    unpack: str | None = None
    member: str | None = None
    chat: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"https?://[^/\s]+/\S*[^/\s]", self.url):
            raise ValueError(f"url: expected the https address of a file, got {self.url!r}")
        if not PurePosixPath(self.path).name or leads_out(self.path):
            raise ValueError(f"path: expected a path inside the output folder, got {self.path!r}")
        if self.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256: expected 64 hexadecimal digits or null, got {self.sha256!r}")
        if self.bytes is not None and not (isinstance(self.bytes, int) and self.bytes > 0):
            raise ValueError(f"bytes: expected a positive number or null, got {self.bytes!r}")
        if self.unpack not in (None, *UNPACK):
            raise ValueError(f"unpack: expected one of {', '.join(UNPACK)} or null, got {self.unpack!r}")
        if (self.member is not None) != (self.unpack in ("tar", "zip")):
            raise ValueError("member: expected a folder of the archive if unpack is tar or zip, else null")
        if self.chat is not None and (set(self.chat) not in CHAT_KEYS or self.unpack is not None):
            raise ValueError(f"chat: expected the keys of one of {CHAT_KEYS}, and no unpack, got {self.chat!r}")

    @property
    def download(self) -> str:
        """Where the file as downloaded lies, beside what is made of it, relative to the output folder."""
        return str(PurePosixPath(self.path).with_name(self.url.split("?")[0].rsplit("/", 1)[1]))


@dataclass(frozen=True)
class Dataset:
    """A data set: what it is for, whose it is, and its files."""

    name: str
    purpose: str
    licence: str
    homepage: str
    files: tuple[Source, ...]
    out: Path  # where its manifest wants it

    def __post_init__(self) -> None:
        for key in ("name", "purpose", "licence", "homepage"):
            if not isinstance(getattr(self, key), str) or not getattr(self, key).strip():
                raise ValueError(f"{key}: expected a text, got {getattr(self, key)!r}")
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", self.name):
            raise ValueError(f"name: expected lower-case letters, digits, '.', '_' and '-', got {self.name!r}")
        if not self.files:
            raise ValueError("files: expected at least one")

    @property
    def size(self) -> str:
        """Size of the downloads, to read."""
        known = [source.bytes for source in self.files if source.bytes]
        text = f"{tqdm.format_sizeof(sum(known))}B" if known else "size unknown"
        return text if len(known) in (0, len(self.files)) else f"more than {text}"


def leads_out(path: str) -> bool:
    """Whether a path may lead out of the folder that it is taken from."""
    return PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts


def shipped_manifests() -> list[Path]:
    """Return the manifests that come with the domains of this package: their ``datasets.json``."""
    return sorted(Path(str(files("cyqd"))).glob("*/datasets.json"))


def read_manifests(paths: Sequence[Path]) -> dict[str, Dataset]:
    """Read data sets by name.

    A manifest is JSON: ``{"out": FOLDER, "datasets": [...]}`` with the fields of :class:`Dataset`, whose ``files``
    have those of :class:`Source`.

    Raises:
        FileNotFoundError: if a manifest is missing.
        ValueError: naming the manifest, the data set and the key that is wrong, or a name or file that comes twice.
    """
    datasets: dict[str, Dataset] = {}
    downloads: dict[str, str] = {}
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"manifest {path} not found")
        content = load_json(path)
        if not isinstance(content, dict) or set(content) != {"out", "datasets"}:
            raise ValueError(f'{path}: expected {{"out": FOLDER, "datasets": [...]}}')
        for number, entry in enumerate(content["datasets"], 1):
            where = f"{path}, data set {number}"
            try:
                sources = tuple(_build(Source, source) for source in entry.get("files", ()))
                dataset = _build(Dataset, {**entry, "files": sources, "out": Path(content["out"])})
            except (ValueError, TypeError, AttributeError) as error:
                raise ValueError(f"{where}: {error}") from error
            if dataset.name in datasets:
                raise ValueError(f"{where}: name {dataset.name} comes twice")
            for source in sources:  # a file that was downloaded by hand is known by its name
                if source.download in downloads:
                    raise ValueError(f"{where}: {downloads[source.download]} also downloads to {source.download}")
                downloads[source.download] = dataset.name
            datasets[dataset.name] = dataset
    return datasets


def _build(kind: type, entry: Any) -> Any:
    if not isinstance(entry, dict):
        raise ValueError(f"expected an object with the keys of a {kind.__name__.lower()}, got {entry!r:.80}")
    unknown = set(entry) - {field.name for field in fields(kind)}
    if unknown:
        raise ValueError(f"unknown key {sorted(unknown)[0]!r}; known: {[field.name for field in fields(kind)]}")
    return kind(**entry)

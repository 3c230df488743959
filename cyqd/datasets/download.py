"""Downloads that go on where they broke off, and are checked."""

from __future__ import annotations

import hashlib
import http.client
import os
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

import cyqd
from cyqd.datasets.manifest import Source

ATTEMPTS = 3  # in a row, without a single byte
PAUSE = 0.5  # seconds before the second attempt; doubled before each further one
TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 18  # bytes

_NETWORK = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


class DownloadError(OSError):
    """A file could not be had, or is not the file that was expected."""


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def fetch(source: Source, path: Path) -> str:
    """Download a file to ``path``, unless it lies there, and return its SHA-256.

    Raises:
        DownloadError: if the address cannot be reached, naming it and where the file may be put by hand; or if the
            checksum is wrong: then a download is not kept, and a file that lay there is left alone.
    """
    part = path.with_name(f"{path.name}.part")
    by_hand = path.exists()
    if not by_hand:
        path.parent.mkdir(parents=True, exist_ok=True)
        if source.sha256 is None:  # nothing would show that an old part is of another version
            part.unlink(missing_ok=True)
        _download(source.url, part, path)
    digest = sha256_of(path if by_hand else part)
    if source.sha256 not in (None, digest):
        if not by_hand:
            part.unlink()
        raise DownloadError(
            f"{path if by_hand else source.url}: wrong checksum: expected sha256 {source.sha256}, got {digest}; "
            + ("move the file away, or replace it" if by_hand else "nothing was kept; try again")
        )
    if not by_hand:
        os.replace(part, path)
    return digest


def _download(url: str, part: Path, path: Path) -> None:
    """Download to ``part``; what it holds already is not asked for again."""
    failures = 0
    while True:
        held = _size(part)
        try:
            return _request(url, part)
        except _NETWORK as error:  # and not a full disk, for one
            code = None
            if isinstance(error, urllib.error.HTTPError):
                code = error.code
                error.close()
            if code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                part.unlink(missing_ok=True)  # not a part of that file
            failures = 1 if _size(part) > held else failures + 1
            refused = code is not None and 400 <= code < 500 and code not in (408, 416, 429)
            if refused or failures >= ATTEMPTS:
                raise DownloadError(
                    f"cannot download {url}: {error}; if you can get the file another way, put it at {path} "
                    "and give the same command again"
                ) from error
        time.sleep(PAUSE * 2 ** (failures - 1))


def _request(url: str, part: Path) -> None:
    held = _size(part)
    headers = {"User-Agent": f"cyqd/{cyqd.__version__}"}
    if held:
        headers["Range"] = f"bytes={held}-"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            held = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else held + int(length)
        with (
            part.open("ab" if held else "wb") as file,
            tqdm(desc=part.stem, initial=held, total=total, unit="B", unit_scale=True, disable=None) as bar,
        ):
            while block := response.read(CHUNK):
                bar.update(file.write(block))
    if total is not None and _size(part) < total:
        raise ConnectionError(f"the connection broke after {_size(part)} of {total} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0

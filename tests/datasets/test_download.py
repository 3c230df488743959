"""Fetching: once, checked, resumed, by hand; nothing is lost or overwritten."""

from __future__ import annotations

import gzip
import hashlib
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from cyqd.datasets import DownloadError, run
from tests.datasets.conftest import Site, files, write_manifest

TEXT = "".join(f"line {i}\n" for i in range(1000)).encode()


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def test_a_file_is_fetched_once_and_recorded(
    get: Callable[..., Path], site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    out = get(TEXT)
    assert (out / "a.txt").read_bytes() == TEXT
    said = capsys.readouterr().out
    for part in ("CC0", f"{site.url}/a.txt", "none published", sha256(TEXT), "https://example.org/mine"):
        assert part in said
    record = json.loads((out / "mine.source.json").read_text())
    assert record["downloads"] == {f"{site.url}/a.txt": sha256(TEXT)}
    assert record["files"] == {"a.txt": sha256(TEXT)}
    get(TEXT)
    assert len(site.asked) == 1
    assert "already there" in capsys.readouterr().out
    assert files(out) == {"a.txt", "mine.source.json"}


def test_a_dry_run_asks_for_nothing(
    get: Callable[..., Path], site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    out = get(TEXT, dry_run=True)
    assert "would be downloaded" in capsys.readouterr().out
    assert not site.asked
    assert not out.exists()


def test_a_broken_transfer_goes_on_where_it_stopped(get: Callable[..., Path], site: Site) -> None:
    site.broken = 2
    site.files["/cdn/1"] = TEXT
    site.moved["/a.txt"] = "/cdn/1"  # as hubs do
    out = get(None, sha256=sha256(TEXT))
    assert (out / "a.txt").read_bytes() == TEXT
    half = len(TEXT) // 2
    three_quarters = half + (len(TEXT) - half) // 2
    ranges = [asked for path, asked in site.asked if path == "/cdn/1"]
    assert ranges == [None, f"bytes={half}-", f"bytes={three_quarters}-"]


def test_a_part_of_an_earlier_run_is_used_if_a_checksum_guards_it(get: Callable[..., Path], site: Site) -> None:
    out = get(TEXT, sha256=sha256(TEXT))
    for held, ranges in ((TEXT[:100], ["bytes=100-"]), (TEXT + b"more", [f"bytes={len(TEXT) + 4}-", None])):
        (out / "a.txt").unlink()
        (out / "a.txt.part").write_bytes(held)
        site.asked.clear()
        get(TEXT, sha256=sha256(TEXT))
        assert (out / "a.txt").read_bytes() == TEXT
        assert [asked for _, asked in site.asked] == ranges
    (out / "a.txt").unlink()
    (out / "a.txt.part").write_bytes(b"something else")
    site.asked.clear()
    get(TEXT)
    assert [asked for _, asked in site.asked] == [None]
    assert (out / "a.txt").read_bytes() == TEXT


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(get: Callable[..., Path], site: Site) -> None:
    site.refused = 1
    assert (get(TEXT) / "a.txt").read_bytes() == TEXT
    site.asked.clear()
    with pytest.raises(DownloadError, match="404"):
        get(None, "absent.txt")
    assert len(site.asked) == 1


def test_a_wrong_checksum_keeps_nothing(get: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=f"expected sha256 {'0' * 64}, got {sha256(TEXT)}"):
        get(TEXT, sha256="0" * 64)
    assert files(tmp_path / "out") == set()


def test_offline_says_where_to_put_the_file_and_takes_it_from_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    url, out = f"http://127.0.0.1:{port}/pub/b.txt.gz", tmp_path / "out"
    source = {"url": url, "path": "sub/a.txt", "unpack": "gz", "sha256": sha256(gzip.compress(TEXT, mtime=0))}
    manifest = write_manifest(tmp_path / "mine.json", files=[source])
    with pytest.raises(DownloadError) as stop:
        run(["mine"], out=out, manifest=manifest)
    assert url in str(stop.value)
    assert str(out / "sub/b.txt.gz") in str(stop.value)
    (out / "sub/b.txt.gz").write_bytes(b"another file")
    with pytest.raises(DownloadError, match="wrong checksum"):
        run(["mine"], out=out, manifest=manifest)
    assert (out / "sub/b.txt.gz").read_bytes() == b"another file"  # the user's
    (out / "sub/b.txt.gz").write_bytes(gzip.compress(TEXT, mtime=0))
    run(["mine"], out=out, manifest=manifest)
    assert (out / "sub/a.txt").read_bytes() == TEXT


def test_nothing_is_overwritten_by_other_content(get: Callable[..., Path], site: Site) -> None:
    out = get(gzip.compress(TEXT), "a.gz", path="a.txt", unpack="gz")
    (out / "a.txt").write_bytes(b"edited")
    with pytest.raises(DownloadError, match="another file is there"):
        get(None, "a.gz", path="a.txt", unpack="gz")
    assert (out / "a.txt").read_bytes() == b"edited"
    (out / "a.txt").unlink()
    (out / "a.gz").unlink()
    with pytest.raises(DownloadError, match="it was another before"):  # the source changed
        get(gzip.compress(b"new"), "a.gz", path="a.txt", unpack="gz")

"""A real HTTP server on this machine; no test leaves it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cyqd.datasets import run


class Site:
    """Serves ``files``, ranges included; ``refused`` replies are errors 503, then ``broken`` ones stop half-way."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.moved: dict[str, str] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.broken = self.refused = 0
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append((self.path, self.headers["Range"]))
                if self.path in site.moved:
                    self.send_response(302)
                    self.send_header("Location", site.moved[self.path])
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                if site.refused:
                    site.refused -= 1
                    return self.send_error(503)
                if self.path not in site.files:
                    return self.send_error(404)
                body, start = site.files[self.path], 0
                if self.headers["Range"]:
                    start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
                    if start >= len(body):
                        return self.send_error(416)
                rest = body[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(rest)))
                self.end_headers()
                if site.broken:
                    site.broken -= 1
                    rest = rest[: len(rest) // 2]
                self.wfile.write(rest)
                return None

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    site = Site()
    thread = threading.Thread(target=site.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield site
    site.server.shutdown()
    thread.join()
    site.server.server_close()


@pytest.fixture
def get(site: Site, tmp_path: Path) -> Callable[..., Path]:
    """Serve a body as NAME, and download it with a manifest of one data set; return the output folder."""

    def get(body: bytes | None, name: str = "a.txt", *, dry_run: bool = False, **source: object) -> Path:
        if body is not None:
            site.files[f"/{name}"] = body
        file = {"url": f"{site.url}/{name}", "path": name, **source}
        manifest = write_manifest(tmp_path / "mine.json", files=[file])
        run(["mine"], out=tmp_path / "out", manifest=manifest, dry_run=dry_run)
        return tmp_path / "out"

    return get


def write_manifest(path: Path, **changes: object) -> Path:
    entry = {"name": "mine", "purpose": "tests", "licence": "CC0", "homepage": "https://example.org/mine"}
    entry["files"] = [{"url": "https://example.org/a.txt", "path": "a.txt"}]
    path.write_text(json.dumps({"out": "data/mine", "datasets": [{**entry, **changes}]}))
    return path


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}

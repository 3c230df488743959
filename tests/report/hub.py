"""A server that answers huggingface_hub's own client as the hub does, as far as a push needs it."""

from __future__ import annotations

import base64
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Hub:
    """What the server was told: the repositories' files by name, and the names of new ones and whether private."""

    user: str
    refused: tuple[str, ...] = ()
    token: str = "hf_valid"
    address: str = ""
    created: list[tuple[str, bool]] = field(default_factory=list)
    large: dict[str, bytes] = field(default_factory=dict)
    repositories: dict[str, dict[str, bytes]] = field(default_factory=lambda: defaultdict(dict))

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Return the status and the JSON that answer a request."""
        if (method, path) == ("GET", "/api/whoami-v2"):
            return 200, {"type": "user", "name": self.user, "orgs": [{"name": "laboratory"}]}
        if (method, path) == ("POST", "/api/repos/create"):
            asked = json.loads(body)
            name = f"{asked.get('organization', self.user)}/{asked['name']}"
            private = asked.get("private", asked.get("visibility") == "private")  # as the client's versions say it
            self.created.append((name, private))
            return 200, {"url": f"{self.address}/{name}"}
        if (method, path) == ("POST", "/api/validate-yaml"):
            return 200, {}
        if method == "PUT":
            self.large[path.rpartition("/")[2]] = body
            return 200, {}
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**wanted, "actions": {"upload": {"href": f"{self.address}/upload/{wanted['oid']}"}}}
                for wanted in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        name = "/".join(path.split("/")[3:5])
        if path == f"/api/models/{name}/preupload/main":
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith("safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return 200, {"files": modes}
        if path == f"/api/models/{name}/commit/main":
            if name in self.refused:
                return 403, {"error": "storage is full"}
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.repositories[name][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.repositories[name][value["path"]] = self.large[value["oid"]]
            return 200, {"commitUrl": f"{self.address}/{name}/commit/1", "commitOid": "1"}
        return 404, {"error": f"{method} {path} is unknown here"}


@contextmanager
def serve_hub(user: str, *, refused: tuple[str, ...] = ()) -> Iterator[Hub]:
    """Serve a hub on this machine.

    Args:
        user: whose token ``hub.token`` is.
        refused: repositories to which no commit is let through.
    """
    hub = Hub(user, refused)

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            valid = self.path.startswith("/upload/") or self.headers.get("Authorization") == f"Bearer {hub.token}"
            path = self.path.partition("?")[0]
            status, content = hub.answer(self.command, path, body) if valid else (401, {"error": "who are you?"})
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = respond

        def log_message(self, format: str, *args: object) -> None:
            """Be quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()

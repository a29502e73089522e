"""A Hugging Face hub on the loopback, for the real client: models in memory, and the answers of a hub that refuses."""

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@dataclass
class Repo:
    """One model: its commits, the files of each, and which commit a branch names."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def push(self, folder: Path, branch: str = "main", **more: bytes) -> str:
        """A new commit of the files of a folder; returns its name."""
        files = {file.name: file.read_bytes() for file in sorted(folder.iterdir())} | more
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[commit], self.branches[branch] = files, commit
        return commit


@dataclass
class Hub:
    url: str
    repos: dict[str, Repo] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """``GET /acme/tiny/resolve/<commit>/model.safetensors bytes=0-``, in order."""
    cut_after: int | None = None
    """Bytes of a weight file after which its connection is closed, once."""

    def of(self, path: str) -> list[str]:
        """Requests whose path holds ``path``."""
        return [line for line in self.asked if path in line]


@contextmanager
def serving():
    """A hub that listens on a free port of 127.0.0.1."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        """Nothing on standard error."""

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _answer(self, body: bool) -> None:
        hub, path = self.server.hub, unquote(urlsplit(self.path).path)
        hub.asked.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        words = path.strip("/").split("/")
        api = words[0] == "api"
        words = words[2:] if api else words
        name, words = "/".join(words[:2]), words[2:]
        repo = hub.repos.get(name)
        token = self.headers.get("Authorization")
        if repo is None or (repo.private and not token):
            return self._refuse(404 if token else 401, "RepoNotFound")
        if api and not words:
            words = ["revision", "main"]
        wanted = words[1]
        commit = repo.branches.get(wanted, wanted)
        if commit not in repo.commits:
            return self._refuse(404, "RevisionNotFound")
        files = repo.commits[commit]
        if api:
            content = self._api(name, words[0], commit, files)
            return self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"}, body)
        if repo.gated and not token:
            return self._refuse(403, "GatedRepo")
        file = "/".join(words[2:])
        if file not in files:
            return self._refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        self._file(hub, files[file], file, commit, body)

    def _api(self, name: str, what: str, commit: str, files: dict[str, bytes]):
        if what == "tree":
            return [
                {"type": "file", "path": path, "size": len(data), "oid": _etag(data)} for path, data in files.items()
            ]
        return {"_id": "0", "id": name, "sha": commit, "private": False, "tags": [],
                "siblings": [{"rfilename": path} for path in files]}  # fmt: skip

    def _file(self, hub: Hub, data: bytes, file: str, commit: str, body: bool) -> None:
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        headers = {"ETag": f'"{_etag(data)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        cut = hub.cut_after if body and file.endswith(".safetensors") else None
        if cut is None:
            return self._send(206 if start else 200, data[start:], headers, body)
        hub.cut_after = None
        self._send(200, data, headers, False)
        self.wfile.write(data[:cut])
        self.wfile.flush()
        self.close_connection = True

    def _refuse(self, status: int, code: str, headers=None) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code} | (headers or {}), True)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()

"""A fake Hugging Face Hub with one repository on localhost. It can simulate network and authorization errors.

It answers the requests of a snapshot download by `huggingface_hub`: the commit of a revision, the file tree, and for
each file a HEAD (entity tag, commit, size) and a GET with optional range. Large files have the headers of LFS.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


@dataclass(frozen=True)
class Request:
    """A received request for a file."""

    method: str
    file: str
    range: str | None


@dataclass
class FakeHub:
    """What the hub serves, which errors it simulates, and the requests it received."""

    root: Path
    repo_id: str
    url: str = ""
    gated: bool = False
    bad_token: bool = False
    drop_once: set[str] = field(default_factory=set)
    """Files whose next download is dropped halfway, once each."""
    broken: set[str] = field(default_factory=set)
    """Files whose downloads answer 500."""
    requests: list[Request] = field(default_factory=list)

    def downloads(self, file: str) -> list[Request]:
        """The received GET requests for a file."""
        return [request for request in self.requests if request.method == "GET" and request.file == file]


@contextmanager
def fake_hub(root: Path, repo_id: str = "tiny/qwen3-embedding") -> Iterator[FakeHub]:
    """Serve a directory as a model repository until the block ends."""
    hub = FakeHub(root, repo_id)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[FakeHub]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the interface
        """Log nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        repo = self.hub.repo_id
        if self.hub.bad_token:
            self._send_error(HTTPStatus.UNAUTHORIZED, "", "Invalid credentials in Authorization header")
        elif path in {
            f"/api/models/{repo}",
            f"/api/models/{repo}/revision/main",
            f"/api/models/{repo}/revision/{COMMIT}",
        }:
            self._send_json({"id": repo, "modelId": repo, "sha": COMMIT, "private": False, "tags": [], "downloads": 0})
        elif path.startswith(f"/api/models/{repo}/revision/"):
            self._send_error(HTTPStatus.NOT_FOUND, "RevisionNotFound")
        elif path == f"/api/models/{repo}/tree/{COMMIT}":
            self._send_json([_tree_entry(self.hub.root, file) for file in _files(self.hub.root)])
        elif path.startswith(f"/{repo}/resolve/{COMMIT}/"):
            self._send_file(path.removeprefix(f"/{repo}/resolve/{COMMIT}/"))
        else:
            self._send_error(HTTPStatus.UNAUTHORIZED, "RepoNotFound")  # like the real hub, for unknown repositories

    def _send_file(self, name: str) -> None:
        self.hub.requests.append(Request(self.command, name, self.headers.get("Range")))
        if self.hub.gated:
            self._send_error(HTTPStatus.FORBIDDEN, "GatedRepo")
            return
        if name in self.hub.broken and self.command == "GET":
            self._send_error(HTTPStatus.INTERNAL_SERVER_ERROR, "")
            return
        content = (self.hub.root / name).read_bytes()
        entry = _tree_entry(self.hub.root, name)
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(HTTPStatus.PARTIAL_CONTENT if start else HTTPStatus.OK)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{entry["oid"]}"')
        if "lfs" in entry:
            self.send_header("X-Linked-Etag", f'"{entry["lfs"]["oid"]}"')
            self.send_header("X-Linked-Size", str(len(content)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "GET":
            if name in self.hub.drop_once:
                self.hub.drop_once.remove(name)
                self.wfile.write(content[start : len(content) // 2])
                self.close_connection = True
            else:
                self.wfile.write(content[start:])

    def _send_json(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_error(self, status: HTTPStatus, code: str, message: str = "") -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _files(root: Path) -> list[str]:
    return sorted(file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file())


def _tree_entry(root: Path, name: str) -> dict[str, Any]:
    content = (root / name).read_bytes()
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(content)}
    entry["oid"] = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    if name.endswith(".safetensors"):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry

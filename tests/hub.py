"""A hub of the tests' own: the paths of Hugging Face's API over real connections, with every trouble that one
can have. Large files are answered with a redirect to a storage, which is another server."""

import hashlib
import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".parquet", ".csv", ".zip", ".bin")
CHUNK = 16 * 1024


@dataclass
class Hub:
    """`files` by repository, commit and path; `refs` by repository and name. What is asked for and what goes
    out is kept; the other fields make trouble, by path."""

    url: str = ""
    storage: str = ""
    files: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=lambda: defaultdict(dict))
    refs: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)

    token: str | None = None  # needed for everything
    page: int = 1000  # entries of one page of a tree
    answers: list[tuple[str, int, dict[str, str]]] = field(default_factory=list)  # once, by a path's end
    breaks: dict[str, list[int]] = field(default_factory=dict)  # bytes after which a connection ends, once
    holds: dict[str, int] = field(default_factory=dict)  # bytes after which nothing more comes
    release: threading.Event = field(default_factory=threading.Event)
    other: dict[str, bytes] = field(default_factory=dict)  # content instead of the promised one
    sizes: dict[str, int] = field(default_factory=dict)  # that the tree tells
    leads: dict[str, str] = field(default_factory=dict)  # a redirect to somewhere else
    linked: dict[str, str] = field(default_factory=dict)  # the ETag that a redirect tells
    whole: bool = False  # ranges are not heeded
    pace_s: float = 0.0  # between two chunks

    def put(self, repository: str, files: dict[str, bytes], ref: str = "main") -> str:
        """A commit; its id."""
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.files[repository][commit], self.refs[repository][ref] = dict(files), commit
        return commit

    def asked_for(self, end: str) -> list[dict[str, str]]:
        """The headers of the requests for a path with this end, at the storage if it lies there."""
        return [headers for path, headers in self.asked if path.endswith(end)]


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    handlers = [type(kind.__name__, (kind,), {"hub": hub}) for kind in (_Api, _Storage)]
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for handler in handlers]
    hub.url, hub.storage = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    for server in servers:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield hub
    finally:
        hub.release.set()
        for server in servers:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.hub.asked.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
        for place, (end, status, headers) in enumerate(self.hub.answers):
            if urlsplit(self.path).path.endswith(end):
                del self.hub.answers[place]
                return self._send(status, b"{}", headers)
        return self._answer(unquote(urlsplit(self.path).path))

    def _answer(self, path: str) -> None:
        raise NotImplementedError

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _json(self, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _file(self, path: str, content: bytes) -> None:
        """As much of it as is asked for, and as the troubles let through."""
        hub, name = self.hub, path.rpartition("/")[2]
        content = hub.other.get(name, content)
        etag, asked = f'"{hashlib.md5(content).hexdigest()}"', self.headers.get("Range")
        unchanged = self.headers.get("If-Range", etag) == etag
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and unchanged and not hub.whole else 0
        headers = {"ETag": etag, "Content-Length": str(len(content) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send_response(206 if start else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        end, breaks = len(content), hub.breaks.get(name)
        if breaks:
            end = min(end, start + breaks.pop(0))
        if name in hub.holds:
            end = min(end, max(hub.holds[name], start))
        for place in range(start, end, CHUNK):
            piece = content[place : min(place + CHUNK, end)]
            self.wfile.write(piece)
            hub.served[name] += len(piece)
            time.sleep(hub.pace_s)
        if name in hub.holds:
            self.wfile.flush()
            hub.release.wait(60)
        self.close_connection = end < len(content) or name in hub.holds

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Api(_Handler):
    def _answer(self, path: str) -> None:
        hub, parts = self.hub, path.strip("/").split("/")
        if hub.token is not None and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self._send(401, b"{}", {"X-Error-Code": "GatedRepo"})
        if parts[0] == "api":
            repository, what, revision = "/".join(parts[2:4]), parts[4], "/".join(parts[5:])
            if repository not in hub.files:
                return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            commit = hub.refs[repository].get(revision, revision)
            if commit not in hub.files[repository]:
                return self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            if what == "revision":
                return self._json({"id": repository, "sha": commit})
            return self._tree(repository, commit)
        parts = parts[1:] if parts[0] == "datasets" else parts
        repository, commit, name = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        content = hub.files[repository][commit][name]
        if name in hub.leads:
            return self._send(302, b"", {"Location": hub.leads[name]})
        if not name.endswith(LARGE):
            return self._file(path, content)
        linked = hub.linked.get(name, hashlib.sha256(content).hexdigest())
        location = f"{hub.storage}/{repository}/{commit}/{name}?signature=abc"
        return self._send(302, b"", {"Location": location, "X-Linked-Etag": f'"{linked}"'})

    def _tree(self, repository: str, commit: str) -> None:
        files = sorted(self.hub.files[repository][commit].items())
        query = parse_qs(urlsplit(self.path).query)
        start = int(query.get("cursor", ["0"])[0])
        following = {}
        if start + self.hub.page < len(files):
            path = urlsplit(self.path).path
            cursor = start + self.hub.page
            following = {"Link": f'<{self.hub.url}{path}?recursive=true&cursor={cursor}>; rel="next"'}
        page = files[start : start + self.hub.page]
        folders = [{"type": "directory", "path": "data", "oid": "0" * 40, "size": 0}]
        self._json(folders + [self._entry(path, content) for path, content in page], following)

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        size = self.hub.sizes.get(path, len(content))
        pointer = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        told: dict[str, Any] = {"type": "file", "path": path, "oid": pointer, "size": size}
        if path.endswith(LARGE):
            told["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 134}
        return told


class _Storage(_Handler):
    def _answer(self, path: str) -> None:
        organization, name, commit, *rest = path.strip("/").split("/")
        content = self.hub.files[f"{organization}/{name}"][commit]["/".join(rest)]
        self._file(path, content)

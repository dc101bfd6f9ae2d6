"""Servers of this machine from which artifacts are pulled: a web server that can break off, and a small hub
that speaks what huggingface_hub's client asks for."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answered(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def sent(self, data: bytes, **headers: str) -> None:
        """A file, or the part of it that a Range asks for."""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match is None:
            self.answered(200, data, **headers)
            return
        start = int(match[1])
        end = int(match[2]) if match[2] else len(data) - 1
        self.answered(206, data[start : end + 1], Content_Range=f"bytes {start}-{end}/{len(data)}", **headers)


@dataclass
class Web:
    """A web server over a folder."""

    folder: Path
    url: str = ""
    ranges: bool = True
    login: str | None = None
    """`name:password` that each request must have."""
    most: int | None = None
    """Bytes of a body after which the connection is cut; None: never."""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """(path, Range) of every request."""
    sent: int = 0
    """Bytes of all bodies so far."""
    watch: Callable[[int], object] = lambda sent: None
    """Called with them before each piece."""


@contextmanager
def web(folder: Path, **options: Any) -> Iterator[Web]:
    place = Web(folder, **options)

    class Handler(_Quiet):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range") if place.ranges else None
            place.requests.append((self.path.lstrip("/"), self.headers.get("Range")))
            sent = self.headers.get("Authorization", "").removeprefix("Basic ")
            if place.login is not None and base64.b64decode(sent).decode() != place.login:
                self.answered(401)
                return
            path = place.folder / self.path.lstrip("/")
            if not path.is_file():
                self.answered(404)
                return
            data = path.read_bytes()
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            body = data[start:][: place.most]
            for place_in_body in range(0, len(body), 8192):
                place.watch(place.sent)
                piece = body[place_in_body : place_in_body + 8192]
                place.sent += len(piece)
                self.wfile.write(piece)
            if place.most is not None and len(data) - start > place.most:
                self.close_connection = True

    with _serving(Handler) as port:
        place.url = f"http://127.0.0.1:{port}"
        yield place


@dataclass
class Hub:
    """Repositories of models: owner/name -> its commits, each a dict of files; the last is `main`."""

    url: str = ""
    repositories: dict[str, list[dict[str, bytes]]] = field(default_factory=dict)
    tags: dict[str, int] = field(default_factory=dict)
    """Tag of every repository -> number of its commit."""
    uploads: dict[str, bytes] = field(default_factory=dict)
    """sha256 -> content, before a commit names it."""
    served: list[str] = field(default_factory=list)
    """`owner/name/file` of every download."""

    def commit(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.repositories.get(repository, [])
        for number, files in enumerate(commits):
            sha = self.sha(repository, number)
            is_last = revision == "main" and number == len(commits) - 1
            if revision == sha or is_last or self.tags.get(revision) == number:
                return sha, files
        return None

    @staticmethod
    def sha(repository: str, number: int) -> str:
        return hashlib.sha1(f"{repository} {number}".encode()).hexdigest()


@contextmanager
def hub() -> Iterator[Hub]:
    place = Hub()

    class Handler(_Quiet):
        def do_HEAD(self) -> None:
            self._resolved()

        def do_GET(self) -> None:
            match = re.fullmatch(r"/api/models/([^/]+/[^/?]+)(?:/revision/([^/?]+))?(\?.*)?", self.path)
            if match is None:
                self._resolved()
                return
            commit = place.commit(match[1], match[2] or "main")
            if commit is None:
                code = "RepoNotFound" if match[1] not in place.repositories else "RevisionNotFound"
                self.answered(404, X_Error_Code=code)
                return
            sha, files = commit
            siblings = [{"rfilename": name, "size": len(data)} for name, data in files.items()]
            self._json({"id": match[1], "sha": sha, "siblings": siblings, "private": False})

        def _resolved(self) -> None:
            match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)(\?.*)?", self.path)
            commit = None if match is None else place.commit(match[1], match[2])
            if match is None or commit is None:
                self.answered(404, X_Error_Code="RepoNotFound")
                return
            sha, files = commit
            if match[3] not in files:
                self.answered(404, X_Error_Code="EntryNotFound")
                return
            data = files[match[3]]
            if self.command == "GET":
                place.served.append(f"{match[1]}/{match[3]}")
            etag = f'"{hashlib.sha256(data).hexdigest()}"'
            self.sent(data, ETag=etag, X_Repo_Commit=sha, Accept_Ranges="bytes")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path == "/api/repos/create":
                fields = json.loads(body)
                name = f"{fields.get('organization') or 'me'}/{fields['name']}"
                place.repositories.setdefault(name, [{".gitattributes": b""}])
                self._json({"url": f"{place.url}/{name}", "id": name})
            elif match := re.fullmatch(r"/api/models/(.+)/preupload/(.+)", self.path):
                files = json.loads(body)["files"]
                large = [file["size"] > 1000 for file in files]
                self._json(
                    {
                        "files": [
                            {
                                "path": file["path"],
                                "uploadMode": "lfs" if big else "regular",
                                "shouldIgnore": False,
                            }
                            for file, big in zip(files, large, strict=True)
                        ]
                    }
                )
            elif self.path.endswith("/info/lfs/objects/batch"):
                objects = [
                    {
                        "oid": entry["oid"],
                        "size": entry["size"],
                        "actions": {"upload": {"href": f"{place.url}/upload/{entry['oid']}"}},
                    }
                    for entry in json.loads(body)["objects"]
                ]
                self._json({"transfer": "basic", "objects": objects})
            elif match := re.fullmatch(r"/api/models/(.+)/commit/(.+)", self.path):
                self._committed(match[1], [json.loads(line) for line in body.splitlines()])
            else:
                self.answered(404)

        def do_PUT(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            place.uploads[self.path.rpartition("/")[2]] = data
            self.answered(200)

        def _committed(self, repository: str, lines: list[dict[str, Any]]) -> None:
            import base64

            commits = place.repositories[repository]
            files = dict(commits[-1]) if commits else {}
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = place.uploads[value["oid"]]
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            commits.append(files)
            sha = place.sha(repository, len(commits) - 1)
            self._json({"commitUrl": f"{place.url}/{repository}/commit/{sha}", "commitOid": sha})

        def _json(self, value: Any) -> None:
            self.answered(200, json.dumps(value).encode(), Content_Type="application/json")

    with _serving(Handler) as port:
        place.url = f"http://127.0.0.1:{port}"
        yield place


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

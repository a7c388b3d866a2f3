"""The Hugging Face Hub's resolve protocol on loopback, for the real client to fetch from.

Two origins are served, as on the Hub: the Hub itself, which answers with metadata and small files, and
a CDN, which holds the bytes of LFS files. They must differ, and for some clients by more than the port: the
client follows a redirect within one host while asking for metadata, and would miss the headers of the redirect.

About Xet: the Hub offers it with an `X-Xet-Hash` header, and a client that has `hf_xet` then fetches
through it. This server never sends that header, so every client downloads over plain HTTP, whether
`HF_HUB_DISABLE_XET` is set or not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

RESOLVE = re.compile(r"/(?P<repo_id>.+?)/resolve/(?P<revision>[^/]+)/(?P<filename>.+)")
CDN = re.compile(r"/cdn/(?P<repo_id>.+)/(?P<sha256>[0-9a-f]{64})/(?P<filename>.+)")
MODEL_INFO = re.compile(r"/api/models/(?P<repo_id>.+?)(/revision/(?P<revision>[^/]+))?")
RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class Request(NamedTuple):
    method: str
    path: str
    headers: Mapping[str, str]  # looked up without regard to case


@dataclass(frozen=True)
class File:
    data: bytes
    lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def blob_id(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()


@dataclass
class Fault:
    match: str
    times: int | None
    status: int | None
    error_code: str | None
    cut_after: int | None
    wrong_bytes: bytes | None
    retry_after: int | None

    @property
    def headers(self) -> dict[str, str]:
        named = {"X-Error-Code": self.error_code, "Retry-After": self.retry_after}
        return {name: str(value) for name, value in named.items() if value is not None}


class NotFound(Exception):
    def __init__(self, code: str, **headers: str) -> None:
        self.code, self.headers = code, headers


class HubServer:
    """A Hub with the repositories that a test puts into it.

    `endpoint` is its address, reserved from the beginning and served within a `with` block. `requests` lists the
    requests since the start or the last `clear()`.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._repos: dict[str, dict[str, dict[str, File]]] = {}  # repository -> commit -> file name -> file
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        hub, cdn = self._servers = [_Server(("127.0.0.1", 0), handler, bind_and_activate=False) for _ in range(2)]
        for server in self._servers:
            server.server_bind()
        self.endpoint, self.cdn = f"http://127.0.0.1:{hub.server_port}", f"http://localhost:{cdn.server_port}"

    def __enter__(self) -> HubServer:
        for server in self._servers:
            server.server_activate()
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def add(self, repo_id: str, filename: str, data: bytes, *, revision: str | None = None, lfs: bool = True) -> str:
        """Commits a file beside those of the last commit, or into the commit `revision`; `main` then points there."""
        commits = self._repos.setdefault(repo_id, {})
        parent, files = next(reversed(commits.items()), ("", {}))
        file = File(data, lfs)
        commit = revision or hashlib.sha1(f"{parent} {repo_id} {filename} {file.sha256}".encode()).hexdigest()
        commits[commit] = {**commits.pop(commit, files), filename: file}
        return commit

    def fail(
        self,
        status: int | None = None,
        times: int | None = None,
        error_code: str | None = None,
        cut_after: int | None = None,
        wrong_bytes: bytes | None = None,
        retry_after: int | None = None,
        match: str = "",
    ) -> None:
        """Spoils the next `times` answers (None: all) to paths that contain `match`, until `heal()`.

        Either the answer is `status`, with `error_code` and `retry_after` in its headers, or a file's body is cut after
        `cut_after` bytes, or is `wrong_bytes` under the headers of the right ones. Answers without a
        file's bytes, such as those to HEAD, do not use up a fault of the body.
        """
        if status is None and cut_after is None and wrong_bytes is None:
            raise ValueError("a fault needs a status, cut_after or wrong_bytes")
        self._faults.append(Fault(match, times, status, error_code, cut_after, wrong_bytes, retry_after))

    def heal(self) -> None:
        self._faults = []

    def clear(self) -> None:
        self.requests = []

    def take_fault(self, path: str, of_body: bool) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.match in path and fault.times != 0 and (fault.status is None) == of_body:
                    fault.times = fault.times and fault.times - 1
                    return fault
        return None

    def commit(self, repo_id: str, revision: str | None = None) -> tuple[str, dict[str, File]]:
        if repo_id not in self._repos:
            raise NotFound("RepoNotFound")
        commits = self._repos[repo_id]
        commit = next(reversed(commits)) if revision in (None, "main") else revision
        if commit not in commits:
            raise NotFound("RevisionNotFound")
        return commit, commits[commit]

    def blob(self, repo_id: str, sha256: str) -> File:
        for files in self._repos.get(repo_id, {}).values():
            for file in files.values():
                if file.sha256 == sha256:
                    return file
        raise NotFound("EntryNotFound")


class _Server(ThreadingHTTPServer):
    allow_reuse_address = False  # else another process may be given the address before this one listens there


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: HubServer

    def do_GET(self) -> None:
        self.hub.requests.append(Request(self.command, self.path, self.headers))
        if fault := self.hub.take_fault(self.path, of_body=False):
            return self._send(fault.status, fault.headers)
        if self.path == "/api/whoami-v2":  # any token is a valid one; spoil the answer for one that is not
            return self._send(200 if self.headers.get("Authorization") else 401, {}, b"{}")
        url = urlsplit(self.path)
        try:
            for pattern, answer in ((MODEL_INFO, self._model_info), (CDN, self._blob), (RESOLVE, self._resolve)):
                if found := pattern.fullmatch(url.path):
                    return answer(**{name: value and unquote(value) for name, value in found.groupdict().items()})
        except NotFound as error:
            return self._send(404, {"X-Error-Code": error.code, **error.headers})
        self._send(404)

    do_HEAD = do_GET

    def _model_info(self, repo_id: str, revision: str | None) -> None:
        commit, files = self.hub.commit(repo_id, revision)
        siblings = [{"rfilename": name} for name in files]
        if parse_qs(urlsplit(self.path).query).get("blobs") == ["true"]:
            for sibling, file in zip(siblings, files.values(), strict=True):
                sibling |= {"size": len(file.data), "blobId": file.blob_id}
                if file.lfs:
                    sibling["lfs"] = {"sha256": file.sha256, "size": len(file.data), "pointerSize": 134}
        body = json.dumps({"id": repo_id, "sha": commit, "private": False, "gated": False, "siblings": siblings})
        self._send(200, {"Content-Type": "application/json"}, body.encode())

    def _resolve(self, repo_id: str, revision: str, filename: str) -> None:
        commit, files = self.hub.commit(repo_id, revision)
        if filename not in files:
            raise NotFound("EntryNotFound", **{"X-Repo-Commit": commit})
        file = files[filename]
        if not file.lfs:
            return self._send_file(file, {"X-Repo-Commit": commit, "ETag": f'"{file.blob_id}"'})
        self._send(
            302,
            {
                "Location": f"{self.hub.cdn}/cdn/{repo_id}/{file.sha256}/{quote(filename)}",
                "X-Repo-Commit": commit,
                "X-Linked-ETag": f'"{file.sha256}"',
                "X-Linked-Size": str(len(file.data)),
                "ETag": f'"{file.blob_id}"',
                "Accept-Ranges": "bytes",
            },
        )

    def _blob(self, repo_id: str, sha256: str, filename: str) -> None:
        self._send_file(self.hub.blob(repo_id, sha256), {"ETag": f'"{sha256}"'})

    def _send_file(self, file: File, headers: dict[str, str]) -> None:
        size, status, first, last = len(file.data), 200, 0, len(file.data) - 1
        if wanted := RANGE.fullmatch(self.headers.get("Range", "")):
            start, end = wanted.groups()
            first = int(start) if start else max(0, size - int(end or 0))
            last = min(last, int(end)) if start and end else last
            if first > last:
                return self._send(416, {"Content-Range": f"bytes */{size}"})
            status, headers = 206, {**headers, "Content-Range": f"bytes {first}-{last}/{size}"}
        fault = self.hub.take_fault(self.path, of_body=True) if self.command == "GET" else None
        data, end = file.data, last + 1
        if fault:
            data = data if fault.wrong_bytes is None else fault.wrong_bytes
            end = end if fault.cut_after is None else min(end, first + fault.cut_after)
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
        self._send(status, headers, data[first:end], length=last + 1 - first)

    def _send(self, status: int, headers: Mapping[str, str] = {}, body: bytes = b"", length: int | None = None) -> None:
        length = len(body) if length is None else length
        self.close_connection = self.close_connection or len(body) != length
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        with contextlib.suppress(ConnectionError):  # the client has left
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def hub_env(hub: HubServer, tmp_path: Path) -> dict[str, str]:
    """The environment of a process whose only Hub is `hub` and whose caches lie under `tmp_path`.

    huggingface_hub reads its variables when it is imported, so they cannot be changed within a process.
    """
    ours = re.compile(r"(HF|HUGGING_?FACE\w*|MNV2ZOO)_.*|.*_PROXY", re.IGNORECASE)
    kept = {name: value for name, value in os.environ.items() if not ours.fullmatch(name)}
    return {
        **kept,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "hf_home"),
        "MNV2ZOO_HOME": str(tmp_path / "mnv2zoo_home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }

"""A plain file server on loopback, as `python -m http.server` is one: no header of the Hub's, and no ranges."""

from __future__ import annotations

import base64
import contextlib
import threading
import time
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Given a request, answers it and returns True, or leaves it to the server.
Trick = Callable[["Handler"], bool]


class FileServer:
    """Serves a folder within a `with` block, until it is given a trick; `requests` lists the paths that were asked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.trick, self.password = folder, None, ""
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        folder.mkdir(exist_ok=True)
        handler = type("Handler", (Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *given: handler(*given, directory=str(folder)))
        self._server.daemon_threads, self._server.block_on_close = True, False
        self.address = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.address}"

    def __enter__(self) -> FileServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, place: str, data: bytes) -> Path:
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path


class Handler(SimpleHTTPRequestHandler):
    owner: FileServer

    def do_GET(self) -> None:
        self.owner.requests.append(self.path)
        self.owner.headers.append({name.lower(): value for name, value in self.headers.items()})
        with contextlib.suppress(OSError):  # the client has left
            if self.owner.password and self.headers.get("Authorization") != self._expected():
                self.send_error(401)
            elif self.owner.trick is None or not self.owner.trick(self):
                super().do_GET()

    def _expected(self) -> str:
        return f"Basic {base64.b64encode(self.owner.password.encode()).decode()}"

    def send_whole(self, data: bytes, length: int | None = None, kind: str = "application/octet-stream") -> bool:
        """Sends a body under a length that may be another."""
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)
        return True

    def drip(self, data: bytes, seconds: float = 0.2) -> bool:
        """Sends a byte at a time, for as long as the other side listens."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        for byte in data:
            self.wfile.write(bytes([byte]))
            time.sleep(seconds)
        return True

    def log_message(self, *args: object) -> None:
        pass

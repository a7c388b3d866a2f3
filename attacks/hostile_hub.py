"""A Hub that answers as it should until it is given a trick."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from tests.hub_server import HubServer, _Handler

# Given a request, answers it and returns True, or leaves it to the honest Hub.
Trick = Callable[["Handler"], bool]


class HostileHub(HubServer):
    """The test's Hub with a `trick`."""

    trick: Trick | None = None

    def __enter__(self) -> HostileHub:
        super().__enter__()
        for server in self._servers:
            server.RequestHandlerClass = type("Handler", (Handler,), {"hub": self})
            server.daemon_threads, server.block_on_close = True, False
        return self

    def downloads(self) -> int:
        """Bodies that were asked for since the last `clear()`."""
        return sum(request.method == "GET" and "/cdn/" in request.path for request in self.requests)


class Handler(_Handler):
    hub: HostileHub

    def do_GET(self) -> None:
        with contextlib.suppress(OSError):  # the client has left
            if self.hub.trick is None or not self.hub.trick(self):
                super().do_GET()

    do_HEAD = do_GET

    @property
    def wants_body(self) -> bool:
        return self.command == "GET" and "/cdn/" in self.path

    @property
    def wants_metadata(self) -> bool:
        return "/resolve/" in self.path

    def answer(self, status: int, headers: dict[str, Any], body: bytes = b"") -> bool:
        """Answers with these headers and no others, whatever they say of the body."""
        self.close_connection = True
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
        return True

    def drip(self, data: bytes, seconds: float = 0.2) -> bool:
        """Sends a byte at a time, for as long as the other side listens."""
        self.close_connection = True
        for byte in data:
            self.wfile.write(bytes([byte]))
            time.sleep(seconds)
        return True

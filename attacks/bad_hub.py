"""A bad Hub: it lies, stalls, cuts, floods, redirects, or is not there.

Each load ends in time, in the right tensors or in a `WeightsError`; nothing is written outside the cache, or without
end; the next load, with a good Hub again, succeeds; and the token is seen by no other host and in no message.
"""

from __future__ import annotations

import gzip
import os
import random
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from attacks import zoo
from attacks.hostile_hub import Handler, HostileHub, Trick
from attacks.tally import Tally
from attacks.zoo import PINNED, TOKEN, UNPINNED, Zoo, within
from mnv2zoo.errors import WeightsError

SECONDS = 30  # the time limit of a load with one fault, by MNV2ZOO_DOWNLOAD_TIMEOUT
STALLED = 4  # and of a load that a Hub stalls, where only the limit ends it
CLIENT_PAUSE = 8  # the longest pause of the Hub's client before it tries again
TIDYING = 8  # what ending the process may take beyond that


@dataclass(frozen=True)
class Fault:
    """A trick, and what a load may come to under it.

    Attributes:
        what: In words.
        trick: What the Hub does.
        survives: Whether the load must succeed.
        refuses: Whether it must not.
        stalls: Whether only the time limit ends it.
    """

    what: str
    trick: Trick
    survives: bool = False
    refuses: bool = False
    stalls: bool = False


def run(tally: Tally, cuts: int = 64, random_cuts: int = 16, faults: int | None = None) -> None:
    with zoo.zoo() as place, HostileHub() as thief, _stderr() as written:
        found = [*_faults(place, thief)]
        for number, fault in enumerate(found[:: len(found) // faults] if faults else found):
            _load_under(tally, place, (PINNED, UNPINNED)[number % 2], fault)
        for fault in _cuts(place.hub, cuts, random_cuts):
            _load_under(tally, place, PINNED, fault)
        if faults is None:
            _elsewhere(tally, place)
        _unknown_certificate(tally, place)
        seen = [request for request in thief.requests if TOKEN in str(request.headers)]
        tally.check(f"{len(seen)} requests to another host had the token", not seen)
        bodies = [request for request in place.hub.requests if "/cdn/" in request.path]
        tally.check("the CDN got the token", not any(TOKEN in str(request.headers) for request in bodies))
        asked = [request for request in place.hub.requests if "/resolve/" in request.path]
        tally.check("the Hub itself did not get the token", all(TOKEN in str(r.headers) for r in asked))
        written.seek(0)
        tally.check("the token was written to stderr", TOKEN not in written.read())


def _load_under(tally: Tally, place: Zoo, name: str, fault: Fault) -> None:
    place.forget()
    seconds = STALLED if fault.stalls else SECONDS
    outside = set(place.folder.parent.iterdir())
    place.hub.trick = fault.trick
    seed = 0 if name == PINNED else 1
    messages = []

    def load() -> object:
        try:
            return place.load(name)
        except WeightsError as error:
            messages.append(f"{error!r} {error} {error.__cause__!r} {error.__context__!r}")
            raise

    tally.attempt(
        f"{fault.what}, {name}",
        within(seconds, load),
        None if fault.refuses else lambda found: zoo.right(found, seed),  # type: ignore[arg-type]
        errors=() if fault.survives else (WeightsError,),
        seconds=seconds + TIDYING,
    )
    place.hub.trick = None
    tally.check(f"{fault.what}: the token is in {messages}", TOKEN not in str(messages))
    tally.check(f"{fault.what}: files outside the cache", set(place.folder.parent.iterdir()) == outside)
    tally.check(f"{fault.what}: {_size(place.cache)} bytes in the cache", _size(place.cache) < 3 * len(zoo.data()))
    tally.check(f"{fault.what}: half a file stays", _tidied(place))
    tally.attempt(
        f"{fault.what}, {name}: the next load",
        within(SECONDS, lambda: place.load(name)),
        lambda found: zoo.right(found, seed),  # type: ignore[arg-type]
        errors=(),
    )


def _tidied(place: Zoo) -> bool:
    """Whether half files are gone, at the latest after the longest pause of the Hub's client, which a thread sleeps."""
    deadline = time.monotonic() + CLIENT_PAUSE + 1
    while [*place.cache.rglob("*.incomplete")]:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def _faults(place: Zoo, thief: HostileHub) -> Iterator[Fault]:
    thief.add("zoo/pinned", "model.safetensors", zoo.data(3))
    yield from _false_metadata(place)
    yield from _redirects(thief)
    yield from _errors()
    yield from _false_bodies()
    yield from _stalls()


def _metadata(**changed: object) -> Trick:
    """The right answer to a question about the file, with some headers changed, or gone where None."""

    def trick(request: Handler) -> bool:
        if not request.wants_metadata:
            return False
        seed = 0 if "pinned/resolve" in request.path and "unpinned" not in request.path else 1
        repo_id = "zoo/pinned" if seed == 0 else "zoo/unpinned"
        right, files = request.hub.commit(repo_id)
        file = files["model.safetensors"]
        headers = {
            "Location": f"{request.hub.cdn}/cdn/{repo_id}/{file.sha256}/model.safetensors",
            "X-Repo-Commit": right,
            "X-Linked-ETag": f'"{file.sha256}"',
            "X-Linked-Size": len(file.data),
            "ETag": f'"{file.blob_id}"',
            "Content-Length": 0,
        }
        headers |= {name.replace("_", "-"): value for name, value in changed.items()}
        return request.answer(302, {name: value for name, value in headers.items() if value is not None})

    return trick


def _body(status: int, headers: dict[str, object], content: bytes = b"") -> Trick:
    return lambda request: request.wants_body and request.answer(status, headers, content)


def _once(trick: Trick, times: int = 1) -> Trick:
    left = [times]

    def limited(request: Handler) -> bool:
        if left[0] and trick(request):
            left[0] -= 1
            return True
        return False

    return limited


def _any_path(status: int, **headers: object) -> Trick:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda request: request.answer(status, {"Content-Length": 0, **named})


def _false_metadata(place: Zoo) -> Iterator[Fault]:
    assert place.commit != "f" * 40
    yield Fault("another SHA-256 as ETag", _metadata(X_Linked_ETag=f'"{"0" * 64}"'))
    yield Fault("no ETag", _metadata(X_Linked_ETag=None, ETag=None))
    yield Fault("a weak ETag that is no hash", _metadata(X_Linked_ETag='W/"abc"'))
    yield Fault("no commit", _metadata(X_Repo_Commit=None))
    yield Fault("no size", _metadata(X_Linked_Size=None))
    yield Fault("no headers at all", _any_path(302), refuses=True)
    yield Fault("another commit than asked for", _metadata(X_Repo_Commit="f" * 40))
    yield Fault("a size that is too small", _metadata(X_Linked_Size=1000))
    yield Fault("a size that is too large", _metadata(X_Linked_Size=10**6 * 3))
    yield Fault("a size of 10^18", _metadata(X_Linked_Size=10**18))
    yield Fault("a negative size", _metadata(X_Linked_Size=-1))
    yield Fault("a size that is no number", _metadata(X_Linked_Size="many"))
    for path in ("../../../../outside", f"{place.folder.parent}/outside", "..", ".", "a/b", "a\\..\\b", "%2e%2e%2fx"):
        yield Fault(f"the ETag {path}", _metadata(X_Linked_ETag=f'"{path}"'), refuses=path != "%2e%2e%2fx")
        yield Fault(f"the commit {path}", _metadata(X_Repo_Commit=path), refuses=True)
    yield Fault("a header of 1 MB", _metadata(X_Long="x" * 10**6))


def _redirects(thief: HostileHub) -> Iterator[Fault]:
    yield Fault("a loop of redirects", lambda request: request.answer(302, {"Location": request.path}), refuses=True)
    yield Fault("a loop of redirects of the body", _loop, refuses=True)
    yield Fault("the file of another host", _metadata(Location=f"{thief.cdn}/cdn/zoo/pinned/x"), refuses=True)
    yield Fault("the metadata of another host", _any_path(302, Location=f"{thief.endpoint}/zoo/pinned"), refuses=True)
    yield Fault("redirect of the body to another host", _body(302, {"Location": f"{thief.endpoint}/x"}), refuses=True)
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "//", "http://[", "gopher://x", "http:///x"):
        yield Fault(f"the file at {target}", _metadata(Location=target), refuses=True)
        yield Fault(f"redirect of the body to {target}", _body(302, {"Location": target}), refuses=True)


def _errors() -> Iterator[Fault]:
    for status in (400, 401, 403, 404, 416, 418, 429, 500, 502, 503):
        yield Fault(f"always {status}", _any_path(status), refuses=True, stalls=status in (429, 500, 502, 503))
        yield Fault(f"{status} for the body", _body(status, {"Content-Length": 0}), refuses=True, stalls=status >= 429)
    for status in (429, 500, 503):
        yield Fault(f"{status} for the body, once", _once(_body(status, {"Content-Length": 0})), survives=True)
        yield Fault(f"{status}, once", _once(_any_path(status)), survives=status != 429)
    yield Fault("429 with Retry-After 1, once", _once(_any_path(429, Retry_After=1)))
    yield Fault("429 with Retry-After 1 for the body", _once(_body(429, {"Retry-After": 1, "Content-Length": 0})), True)
    yield Fault("429 with Retry-After 10^6", _any_path(429, Retry_After=10**6), refuses=True, stalls=True)
    yield Fault("429, later, for the body", _body(429, {"Retry-After": 9**9, "Content-Length": 0}), False, True, True)


def _false_bodies() -> Iterator[Fault]:
    whole = zoo.data()
    yield Fault(
        "every body is cut", _body(200, {"Content-Length": len(whole)}, whole[:2000]), refuses=True, stalls=True
    )
    yield Fault("a body of half its Content-Length", _once(_body(200, {"Content-Length": 2 * len(whole)}, whole)))
    yield Fault("a Content-Length of half the body", _body(200, {"Content-Length": 1000}, whole), refuses=True)
    yield Fault("a negative Content-Length", _body(200, {"Content-Length": -1}, whole))
    yield Fault("two Content-Lengths", _body(200, {"Content-Length": 1, "content-length": 2}, whole))
    yield Fault("an empty body", _body(200, {"Content-Length": 0}), refuses=True)
    yield Fault("206 for another range", _body(206, {"Content-Range": "bytes 5-9/10", "Content-Length": 5}, b"other"))
    bomb = gzip.compress(bytes(2**27))
    bombed = {"Content-Encoding": "gzip", "Content-Length": len(bomb)}
    yield Fault("a gzip bomb", _body(200, bombed, bomb), refuses=True)
    yield Fault("a gzip bomb as an error", _body(500, bombed, bomb), refuses=True, stalls=True)
    yield Fault("a gzip bomb as an answer", lambda r: r.answer(200, {**bombed, "ETag": '"abc"'}, bomb), refuses=True)
    yield Fault(
        "a deflated body", _body(200, {"Content-Encoding": "br", "Content-Length": 9}, b"012345678"), False, True
    )


def _stalls() -> Iterator[Fault]:
    yield Fault("a body without end", lambda r: r.wants_body and _endless(r, 200), refuses=True, stalls=True)
    yield Fault("an error without end", lambda r: r.wants_body and _endless(r, 404), refuses=True, stalls=True)
    yield Fault("garbage for HTTP", lambda r: r.drip(os.urandom(64), 0), refuses=True, stalls=True)
    yield Fault("garbage JSON", lambda r: r.answer(200, {"Content-Length": 9}, b'{"a": [[['), refuses=True)
    page = b"HTTP/1.1 200 OK\r\n" + b"X-Slow: " + b"x" * 1000
    yield Fault("a byte at a time of the headers", lambda r: r.drip(page), refuses=True, stalls=True)
    yield Fault(
        "a byte at a time of the body", lambda r: r.wants_body and _slow(r, zoo.data()), refuses=True, stalls=True
    )
    yield Fault("no answer", lambda r: bool(time.sleep(SECONDS)) or True, refuses=True, stalls=True)
    yield Fault("no answer about the body", lambda r: r.wants_body and (time.sleep(SECONDS) or True), False, True, True)
    yield Fault("cut before any answer, once", _once(lambda r: _hang_up(r)), survives=True)
    yield Fault("cut before any answer", _hang_up, refuses=True, stalls=True)


def _loop(request: Handler) -> bool:
    return request.wants_body and request.answer(302, {"Location": request.path, "Content-Length": 0})


def _hang_up(request: Handler) -> bool:
    request.close_connection = True
    request.connection.shutdown(socket.SHUT_RDWR)
    return True


def _endless(request: Handler, status: int) -> bool:
    request.answer(status, {"Transfer-Encoding": "chunked"})
    chunk = b"%x\r\n" % 2**20 + bytes(2**20) + b"\r\n"
    while True:
        request.wfile.write(chunk)


def _slow(request: Handler, data: bytes) -> bool:
    request.answer(200, {"Content-Length": len(data)})
    return request.drip(data)


def _cuts(hub: HostileHub, cuts: int, random_cuts: int) -> Iterator[Fault]:
    """The body is cut once: at each of the first kilobytes, then at random; the client resumes."""
    randomness = random.Random(64)
    size = len(zoo.data())
    for where in (*range(0, 1024 * cuts, 1024), *(randomness.randrange(size) for _ in range(random_cuts))):
        left = [1]

        def trick(request: Handler, where: int = where, left: list[int] = left) -> bool:
            if not (request.wants_body and left[0]):
                return False
            left[0] -= 1
            return request.answer(200, {"Content-Length": size}, zoo.data()[:where])

        yield Fault(f"cut once after {where} bytes", trick, survives=True)


def _elsewhere(tally: Tally, place: Zoo) -> None:
    """The Hub is not there: its name, its port, or any network."""
    with socket.socket() as silent:  # takes connections and never a byte
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        for endpoint in (
            "http://no-such-host.invalid",
            "http://127.0.0.1:9",
            f"http://127.0.0.1:{port}",
            f"https://127.0.0.1:{port}",
            "http://user:password@127.0.0.1:9",
            "ftp://127.0.0.1",
            "nonsense",
        ):
            place.forget()
            zoo.use_hub(endpoint)
            messages = []

            def load(messages: list[str] = messages) -> object:
                try:
                    return place.load()
                except WeightsError as error:
                    messages.append(str(error))
                    raise

            tally.attempt(f"the Hub at {endpoint}", within(STALLED, load), seconds=STALLED + TIDYING)
            tally.check("a password in an error", "password@" not in str(messages))
            zoo.use_hub(place.hub.endpoint)
            tally.attempt(f"after {endpoint}", place.load, zoo.right, errors=())


def _unknown_certificate(tally: Tally, place: Zoo) -> None:
    place.forget()
    with tempfile.TemporaryDirectory() as folder:
        key, certificate = f"{folder}/key.pem", f"{folder}/certificate.pem"
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
        try:
            subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
        except FileNotFoundError:
            tally.skipped.append("an unknown certificate: openssl is not installed")
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        with HostileHub() as impostor:
            impostor.add("zoo/pinned", "model.safetensors", zoo.data(), revision=place.commit)
            for server in impostor._servers:
                server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            zoo.use_hub(impostor.endpoint.replace("http://127.0.0.1", "https://localhost"))
            tally.attempt("a certificate that nobody knows", within(STALLED, place.load), seconds=STALLED + TIDYING)
            tally.check("something was asked of the impostor", not impostor.requests)
        zoo.use_hub(place.hub.endpoint)
    tally.attempt("after the impostor", place.load, zoo.right, errors=())


class _stderr:
    """What this process and those that it starts write to stderr, kept in a file."""

    def __enter__(self):  # type: ignore[no-untyped-def]
        sys.stderr.flush()
        self.file = tempfile.TemporaryFile("w+", errors="replace")
        self.saved = os.dup(2)
        os.dup2(self.file.fileno(), 2)
        return self.file

    def __exit__(self, *exc: object) -> None:
        os.dup2(self.saved, 2)
        os.close(self.saved)
        self.file.close()

"""Requests to the Hub, made in a separate process that `mnv2zoo.weights.hub` starts and ends in time.

That process imports only those modules of the package that need just the standard library and filelock, because
importing all of it would take seconds. It prints one JSON object with the Hub's response or the reason for the failure.
If no process can be started, `answer` runs in the calling process.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mnv2zoo.system import posix
from mnv2zoo.system.files import locked, whole_file
from mnv2zoo.system.hub_failures import TRIES, UnsoundAnswerError, explain

# The client builds paths from these headers and accepts any value, even `../..` or an absolute path.
ETAG = r'(W/)?"?\w[\w.-]*"?'
SAFE = {"x-repo-commit": r"[0-9a-f]{40}", "x-linked-etag": ETAG, "etag": ETAG}

PAUSES = (1, 2)  # seconds before each retry, if the client gave up at once
PATIENCE = 10  # seconds after which there are no more retries
TIDYING_SECONDS = 2  # for a thread to remove partial files when its time is up
THREAD = "mnv2zoo download"  # name of the thread that makes a request
PAGE_BYTES = 2**20  # maximum size of a response other than the file


class OutOfTime(BaseException):
    """The time is up. A BaseException, so that the client's `except Exception` cannot swallow it."""


class WrongContentError(Exception):
    """A plain file server sent content that does not match the known hash."""


class HopelessError(Exception):
    """A connection that would fail again on every retry. The client does not know this class, so it gives up."""


@dataclass
class Question:
    """The state of one request.

    Attributes:
        deadline: When the time is up, by `time.monotonic`.
        most: Maximum number of bytes of the file that are read, retries included.
        file_bytes: Maximum size of a single response with the file.
        plain: Whether to download over plain HTTP. Xet bypasses the client, and so its bounds.
        tokens: Secrets that were sent.
        failures: Connections that failed.
        sockets: Connections that were opened.
    """

    deadline: float
    most: int
    file_bytes: int
    plain: bool
    tokens: set[str] = field(default_factory=set)
    failures: int = 0
    sockets: list[socket.socket] = field(default_factory=list)

    @property
    def seconds_left(self) -> float:
        """Time until the deadline. Negative afterwards."""
        return self.deadline - time.monotonic()

    def before(self, request: Any) -> None:
        """Prepares an HTTP request, if there is time left."""
        self.require_time()
        request.headers["Accept-Encoding"] = "identity"  # compressed content could unpack to any size
        self.tokens.update(request.headers.get("authorization", "").split()[1:])
        # No single step may take longer than the time that is left. A trickle of bytes can; see `cut`.
        most = max(0.0, self.seconds_left) + 0.5  # later than the time limit itself
        limits = request.extensions.get("timeout") or {}
        steps = ("connect", "read", "write", "pool")
        request.extensions["timeout"] = {step: min(limits.get(step) or most, most) for step in steps}
        request.extensions["trace"] = self._note

    def _note(self, event: str, about: dict[str, Any]) -> None:
        """Records the connections that the HTTP library opens. It calls this for each of its steps."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self.sockets.append(about["return_value"].get_extra_info("socket"))

    def cut(self) -> None:
        """Shuts down all connections from another thread, so that pending reads end."""
        for connection in self.sockets:
            with contextlib.suppress(OSError, AttributeError):
                connection.shutdown(socket.SHUT_RDWR)

    def require_time(self) -> None:
        """Raises `OutOfTime` if the time is up."""
        if time.monotonic() > self.deadline:
            raise OutOfTime

    def after(self, response: Any) -> None:
        """Checks a response before its body is read, and limits the body."""
        check(response)
        for header in ("retry-after", "ratelimit"):  # the client would sleep as long as they say
            waits = map(int, re.findall(r"\d{1,9}", response.headers.get(header, "")))
            if max(waits, default=0) > self.seconds_left:
                del response.headers[header]
        if self.plain:
            for header in ("x-xet-hash", "x-xet-refresh-route", "link"):
                response.headers.pop(header, None)
        response.stream = _bounded(response.stream, self, response.status_code < 300)

    def count(self, part: int, body: int, of_file: bool) -> None:
        """Counts bytes of a body. `body` is the size of the body so far."""
        self.require_time()
        if of_file:
            self.most -= part
        if self.most < 0 or body > (self.file_bytes if of_file else PAGE_BYTES):
            raise UnsoundAnswerError("the response is longer than allowed")

    def failed(self, error: Exception) -> None:
        """Stops retries that are bound to fail."""
        self.failures += 1
        if self.failures >= TRIES.get(explain(error).kind, sys.maxsize):
            raise HopelessError from error


_QUESTION: ContextVar[Question | None] = ContextVar("question", default=None)


def _bounded(stream: Any, question: Question, of_file: bool) -> Any:
    # The HTTP library requires a stream of its own class.
    base = next(kind for kind in type(stream).__mro__ if kind.__name__ == "SyncByteStream")

    class Bounded(base):  # type: ignore[valid-type,misc]
        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for part in stream:
                size += len(part)
                question.count(len(part), size, of_file)
                yield part

        def close(self) -> None:
            stream.close()

    return Bounded()


def watch(client: Any) -> Any:
    """Makes a client respect the limits of the request that is made with it, if there is one.

    Args:
        client: An HTTP client, which other threads may also use for their requests.

    Returns:
        The client.
    """
    send = client.send
    if hasattr(send, "watched"):
        return client

    def watched(request: Any, **options: Any) -> Any:
        question = _QUESTION.get()
        try:
            return send(request, **options)
        except Exception as error:
            if question is not None:
                question.failed(error)
            raise

    def before(request: Any) -> None:
        if question := _QUESTION.get():
            question.before(request)

    def after(response: Any) -> None:
        if question := _QUESTION.get():
            question.after(response)

    watched.watched = True  # type: ignore[attr-defined]
    hooks = client.event_hooks
    client.event_hooks = {"request": [*hooks["request"], before], "response": [after, *hooks["response"]]}
    client.send = watched
    return client


def check(response: Any) -> None:
    """Rejects a response before its body is read.

    Args:
        response: The response, from httpx.

    Raises:
        UnsoundAnswerError: If a header has an invalid value.
    """
    for name, pattern in SAFE.items() if "x-repo-commit" in response.headers else ():
        value = response.headers.get(name)
        if value is not None and not re.fullmatch(pattern, value, re.ASCII):
            raise UnsoundAnswerError(f"the header {name} is {value[:80]!r}")
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":  # we requested no compression, which could unpack to any size
        raise UnsoundAnswerError(f"the body is encoded as {encoding[:80]!r}")


def answer(job: dict[str, Any], plain: bool = False) -> dict[str, Any]:
    """Makes a request to the Hub.

    Args:
        job: The request, as `mnv2zoo.weights.hub` builds it.
        plain: As in `Question`.

    Returns:
        The path of the file, or its commit, ETag and size; `late` if the time was up; or an `error`.
    """
    return _put(_question(job, plain), job)


def _question(job: dict[str, Any], plain: bool) -> Question:
    # A resumed download may fetch some bytes twice.
    return Question(time.monotonic() + job["seconds"], 4 * job["file_bytes"], job["file_bytes"], plain)


def _put(question: Question, job: dict[str, Any]) -> dict[str, Any]:
    token = _QUESTION.set(question)
    try:
        return work(job)
    except OutOfTime:
        return {"late": True}
    except Exception as error:
        return {"error": asdict(explain(error, question.tokens))}
    finally:
        _QUESTION.reset(token)


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Makes a request to the Hub, with retries after temporary failures.

    Args:
        job: As in `answer`.

    Returns:
        The path of the file, or its commit, ETag and size.
    """
    start = time.monotonic()
    for pause in PAUSES:
        try:
            return ask(job)
        except Exception as error:
            if time.monotonic() - start > PATIENCE or not passing(error):
                raise
        time.sleep(pause)
    return ask(job)


def passing(error: BaseException | None) -> bool:
    """Checks whether a failure may be temporary.

    Args:
        error: The client's error. The reason may be among its causes.

    Returns:
        True if the connection broke, or the Hub is busy or failing.
    """
    while error is not None:
        if isinstance(error, HopelessError):
            return False
        status = getattr(getattr(error, "response", None), "status_code", 0)
        broken = "TransportError" in [kind.__name__ for kind in type(error).__mro__]
        if broken or status in (408, 429) or status >= 500:
            return True
        error = error.__cause__ or error.__context__
    return False


def ask(job: dict[str, Any]) -> dict[str, Any]:
    """Makes a request to the Hub once.

    Args:
        job: As in `answer`.

    Returns:
        As in `work`.
    """
    import huggingface_hub

    if job["do"] == "fetch":
        return fetch(job)
    if job["do"] == "reach":
        headers = huggingface_hub.utils.build_hf_headers() if job["send_token"] else {}
        return {"status": huggingface_hub.get_session().get(job["url"], headers=headers, timeout=10).status_code}
    repo_id, filename, revision, endpoint = (job[key] for key in ("repo_id", "filename", "revision", "endpoint"))
    if job["do"] == "describe":
        url = huggingface_hub.hf_hub_url(repo_id, filename, revision=revision, endpoint=endpoint)
        found = huggingface_hub.get_hf_file_metadata(url, library_name="mnv2zoo", endpoint=endpoint)
        return {"commit": found.commit_hash, "etag": found.etag, "size": found.size}
    path = huggingface_hub.hf_hub_download(
        repo_id,
        filename,
        revision=revision,
        endpoint=endpoint,
        cache_dir=job["cache_dir"],
        force_download=job["force"],
        library_name="mnv2zoo",
    )
    return {"path": path}


def fetch(job: dict[str, Any]) -> dict[str, Any]:
    """Downloads a file with a known hash from a plain file server, which need not send the Hub's headers.

    The file is moved into place once its hash matches. A lock lets only one process write at a time.

    Args:
        job: `url`, `path` and `lock` instead of repository names, and `sha256` and `size`, which is 0 if unknown.

    Returns:
        The path of the file, or what is `wrong` with what the server sent.
    """
    from huggingface_hub.file_download import http_get

    path, lock, size = Path(job["path"]), Path(job["lock"]), job["size"]
    for folder in (path.parent, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    question = _QUESTION.get()
    seconds = job["seconds"] if question is None else question.deadline - time.monotonic()
    try:
        with locked(lock, max(0.0, seconds)):
            if not job["force"] and path.is_file():  # another process downloaded it
                return {"path": str(path)}
            _clear(path)
            with whole_file(path) as file:
                http_get(job["url"], file, displayed_filename=path.name)
                file.flush()
                _require_right(Path(file.name), job["sha256"], size)
    except TimeoutError as error:
        raise OutOfTime from error
    except WrongContentError as error:
        return {"wrong": error.args}
    return {"path": str(path)}


def _clear(path: Path) -> None:
    """Removes anything but a plain file, so that nothing is written through a link that somebody put there."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    elif path.is_symlink() or not path.is_file():
        path.unlink(missing_ok=True)


def _require_right(file: Path, sha256: str, size: int) -> None:
    found = file.stat().st_size
    if size and found != size:
        raise WrongContentError("wrong size", f"{size} bytes", f"{found} bytes")
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if digest != sha256:
        raise WrongContentError("wrong hash", f"sha256 {sha256}", f"sha256 {digest}")


def answer_here(job: dict[str, Any]) -> dict[str, Any]:
    """Makes a request to the Hub from this process, with the program's own client.

    A thread makes the request. When the time is up it is abandoned and ends at its next step.

    Args:
        job: As in `answer`.

    Returns:
        As in `answer`.
    """
    import huggingface_hub

    from mnv2zoo.weights import hub_private

    hub_private.watch_clients(watch)
    for function in (huggingface_hub.get_session, huggingface_hub.hf_hub_download):
        log = logging.getLogger(function.__module__)
        if _not_of_a_question not in log.filters:
            log.addFilter(_not_of_a_question)
    return _answer_in_a_thread(job, plain=True)


def _answer_in_a_thread(job: dict[str, Any], plain: bool) -> dict[str, Any]:
    """Makes a request in a thread. When the time is up, waits a little longer for the thread to tidy up."""
    answers: list[dict[str, Any]] = []
    question = _question(job, plain)
    thread = threading.Thread(target=lambda: answers.append(_put(question, job)), daemon=True, name=THREAD)
    try:
        thread.start()
    except RuntimeError:  # no more threads available
        return _put(question, job)
    thread.join(job["seconds"])
    late = not answers
    if late:
        question.cut()
    thread.join(TIDYING_SECONDS)
    return {"late": True} if late else answers[0]


def _not_of_a_question(record: logging.LogRecord) -> bool:
    """Keeps the client's retry messages, which may contain secrets, out of the program's log."""
    return _QUESTION.get() is None


def _watched_client() -> Any:
    import huggingface_hub

    client_class = type(huggingface_hub.get_session())  # of httpx or its successor, as the Hub client decides
    return lambda: watch(client_class(follow_redirects=True, timeout=30))


def _silence() -> None:
    """Lets only the result and progress bars leave this process: all other output could contain a secret."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    for owner, hook in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")):
        setattr(owner, hook, lambda *_: None)


def _out_of_time() -> None:
    raise OutOfTime


def main(job: dict[str, Any]) -> None:
    """Runs a request and prints its result.

    Args:
        job: As in `answer`.
    """
    _silence()
    output = os.dup(1)
    with contextlib.suppress(OSError):  # no stderr
        os.dup2(2, 1)  # keep what libraries print out of the result
    try:
        plain = not posix.limit_resources(job["file_bytes"], job["memory_bytes"])
        call_off = posix.alarm(job["seconds"], _out_of_time)
        try:
            import huggingface_hub

            huggingface_hub.set_client_factory(_watched_client())
            found = answer(job, plain) if call_off else _answer_in_a_thread(job, plain)
        finally:
            if call_off:
                call_off()
    except OutOfTime:
        found = {"late": True}
    except KeyboardInterrupt:  # the waiting process gets it too
        sys.exit(1)
    except Exception as error:
        found = {"error": asdict(explain(error))}
    with contextlib.suppress(BrokenPipeError):  # the waiting process was killed
        os.write(output, json.dumps(found).encode())

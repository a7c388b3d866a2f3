"""The question to the Hub: put by a process of its own, which `mnv2zoo.weights.hub` starts and ends in time.

That process imports only modules of the package that need the standard library and filelock: all of it would take
seconds. Its standard output is one JSON object with what the Hub answered or with why it did not. Where no process can
be had, `answer` is called in this one.
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

# The client makes paths of these headers and accepts any: `../..` and absolute ones too.
ETAG = r'(W/)?"?\w[\w.-]*"?'
SAFE = {"x-repo-commit": r"[0-9a-f]{40}", "x-linked-etag": ETAG, "etag": ETAG}

PAUSES = (1, 2)  # seconds before a question is put again, where the client gave up at once
PATIENCE = 10  # seconds from the start on, after which it has tried long enough by itself
TIDYING_SECONDS = 2  # for a thread whose time is up to remove what it has half written
THREAD = "mnv2zoo download"  # the name of a thread that puts a question
PAGE_BYTES = 2**20  # the most that is read of an answer other than the file


class OutOfTime(BaseException):
    """The time is up; no `except Exception` of the client may swallow it, and each `finally` still tidies up."""


class WrongContentError(Exception):
    """A plain file server sent another file than the one whose hash is known."""


class HopelessError(Exception):
    """A connection that fails the same way however often it is tried; the client does not know this class."""


@dataclass
class Question:
    """One question, while it is put.

    Attributes:
        deadline: When the time is up, by `time.monotonic`.
        most: Bytes of the file that are read at most, with every repetition.
        file_bytes: Bytes that one answer with the file may have.
        plain: Whether to fetch over HTTP alone. Xet goes past the client, and so past its bounds.
        tokens: Secrets that were sent.
        failures: Connections that failed.
        sockets: Connections that were opened for it.
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
        """The time until the deadline; negative after it."""
        return self.deadline - time.monotonic()

    def before(self, request: Any) -> None:
        """Prepares a request, if there is time for it."""
        self.require_time()
        request.headers["Accept-Encoding"] = "identity"  # what is packed could unpack to any size
        self.tokens.update(request.headers.get("authorization", "").split()[1:])
        # No single step may take longer than the time that is left. A trickle of bytes does all the same; see `cut`.
        most = max(0.0, self.seconds_left) + 0.5  # later than what the time limit itself ends
        limits = request.extensions.get("timeout") or {}
        steps = ("connect", "read", "write", "pool")
        request.extensions["timeout"] = {step: min(limits.get(step) or most, most) for step in steps}
        request.extensions["trace"] = self._note

    def _note(self, event: str, about: dict[str, Any]) -> None:
        """Notes the connections that the HTTP library opens; it calls this for each of its steps."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self.sockets.append(about["return_value"].get_extra_info("socket"))

    def cut(self) -> None:
        """Ends what the connections still wait for, from another thread."""
        for connection in self.sockets:
            with contextlib.suppress(OSError, AttributeError):
                connection.shutdown(socket.SHUT_RDWR)

    def require_time(self) -> None:
        """Raises `OutOfTime` when the time is up."""
        if time.monotonic() > self.deadline:
            raise OutOfTime

    def after(self, response: Any) -> None:
        """Checks an answer before its body is read, and bounds the body."""
        check(response)
        for header in ("retry-after", "ratelimit"):  # the client would sleep for as long as they say
            waits = map(int, re.findall(r"\d{1,9}", response.headers.get(header, "")))
            if max(waits, default=0) > self.seconds_left:
                del response.headers[header]
        if self.plain:
            for header in ("x-xet-hash", "x-xet-refresh-route", "link"):
                response.headers.pop(header, None)
        response.stream = _bounded(response.stream, self, response.status_code < 300)

    def count(self, part: int, body: int, of_file: bool) -> None:
        """Counts a part of a body, and the body up to and with it."""
        self.require_time()
        if of_file:
            self.most -= part
        if self.most < 0 or body > (self.file_bytes if of_file else PAGE_BYTES):
            raise UnsoundAnswerError("the answer is longer than it may be")

    def failed(self, error: Exception) -> None:
        """Ends what would be tried in vain."""
        self.failures += 1
        if self.failures >= TRIES.get(explain(error).kind, sys.maxsize):
            raise HopelessError from error


_QUESTION: ContextVar[Question | None] = ContextVar("question", default=None)


def _bounded(stream: Any, question: Question, of_file: bool) -> Any:
    # The HTTP library wants a stream of its own class.
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
    """Lets a client keep the bounds of the question that is put with it, if there is one.

    Args:
        client: An HTTP client, which other threads may use for questions of their own.

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
    """Refuses an answer before its body is read.

    Args:
        response: The answer, of httpx.

    Raises:
        UnsoundAnswerError: If a header is not what the client takes it for.
    """
    for name, pattern in SAFE.items() if "x-repo-commit" in response.headers else ():
        value = response.headers.get(name)
        if value is not None and not re.fullmatch(pattern, value, re.ASCII):
            raise UnsoundAnswerError(f"the header {name} is {value[:80]!r}")
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":  # nothing was asked for that a small answer could blow up from
        raise UnsoundAnswerError(f"the body is encoded as {encoding[:80]!r}")


def answer(job: dict[str, Any], plain: bool = False) -> dict[str, Any]:
    """Puts a question to the Hub.

    Args:
        job: What to do, as `mnv2zoo.weights.hub` writes it.
        plain: As in `Question`.

    Returns:
        The path of the file, or its commit, ETag and size; `late` if the time was up; or an `error`.
    """
    return _put(_question(job, plain), job)


def _question(job: dict[str, Any], plain: bool) -> Question:
    # A download that goes on from where it was cut may fetch some bytes again.
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
    """Puts a question to the Hub, again where the trouble may be over in a moment.

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
    """Whether an error may be over in a moment.

    Args:
        error: What the client raised, which may hide the reason in its causes.

    Returns:
        Whether the way was broken, or the Hub busy or ill.
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
    """Puts a question to the Hub once.

    Args:
        job: What to do.

    Returns:
        As `work` does.
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
    """Fetches a file of a known hash from a plain file server, which need not send any header of the Hub's.

    The file appears in its place when its hash is right. One process at a time writes there.

    Args:
        job: `url`, `path` and `lock` in place of a repository's names, and `sha256` and `size`, which is 0 if unknown.

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
            if not job["force"] and path.is_file():  # another process was here first
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
    """Removes what is no plain file: nothing may be written through a link that somebody put there."""
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
    """Puts a question to the Hub from this process, with the client that the program uses.

    A thread puts it, which is left alone when the time is up: it ends at its next step.

    Args:
        job: As in `answer`.

    Returns:
        As `answer` does.
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
    """Puts a question from a thread, and waits for it a little longer, once the time is up, so that it tidies up."""
    answers: list[dict[str, Any]] = []
    question = _question(job, plain)
    thread = threading.Thread(target=lambda: answers.append(_put(question, job)), daemon=True, name=THREAD)
    try:
        thread.start()
    except RuntimeError:  # no more threads here
        return _put(question, job)
    thread.join(job["seconds"])
    late = not answers
    if late:
        question.cut()
    thread.join(TIDYING_SECONDS)
    return {"late": True} if late else answers[0]


def _not_of_a_question(record: logging.LogRecord) -> bool:
    """Keeps the client's lines about its repetitions, which may hold secrets, out of the program's log."""
    return _QUESTION.get() is None


def _watched_client() -> Any:
    import huggingface_hub

    client_class = type(huggingface_hub.get_session())  # of httpx or of its successor, which the Hub's client decides
    return lambda: watch(client_class(follow_redirects=True, timeout=30))


def _silence() -> None:
    """Lets nothing but the answer and progress bars leave this process: all else could hold a secret."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    for owner, hook in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")):
        setattr(owner, hook, lambda *_: None)


def _out_of_time() -> None:
    raise OutOfTime


def main(job: dict[str, Any]) -> None:
    """Does what is to do and writes what came of it.

    Args:
        job: As in `answer`.
    """
    _silence()
    output = os.dup(1)
    with contextlib.suppress(OSError):  # no stderr
        os.dup2(2, 1)  # what a library prints is no answer
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
    except KeyboardInterrupt:  # which the process that waits gets too
        sys.exit(1)
    except Exception as error:
        found = {"error": asdict(explain(error))}
    with contextlib.suppress(BrokenPipeError):  # whoever asked was killed
        os.write(output, json.dumps(found).encode())

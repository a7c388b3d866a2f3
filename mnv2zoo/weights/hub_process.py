"""The process that talks to the Hub; `mnv2zoo.weights.hub` starts it, tells it what to do and ends it in time.

It is run as a file and imports nothing of the package, whose import would take seconds. Its standard
input is one JSON object; its standard output is another, with what the Hub answered or with the error.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import sys
import time
from typing import Any

# The client makes paths of these headers and accepts any: `../..` and absolute ones too.
ETAG = r'(W/)?"?\w[\w.-]*"?'
SAFE = {"x-repo-commit": r"[0-9a-f]{40}", "x-linked-etag": ETAG, "etag": ETAG}


PAUSES = (1, 2)  # seconds before a question is put again, where the client gave up at once
PATIENCE = 10  # seconds from the start on, after which it has tried long enough by itself


class UnsoundAnswerError(Exception):
    """An answer that no Hub gives."""


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


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Puts a question to the Hub, again where the trouble may be over in a moment.

    Args:
        job: What to do, as `mnv2zoo.weights.hub` writes it.

    Returns:
        The path of the file, or its commit, ETag and size.
    """
    import huggingface_hub

    client_class = type(huggingface_hub.get_session())  # of httpx or of its successor, which the Hub's client decides

    def client() -> Any:
        return client_class(
            headers={"Accept-Encoding": "identity"},
            event_hooks={"response": [check]},
            follow_redirects=True,
            timeout=30,
        )

    huggingface_hub.set_client_factory(client)
    transport_error = sys.modules[client_class.__module__.partition(".")[0]].TransportError
    start = time.monotonic()
    for pause in PAUSES:
        try:
            return ask(job)
        except Exception as error:
            if time.monotonic() - start > PATIENCE or not passing(error, transport_error):
                raise
        time.sleep(pause)
    return ask(job)


def passing(error: BaseException | None, transport_error: type[Exception]) -> bool:
    """Whether an error may be over in a moment.

    Args:
        error: What the client raised, which may hide the reason in its causes.
        transport_error: The HTTP library's class for what goes wrong on the way.

    Returns:
        Whether the way was broken, or the Hub busy or ill.
    """
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", 0)
        if isinstance(error, transport_error) or status in (408, 429) or status >= 500:
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


def without_secrets(text: str) -> str:
    """Takes tokens and passwords out of a message.

    Args:
        text: What an error says.

    Returns:
        It, with the token and whatever stands before an `@` in an address replaced.
    """
    import huggingface_hub

    for token in (huggingface_hub.get_token() or "").split():
        text = text.replace(token, "***")
    return re.sub(r"//[^/@\s]+@", "//***@", text)


class OutOfTime(BaseException):
    """The time is up; no `except Exception` of the client may swallow it, and each `finally` still tidies up."""


def _out_of_time(*signal_and_frame: object) -> None:
    raise OutOfTime


def main() -> None:
    """Reads what to do, does it and writes what came of it."""
    job = json.load(sys.stdin)
    sys.path[:] = job["sys_path"]
    for limit, most in ((resource.RLIMIT_FSIZE, job["file_bytes"]), (resource.RLIMIT_DATA, job["memory_bytes"])):
        hard = resource.getrlimit(limit)[1]
        resource.setrlimit(limit, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.setitimer(signal.ITIMER_REAL, job["seconds"])
    try:
        answer = work(job)
    except OutOfTime:
        answer = {"late": True}
    except Exception as error:
        answer = {"error": without_secrets(f"{type(error).__name__}: {' '.join(str(error).split())}")}
    except KeyboardInterrupt:  # which the process that waits gets too
        sys.exit(1)
    signal.setitimer(signal.ITIMER_REAL, 0)
    with contextlib.suppress(BrokenPipeError):  # whoever asked was killed
        os.write(sys.stdout.fileno(), json.dumps(answer).encode())


if __name__ == "__main__":
    main()

"""Downloads from the Hub within a time limit.

The Hub client has no overall time limit. Its timeouts apply to single reads, so a slow trickle of bytes never trips
them. It waits as long as a `Retry-After` header says, and locks and name lookups have no timeout at all. Therefore each
request runs in its own process (`hub_process.py`), which is ended when the time is up. That process also rejects
responses that would make the client write outside its cache, or without limit.

A thread makes the request instead if no Python process can be started, as in a frozen program, or if the program has
set its own client factory, which another process would not have.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import huggingface_hub
from huggingface_hub import constants

from mnv2zoo import environment
from mnv2zoo.errors import IntegrityError, WeightsUnavailableError
from mnv2zoo.system import posix
from mnv2zoo.system.files import MAX_BYTES
from mnv2zoo.system.hub_failures import LOCAL, Failure, explain, without_secrets
from mnv2zoo.weights import hub_private, hub_process, schema, trust
from mnv2zoo.weights.trust import Record

SPARE_BYTES = 2**26  # what the client may write besides a file of known size
TIDYING_SECONDS = 5  # for the process to remove partial files when its time is up
MEMORY_BYTES = 2**32  # far more than the client needs; stops an endless error message from filling the memory
MISSING = ("file", "repository", "revision")  # kinds of failure that a 404 can mean
MAX_SECONDS = 10**7  # about four months; timers accept no more

# Stub modules stand in for our packages, whose imports take seconds. If this fails, the request runs in a thread.
PROGRAM = """
import json, sys, types
sys.excepthook = lambda *_: None
job = json.load(sys.stdin)
assert job["version"] == sys.version
sys.path[:] = job["sys_path"]
for name, folders in job["packages"].items():
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = folders
from mnv2zoo.weights import hub_process
hub_process.main(job)
"""


@dataclass(frozen=True)
class HubFile:
    """A file on the Hub, and what is known of its content.

    Attributes:
        name: The name that the user gave, for messages.
        repo_id: Its repository.
        filename: Its path in the repository.
        revision: A commit, branch or tag. None means `main`.
        sha256: Its SHA-256, if an index lists it.
        size: Its size in bytes, if an index lists it.
    """

    name: str
    repo_id: str
    filename: str
    revision: str | None = None
    sha256: str | None = None
    size: int | None = None

    @classmethod
    def of_hub_id(cls, hub_id: str, name: str = "", filename: str | None = None) -> HubFile:
        """Parses timm's notation for a repository.

        Args:
            hub_id: `owner/name`, or `owner/name@revision`.
            name: The name that the user gave, for messages. Default: `hf-hub:` plus `hub_id`.
            filename: The path in the repository. Default: `model.safetensors`.

        Returns:
            The file, without hash and size.
        """
        repo_id, _, revision = hub_id.partition("@")
        return cls(name or f"hf-hub:{hub_id}", repo_id, filename or "model.safetensors", revision or None)

    @property
    def location(self) -> str:
        """A unique string for the file, as in `WeightsEntry.location`."""
        return schema.hub_location(self.repo_id, self.revision, self.filename)

    @property
    def pin(self) -> Record | None:
        """The record in an index that the content must match, or None if no index lists the file."""
        return None if self.sha256 is None else Record(self.revision, self.sha256, self.size or 0)


@dataclass
class Hub:
    """The Hub and its cache. `MNV2ZOO_DOWNLOAD_TIMEOUT` starts with the first request.

    Attributes:
        cache_dir: The cache. None uses the client's default.
        deadline: When the time is up, by `time.monotonic`. None before the first request.
    """

    cache_dir: str | Path | None = None
    deadline: float | None = field(default=None, init=False)

    def cached(self, file: HubFile, revision: str | None) -> Path | None:
        """Looks up a file in the cache without network access.

        Args:
            file: The file.
            revision: The revision. None means `main`.

        Returns:
            The path, or None if the file is not in the cache.

        Raises:
            WeightsUnavailableError: If the cache cannot be read, or the file name is invalid.
        """
        try:
            found = huggingface_hub.try_to_load_from_cache(file.repo_id, file.filename, self._cache(), revision)
        except Exception as error:
            self._unavailable(file, explain(error), error)
        return Path(found) if isinstance(found, str) else None

    def download(self, file: HubFile, revision: str | None, force: bool = False) -> Path:
        """Downloads a file to the cache, or uses the cached one when offline. The caller must verify its content.

        Args:
            file: The file.
            revision: The revision. None means `main`.
            force: Download the file even if it is in the cache.

        Returns:
            The path in the cache.

        Raises:
            WeightsUnavailableError: If the file cannot be downloaded within the time limit.
        """
        if constants.HF_HUB_OFFLINE and not force and (path := self.cached(file, revision)):
            return path
        cache = self._writable_cache(file)
        answer = self._ask(file, "download", revision, force=force, cache_dir=str(cache))
        return Path(answer["path"])

    def fetch_plain(self, file: HubFile, pin: Record, url: str, force: bool = False) -> Path | None:
        """Downloads a file with a known hash from a plain file server to the cache.

        It is stored where the Hub client would put it: under its commit, or under its hash if the commit is unknown.

        Args:
            file: The file.
            pin: Its hash, and its size and commit if known.
            url: Its URL on the server.
            force: Download the file even if it is in the cache.

        Returns:
            The path in the cache, or None if the server does not have the file.

        Raises:
            IntegrityError: If the server sends a different file.
            WeightsUnavailableError: If the file cannot be downloaded within the time limit.
        """
        cache, shown = self._writable_cache(file), without_secrets(url.partition("?")[0])
        from huggingface_hub.file_download import repo_folder_name  # with an HTTP client, which takes a while

        repository = repo_folder_name(repo_id=file.repo_id, repo_type="model")
        answer = self._answer(
            file,
            "fetch",
            url=url,
            sha256=pin.sha256,
            size=pin.size,
            path=str(cache / repository / "snapshots" / snapshot(file, pin) / file.filename),
            lock=str(cache / ".locks" / repository / f"{pin.sha256}.lock"),
            force=force,
        )
        if "wrong" in answer:
            problem, expected, found = answer["wrong"]
            fix = "Check MNV2ZOO_WEIGHTS_URL, and the file on the server. The download was discarded."
            raise IntegrityError(problem, expected=expected, found=found, where=shown, fix=fix)
        if "error" in answer:
            failure = Failure(**answer["error"])
            if failure.kind in MISSING and failure.found.startswith("404"):
                return None
            self._unavailable(file, failure, url=shown)
        return Path(answer["path"])

    def describe(self, file: HubFile) -> Record:
        """Requests a file's commit, SHA-256 and size.

        Args:
            file: The file.

        Returns:
            The Hub's metadata of the file.

        Raises:
            IntegrityError: If the metadata is incomplete.
            WeightsUnavailableError: If the Hub does not respond within the time limit.
        """
        answer = self._ask(file, "describe", file.revision)
        record = Record(answer["commit"], answer["etag"] or "", answer["size"] or 0)
        if record.commit is None or not trust.sound(record):
            raise IntegrityError(
                f"the Hub has no SHA-256 for {file.name}",
                expected="a commit, a SHA-256 and a size",
                found="commit {commit!r}, etag {etag!r}, size {size!r}".format(**answer),
                where=file.location,
                fix="Store the weights with LFS or Xet, which record a SHA-256.",
            )
        return record

    def reach(self, url: str, seconds: float, send_token: bool) -> int | Failure:
        """Requests a URL once, to check the connection.

        Args:
            url: The URL.
            seconds: Timeout.
            send_token: Whether to send the Hub token, if there is one.

        Returns:
            The status code, or the reason why there was no response.
        """
        self.deadline = time.monotonic() + seconds
        nothing = HubFile("the address", "", "")
        answer = self._answer(nothing, "reach", url=url, send_token=send_token)
        return Failure(**answer["error"]) if "error" in answer else int(answer["status"])

    def _ask(self, file: HubFile, do: str, revision: str | None, **arguments: Any) -> dict[str, Any]:
        place = {"repo_id": file.repo_id, "filename": file.filename, "revision": revision}
        answer = self._answer(file, do, **place, endpoint=constants.ENDPOINT, **arguments)
        if "error" in answer:
            self._unavailable(file, Failure(**answer["error"]))
        return answer

    def _answer(self, file: HubFile, do: str, **arguments: Any) -> dict[str, Any]:
        """Makes a request. The result may be an `error`."""
        if constants.HF_HUB_OFFLINE:
            return {"error": {"kind": "offline", "found": "OfflineModeIsEnabled: HF_HUB_OFFLINE is set"}}
        job = {
            "do": do,
            "seconds": self.seconds_left(file),
            "file_bytes": file.size + SPARE_BYTES if file.size else MAX_BYTES,
            "memory_bytes": MEMORY_BYTES,
            **arguments,
        }
        python = None if hub_private.has_own_factory() else posix.interpreter()
        answer = python and _ask_in_a_process(python, job)
        answer = answer or hub_process.answer_here(job)
        if "late" in answer:
            found = f"no response within {environment.DOWNLOAD_TIMEOUT.name}"
            return {"error": {"kind": "late", "found": found}}
        return answer

    def _cache(self) -> Path:
        return Path(self.cache_dir or constants.HF_HUB_CACHE)

    def _writable_cache(self, file: HubFile) -> Path:
        cache = self._cache()
        if environment.is_homeless(cache):
            found = f"the cache would be {cache}, and this user has no home folder"
            self._unavailable(file, Failure("homeless", found))
        return cache

    def _unavailable(
        self, file: HubFile, failure: Failure, error: Exception | None = None, url: str | None = None
    ) -> NoReturn:
        # Anything that the client raises, even a plain ValueError or OSError, means that there is no file.
        fix = failure.fix(file.repo_id, constants.ENDPOINT, self._cache(), plain=url is not None)
        if failure.kind not in LOCAL and file.filename.endswith(".safetensors"):
            fix += f" Or put a copy at {mirror_hint(file)} and set MNV2ZOO_WEIGHTS_DIR."
        raise WeightsUnavailableError(
            f"cannot fetch {file.name}",
            expected=f"{file.filename} of {file.repo_id} on the {'file server' if url else 'Hub'}",
            found=failure.found[:400].rstrip("."),
            where=url or file.location,
            fix=fix,
        ) from error

    def seconds_left(self, file: HubFile) -> float:
        """Returns the time left for a file. The first call starts the clock.

        Args:
            file: The file, for messages.

        Returns:
            Seconds, above 0.

        Raises:
            WeightsUnavailableError: If `MNV2ZOO_DOWNLOAD_TIMEOUT` is not a positive number.
        """
        if self.deadline is None:
            seconds = environment.download_timeout()
            if not 0 < seconds < math.inf:
                value = os.environ.get(environment.DOWNLOAD_TIMEOUT.name)
                self._unavailable(file, Failure("setting", f"{environment.DOWNLOAD_TIMEOUT.name} is {value!r}"))
            self.deadline = time.monotonic() + min(seconds, MAX_SECONDS)
        return max(0.1, self.deadline - time.monotonic())


def snapshot(file: HubFile, pin: Record) -> str:
    """Returns the name of the cache folder for a snapshot that contains a file with a known hash.

    Args:
        file: The file.
        pin: Its hash, and its commit if known.

    Returns:
        The commit, or the hash if the commit is unknown, as for a file that only a plain server has.
    """
    return pin.commit or file.revision or pin.sha256


def mirror_hint(file: HubFile) -> str:
    """Returns where a file would have to be in a mirror.

    Args:
        file: The file.

    Returns:
        The path, for messages.
    """
    return f"$MNV2ZOO_WEIGHTS_DIR/{file.repo_id}/{file.filename}"


def _ask_in_a_process(python: str, job: dict[str, Any]) -> dict[str, Any] | None:
    """Makes a request in a separate process. None if no process can be started, or its Python differs."""
    package = Path(__file__).parent.parent
    packages = {"mnv2zoo": [str(package)], "mnv2zoo.weights": [str(package / "weights")]}
    told = {**job, "sys_path": sys.path, "packages": packages, "version": sys.version}
    try:
        done = subprocess.run(
            [python, "-I", "-c", PROGRAM],
            input=json.dumps(told, default=str).encode(),
            stdout=subprocess.PIPE,
            timeout=job["seconds"] + TIDYING_SECONDS,
        )
        answer: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    except subprocess.TimeoutExpired:
        return {"late": True}
    except (OSError, ValueError):
        return None
    if not answer and done.returncode < 0:  # killed, for example by the memory limit
        return {"error": {"kind": "unknown", "found": f"the download process was ended by signal {-done.returncode}"}}
    return answer or None

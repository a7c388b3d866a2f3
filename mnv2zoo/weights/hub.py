"""The Hub, asked with a deadline.

The Hub's client has none: its time-outs are those of single reads, which a byte a second never trips, it
waits as long as a `Retry-After` says, and a lock or a look-up of a name has no time-out at all. So each
question is put by a process of its own (`hub_process.py`), which is ended when its time is up. That
process also refuses answers that would make the client write outside its cache, or without end.

Where no process of this Python can be started, as in a frozen program, or where the program has set a client
factory that another process would not have, a thread puts the question.
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

SPARE_BYTES = 2**26  # what the client may write beside a file whose size is known
TIDYING_SECONDS = 5  # for the process to remove what it has half written, when its time is up
MEMORY_BYTES = 2**32  # far more than the client needs; an error of endless text would take all that there is
MISSING = ("file", "repository", "revision")  # kinds of failures that a 404 can be
MAX_SECONDS = 10**7  # some months; timers take no more

# Our packages are there without what they import, which would take seconds. What fails here is done without a process.
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
        name: What the user called it, for messages.
        repo_id: Its repository.
        filename: Its path there.
        revision: A commit, branch or tag; None for `main`.
        sha256: Its hash, if an index tells.
        size: Its size in bytes, if an index tells.
    """

    name: str
    repo_id: str
    filename: str
    revision: str | None = None
    sha256: str | None = None
    size: int | None = None

    @classmethod
    def of_hub_id(cls, hub_id: str, name: str = "", filename: str | None = None) -> HubFile:
        """Reads timm's way to name a repository.

        Args:
            hub_id: `owner/name`, or `owner/name@revision`.
            name: What the user called it; `hf-hub:` and the above by default.
            filename: Its path in the repository, `model.safetensors` by default.

        Returns:
            The file, of whose content nothing is known.
        """
        repo_id, _, revision = hub_id.partition("@")
        return cls(name or f"hf-hub:{hub_id}", repo_id, filename or "model.safetensors", revision or None)

    @property
    def location(self) -> str:
        """The same string that `WeightsEntry.location` is."""
        return schema.hub_location(self.repo_id, self.revision, self.filename)

    @property
    def pin(self) -> Record | None:
        """What an index says that the content must match; None if it says nothing."""
        return None if self.sha256 is None else Record(self.revision, self.sha256, self.size or 0)


@dataclass
class Hub:
    """The Hub and its cache, for as long as `MNV2ZOO_DOWNLOAD_TIMEOUT` says from the first question on.

    Attributes:
        cache_dir: The cache; the client's own default if None.
        deadline: When the time is up, by `time.monotonic`; None before the first question.
    """

    cache_dir: str | Path | None = None
    deadline: float | None = field(default=None, init=False)

    def cached(self, file: HubFile, revision: str | None) -> Path | None:
        """Looks into the cache, asking nothing.

        Args:
            file: The file.
            revision: The revision wanted; None for `main`.

        Returns:
            Its path, None if it is not there.

        Raises:
            WeightsUnavailableError: If the cache cannot be read, or the file has no proper name.
        """
        try:
            found = huggingface_hub.try_to_load_from_cache(file.repo_id, file.filename, self._cache(), revision)
        except Exception as error:
            self._unavailable(file, explain(error), error)
        return Path(found) if isinstance(found, str) else None

    def download(self, file: HubFile, revision: str | None, force: bool = False) -> Path:
        """Fetches a file into the cache; offline, takes what is there. What it holds is for the caller to verify.

        Args:
            file: The file.
            revision: The revision wanted; None for `main`.
            force: Fetch it even if it is in the cache.

        Returns:
            Its path.

        Raises:
            WeightsUnavailableError: If it cannot be fetched, or not in time.
        """
        if constants.HF_HUB_OFFLINE and not force and (path := self.cached(file, revision)):
            return path
        cache = self._writable_cache(file)
        answer = self._ask(file, "download", revision, force=force, cache_dir=str(cache))
        return Path(answer["path"])

    def fetch_plain(self, file: HubFile, pin: Record, url: str, force: bool = False) -> Path | None:
        """Fetches a file of a known hash from a plain file server into the cache.

        It lies there as the Hub's client puts it, in the snapshot of its commit, or of its hash if no commit is known.

        Args:
            file: The file.
            pin: Its hash, and its size and commit as far as they are known.
            url: Its address on the server.
            force: Fetch it even if it is in the cache.

        Returns:
            Its path, None if the server has no such file.

        Raises:
            IntegrityError: If the server sends another file.
            WeightsUnavailableError: If it cannot be fetched, or not in time.
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
            fix = "Check MNV2ZOO_WEIGHTS_URL, and the file on the server. Nothing was kept."
            raise IntegrityError(problem, expected=expected, found=found, where=shown, fix=fix)
        if "error" in answer:
            failure = Failure(**answer["error"])
            if failure.kind in MISSING and failure.found.startswith("404"):
                return None
            self._unavailable(file, failure, url=shown)
        return Path(answer["path"])

    def describe(self, file: HubFile) -> Record:
        """Asks for a file's commit, SHA-256 and size.

        Args:
            file: The file.

        Returns:
            What the Hub says.

        Raises:
            IntegrityError: If it gives no such things.
            WeightsUnavailableError: If it cannot be asked, or does not answer in time.
        """
        answer = self._ask(file, "describe", file.revision)
        record = Record(answer["commit"], answer["etag"] or "", answer["size"] or 0)
        if record.commit is None or not trust.sound(record):
            raise IntegrityError(
                "the Hub does not vouch for the file",
                expected="a commit, a SHA-256 and a size",
                found="commit {commit!r}, etag {etag!r}, size {size!r}".format(**answer),
                where=file.location,
                fix="Weights must be stored with LFS or Xet, which record a SHA-256.",
            )
        return record

    def reach(self, url: str, seconds: float, send_token: bool) -> int | Failure:
        """Asks for an address once, to see whether there is a way to it.

        Args:
            url: The address.
            seconds: How long to wait.
            send_token: Whether to send the Hub's token, if there is one.

        Returns:
            The status code, or why there was no answer.
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
        """Puts a question; an answer may be an `error`."""
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
            found = f"no answer in the time of {environment.DOWNLOAD_TIMEOUT.name}"
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
        # Whatever the client raises, a plain ValueError or OSError included, means that there is no file.
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
        """How much time is left for a file; the first call starts the clock.

        Args:
            file: The file, for messages.

        Returns:
            Seconds, above 0.

        Raises:
            WeightsUnavailableError: If `MNV2ZOO_DOWNLOAD_TIMEOUT` is not a number of seconds above 0.
        """
        if self.deadline is None:
            seconds = environment.download_timeout()
            if not 0 < seconds < math.inf:
                value = os.environ.get(environment.DOWNLOAD_TIMEOUT.name)
                self._unavailable(file, Failure("setting", f"{environment.DOWNLOAD_TIMEOUT.name} is {value!r}"))
            self.deadline = time.monotonic() + min(seconds, MAX_SECONDS)
        return max(0.1, self.deadline - time.monotonic())


def snapshot(file: HubFile, pin: Record) -> str:
    """Names the cache's folder of a snapshot that a file of known hash belongs to.

    Args:
        file: The file.
        pin: What is known of it.

    Returns:
        Its commit; its hash if no commit is known, as for a file that only a plain server has.
    """
    return pin.commit or file.revision or pin.sha256


def mirror_hint(file: HubFile) -> str:
    """Where a file would have to be in a mirror.

    Args:
        file: The file.

    Returns:
        Its path, for messages.
    """
    return f"$MNV2ZOO_WEIGHTS_DIR/{file.repo_id}/{file.filename}"


def _ask_in_a_process(python: str, job: dict[str, Any]) -> dict[str, Any] | None:
    """Lets a process of its own put a question; None if none can be started, or it is another Python."""
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
    if not answer and done.returncode < 0:  # killed, such as for memory
        return {
            "error": {"kind": "unknown", "found": f"the process that downloads was ended by signal {-done.returncode}"}
        }
    return answer or None

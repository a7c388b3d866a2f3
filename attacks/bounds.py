"""Which bounds of a download hold in a process of its own, and which in the program's own process.

Each bound is tried in both places. The table in `docs/security.md` is made of what came of it, so a place where a bound
does not hold whole is recorded, not only counted.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import huggingface_hub
import psutil
from filelock import FileLock

from attacks import bad_hub, zoo
from attacks.hostile_hub import HostileHub, Trick
from attacks.tally import Tally
from attacks.zoo import TOKEN, Zoo, within
from mnv2zoo.errors import IntegrityError, WeightsError
from mnv2zoo.weights import hub, hub_process

SECONDS = 3  # the time limit of a load that nothing else ends
GRACE = 3  # seconds after which nothing of a download may run any more
PLACES = ("process", "here")


@dataclass
class Bound:
    """What came of a bound in one place.

    Attributes:
        held: Tries in which it held.
        tries: All tries.
        measured: The largest value that was seen, with its unit.
        exceptions: The tries in which it does not hold there, in words.
    """

    held: int = 0
    tries: int = 0
    measured: str = ""
    exceptions: list[str] = field(default_factory=list)

    def count(self, what: str, holds: bool) -> None:
        self.tries += 1
        self.held += holds
        if not holds:
            self.exceptions.append(what)


def run(tally: Tally, stalls: int | None = None, floods: bool = True) -> None:
    for where in PLACES:
        with zoo.zoo() as place, client(where):
            found = {
                **_time(place, where, stalls),
                "headers": _refused(place, _bad_headers(place)),
                "packed": _refused(place, _packed()),
                "redirects": _refused(place, _redirects()),
                **(_floods(place) if floods else {}),
                "hash": _hash(place),
                "token": _token(place),
            }
        for name, bound in found.items():
            tally.bounds.setdefault(name, {})[where] = bound.__dict__
            for what in bound.exceptions:
                allowed = (name, where, what) in ALLOWED
                tally.check(f"the bound {name} in the place {where}: {what}", allowed)
            tally.survived += bound.held


LOCK = "another process holds the cache's lock"
# Where a bound cannot hold: the Hub's client waits for its lock without end, and a thread cannot be ended.
ALLOWED = {("stops", "here", LOCK)}


@contextlib.contextmanager
def client(where: str) -> Iterator[None]:
    """Lets downloads run in one of the places: a client factory of the program's own keeps them in its process."""
    if where == "process":
        yield
        return
    client = type(huggingface_hub.get_session())
    huggingface_hub.set_client_factory(lambda: client(follow_redirects=True))
    try:
        yield
    finally:
        module = sys.modules[huggingface_hub.get_session.__module__]
        huggingface_hub.set_client_factory(module.default_client_factory)


def _load(place: Zoo, seconds: float = 30) -> tuple[Exception | None, float]:
    """Loads with a time limit, and gives the error and the seconds it took."""
    start = time.monotonic()
    try:
        within(seconds, place.load)()
    except WeightsError as error:
        return error, time.monotonic() - start
    return None, time.monotonic() - start


def _time(place: Zoo, where: str, stalls: int | None) -> dict[str, Bound]:
    """Loads that only the time limit ends: how late the caller is, and whether anything runs on."""
    late, stops, latest = Bound(), Bound(), 0.0
    for what, trick in [*_stalls(place)][:stalls]:
        place.forget()
        with contextlib.ExitStack() as stack:
            if what == LOCK:
                _hold_lock(stack, place)
            place.hub.trick = trick
            error, seconds = _load(place, SECONDS)
            place.hub.trick = None
            late.count(what, error is not None and seconds < SECONDS + hub.TIDYING_SECONDS + 1)
            latest = max(latest, seconds - SECONDS)
            stops.count(what, _ended())
    _ended()
    late.measured = f"{latest:.1f} s late"
    return {"waits": late, "stops": stops}


def _stalls(place: Zoo) -> Iterator[tuple[str, Trick | None]]:
    header = b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1000
    yield "no answer", lambda r: bool(time.sleep(4 * SECONDS)) or True
    yield "a byte at a time of the headers", lambda r: r.drip(header)
    yield "a byte at a time of the body", lambda r: r.wants_body and bad_hub._slow(r, zoo.data())
    yield (
        "a long Retry-After",
        lambda r: r.wants_body and r.answer(429, {"Retry-After": 10**6, "Content-Length": 0}),
    )
    yield "every body is cut", lambda r: r.wants_body and r.answer(200, {"Content-Length": 10**6}, bytes(2000))
    yield LOCK, None


def _hold_lock(stack: contextlib.ExitStack, place: Zoo) -> None:
    sha256 = hashlib.sha256(zoo.data()).hexdigest()
    path = place.cache / ".locks/models--zoo--pinned" / f"{sha256}.lock"
    path.parent.mkdir(parents=True)
    stack.enter_context(FileLock(path))


def _ended() -> bool:
    """Whether the processes and threads of downloads end within a few seconds."""
    deadline = time.monotonic() + GRACE
    while time.monotonic() < deadline:
        threads = [thread for thread in threading.enumerate() if thread.name == hub_process.THREAD]
        children = [child for child in psutil.Process().children(recursive=True) if _downloads(child)]
        if not threads and not children:
            return True
        time.sleep(0.1)
    return False


def _downloads(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return hub.PROGRAM in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _refused(place: Zoo, tricks: Iterator[tuple[str, Trick]]) -> Bound:
    """Loads that must be refused, with nothing written outside the cache and no half file left in it."""
    bound = Bound()
    for what, trick in tricks:
        place.forget()
        outside = {*place.folder.parent.iterdir()}
        place.hub.trick = trick
        error, _ = _load(place, 2 * SECONDS)
        place.hub.trick = None
        untouched = {*place.folder.parent.iterdir()} == outside
        bound.count(what, error is not None and untouched and not [*place.cache.rglob("*.incomplete")])
    return bound


def _bad_headers(place: Zoo) -> Iterator[tuple[str, Trick]]:
    for path in ("../../../../outside", f"{place.folder.parent}/outside", "..", "a/b"):
        yield f"the ETag {path}", bad_hub._metadata(X_Linked_ETag=f'"{path}"')
        yield f"the commit {path}", bad_hub._metadata(X_Repo_Commit=path)


def _packed() -> Iterator[tuple[str, Trick]]:
    bomb = gzip.compress(bytes(2**27))
    headers = {"Content-Encoding": "gzip", "Content-Length": len(bomb)}
    yield "the file", bad_hub._body(200, headers, bomb)
    yield "an error", bad_hub._body(404, headers, bomb)
    yield "the metadata", lambda request: request.answer(200, {**headers, "ETag": '"abc"'}, bomb)


def _redirects() -> Iterator[tuple[str, Trick]]:
    yield "a loop", lambda request: request.answer(302, {"Location": request.path})
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"):
        yield f"to {target}", bad_hub._body(302, {"Location": target, "Content-Length": 0})


def _floods(place: Zoo) -> dict[str, Bound]:
    """Bodies without end: how much is written to disk of a file, and how much memory an error takes."""
    disk, memory = Bound(), Bound()
    most = hub.SPARE_BYTES + len(zoo.data()) + 2**20
    for bound, status, limit, measure in (
        (disk, 200, most, lambda: bad_hub._size(place.cache)),
        (memory, 404, 2**28, _memory),
    ):
        place.forget()
        place.hub.trick = lambda request, status=status: request.wants_body and bad_hub._endless(request, status)
        with _watched(measure) as seen:
            error, _ = _load(place, 60)
        place.hub.trick = None
        largest = max(seen) - seen[0]  # the cache is empty at first, this process is not
        bound.count(f"{largest} bytes", error is not None and largest <= limit)
        bound.measured = f"{largest / 2**20:.0f} MiB"
    return {"disk": disk, "memory": memory}


def _memory() -> int:
    """Memory of this process and of those that it started."""
    total = 0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


@contextlib.contextmanager
def _watched(measure: Callable[[], int]) -> Iterator[list[int]]:
    seen, done = [measure()], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            with contextlib.suppress(OSError):  # a file that was there a moment ago
                seen.append(measure())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()
        seen.append(measure())


def _hash(place: Zoo) -> Bound:
    """Other bytes than those of the hash, from the Hub and in the cache."""
    bound, data = Bound(), zoo.data()
    for where in (0, len(data) // 2, len(data) - 1):
        wrong = data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :]
        place.forget()
        place.hub.fail(wrong_bytes=wrong)
        error, _ = _load(place)
        place.hub.heal()
        bound.count(f"byte {where} altered", isinstance(error, IntegrityError))
        bound.count(f"byte {where} altered: the next load", _load(place)[0] is None)
    return bound


def _token(place: Zoo) -> Bound:
    """The token goes to the Hub, and neither to another host nor into an error."""
    bound = Bound()
    with HostileHub() as thief:
        for what, trick in (
            ("a redirect of the file", bad_hub._body(302, {"Location": f"{thief.endpoint}/x", "Content-Length": 0})),
            ("a redirect of the metadata", bad_hub._any_path(302, Location=f"{thief.endpoint}/zoo/pinned")),
        ):
            place.forget()
            place.hub.clear()
            place.hub.trick = trick
            error, _ = _load(place, SECONDS)
            place.hub.trick = None
            told = f"{error!r} {error} {error and error.__cause__!r} {[request.path for request in thief.requests]}"
            sent = any(TOKEN in str(request.headers) for request in thief.requests)
            bound.count(what, error is not None and TOKEN not in told and not sent)
    return bound

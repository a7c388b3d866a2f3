"""Many at once: processes and threads that load the same uncached weights, some of them killed; and odd machines.

All that live get the right tensors, few downloads do for all, and what the dead leave behind stops nobody.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub

from attacks import zoo
from attacks.tally import Tally
from attacks.zoo import PINNED, UNPINNED, Zoo
from mnv2zoo import weights
from mnv2zoo.weights import index, trust

PROCESSES, THREADS = 16, 64
FEW = 3  # downloads that may be made where one would do
SECONDS = 120  # the time limit of a round


def run(tally: Tally, rounds: int = 100, fresh_rounds: int = 5, threads: int = THREADS) -> None:
    with zoo.zoo() as place:
        for number in range(rounds):
            _forked(tally, place, number, killed=(0, 0, 4)[number % 3])
        for number in range(fresh_rounds):
            _fresh(tally, place, number)
        _threads(tally, place, threads)
        _odd_machines(tally, place)


def _forked(tally: Tally, place: Zoo, number: int, killed: int) -> None:
    """Processes forked from this one, which has all imported and threads of its own."""
    place.forget()
    place.hub.clear()
    name, seed = ((PINNED, 0), (UNPINNED, 1))[number % 2]
    randomness = random.Random(number)
    pids = []
    for _ in range(PROCESSES):
        pid = os.fork()
        if pid == 0:
            _work(lambda: zoo.right(place.load(name), seed))
        pids.append(pid)
    for pid in randomness.sample(pids, killed):
        time.sleep(randomness.random() / 2)
        os.kill(pid, signal.SIGKILL)
    statuses = _statuses(pids)
    lost = sum(status not in (0, -signal.SIGKILL) for status in statuses)
    tally.survived += PROCESSES - lost
    tally.losses += [f"round {number}: of {PROCESSES} forked processes one did not get {name}"] * lost
    _afterwards(tally, place, f"round {number}, {killed} killed", name, seed, FEW if not killed else FEW + killed)


def _work(load: Callable[[], bool]) -> None:
    status = 2
    try:
        status = 0 if load() else 1
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)


def _statuses(pids: list[int]) -> list[int | None]:
    """How processes ended; None for one that had to be killed because it did not."""
    found: dict[int, int | None] = {}
    end = time.monotonic() + SECONDS
    while len(found) < len(pids) and time.monotonic() < end:
        for pid in pids:
            if pid not in found:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    found[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    for pid in pids:
        if pid not in found:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return [found.get(pid) for pid in pids]


def _afterwards(tally: Tally, place: Zoo, what: str, name: str, seed: int, downloads: int) -> None:
    made = place.hub.downloads()
    tally.check(f"{what}: {made} downloads", made <= downloads)
    tally.attempt(f"{what}: the next load", lambda: place.load(name), lambda found: zoo.right(found, seed), errors=())
    if name == UNPINNED:
        tally.attempt(f"{what}: the record", trust.records, lambda records: len(records) == 1, errors=())


SCRIPT = f"""
import hashlib, sys, torch
from mnv2zoo import weights
found = weights.load({PINNED!r})
digest = hashlib.sha256(b"".join(found[name].numpy().tobytes() for name in sorted(found))).hexdigest()
sys.exit(digest != sys.argv[1])
"""


def _fresh(tally: Tally, place: Zoo, number: int) -> None:
    """Processes that start from nothing."""
    place.forget()
    place.hub.clear()
    environ = {
        **os.environ,
        "HF_HUB_CACHE": str(place.cache),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
    }
    own = zoo.tensors()
    digest = hashlib.sha256(b"".join(own[key].numpy().tobytes() for key in sorted(own))).hexdigest()
    processes = [subprocess.Popen([sys.executable, "-c", SCRIPT, digest], env=environ) for _ in range(PROCESSES)]
    end = time.monotonic() + SECONDS
    for process in processes:
        try:
            tally.check(f"fresh round {number}", process.wait(max(0.1, end - time.monotonic())) == 0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            tally.losses.append(f"fresh round {number}: no end after {SECONDS} s")
    _afterwards(tally, place, f"fresh round {number}", PINNED, 0, FEW)


def _threads(tally: Tally, place: Zoo, count: int) -> None:
    for name, seed in ((PINNED, 0), (UNPINNED, 1)):
        place.forget()
        place.hub.clear()
        with ThreadPoolExecutor(count) as pool:
            for future in [pool.submit(place.load, name) for _ in range(count)]:
                tally.attempt(f"a thread with {name}", future.result, lambda found: zoo.right(found, seed), (), SECONDS)  # noqa: B023
        _afterwards(tally, place, f"{count} threads", name, seed, FEW)


def _odd_machines(tally: Tally, place: Zoo) -> None:
    for name, seed in ((PINNED, 0), (UNPINNED, 1)):

        def right(found: dict[str, object], seed: int = seed) -> bool:
            return zoo.right(found, seed)  # type: ignore[arg-type]

        def load(name: str = name) -> object:
            return place.load(name)

        place.forget()
        os.environ["MNV2ZOO_HOME"] = str(place.folder / "not/there/yet")
        tally.attempt(f"a home that does not exist, {name}", load, right, errors=())
        place.forget()
        (place.folder / "file").touch()
        os.environ["MNV2ZOO_HOME"] = str(place.folder / "file/home")
        tally.attempt(f"a home that cannot exist, {name}", load, right)

        _mounted(tally, place, name, load, right)

        place.forget()
        load()
        for when in (0, 2**33):
            for file in place.folder.rglob("*"):
                with contextlib.suppress(OSError):
                    os.utime(file, (when, when), follow_symlinks=False)
            tally.attempt(f"a clock that jumps to {when}, {name}", load, right, errors=())
            real, time.time = time.time, lambda when=when: when
            try:
                tally.attempt(f"the time {when}, {name}", load, right, errors=())
                place.forget()
                tally.attempt(f"the time {when} for a download, {name}", load, right, errors=())
            finally:
                time.time = real

    for method in ("fork", "forkserver", "spawn"):
        place.forget()
        with multiprocessing.get_context(method).Pool(2) as pool:
            loads = pool.map_async(
                _loaded, [(place.hub.endpoint, str(place.cache), os.environ["MNV2ZOO_WEIGHTS_INDEX"])] * 4
            )
            try:
                tally.check(f"{method}", all(loads.get(SECONDS)))
            except Exception as error:
                tally.losses.append(f"{method}: {type(error).__name__}: {error}")


def _loaded(where: tuple[str, str, str]) -> bool:
    huggingface_hub.constants.ENDPOINT, cache, further = where
    index.INDEX = index.Index(index.shipped_path(), Path(further))
    return zoo.right(weights.load(PINNED, cache))


def _mounted(
    tally: Tally, place: Zoo, name: str, load: Callable[[], object], right: Callable[[dict[str, object]], bool]
) -> None:
    """A read-only cache, with the weights and without; and one on a full disk, which is then made larger."""
    place.forget()
    place.cache.mkdir(parents=True)
    try:
        with _tmpfs(place.cache, "16m") as remount:
            remount("ro")
            tally.attempt(f"an empty read-only cache, {name}", load)
            remount("rw")
            load()
            remount("ro")
            tally.attempt(f"a read-only cache that has {name}", load, right, errors=())  # type: ignore[arg-type]
            remount("rw")
            file = next(path for path in place.cache.rglob("*.safetensors"))
            file.write_bytes(file.read_bytes()[:-1] + b"\1")
            remount("ro")
            tally.attempt(f"a read-only cache with a bad {name}", load)
        place.forget()
        place.cache.mkdir(parents=True)
        with _tmpfs(place.cache, "1m") as remount:
            tally.attempt(f"a full disk, {name}", load)
            remount("size=16m")
            tally.attempt(f"a disk that is no longer full, {name}", load, right, errors=())  # type: ignore[arg-type]
    except subprocess.CalledProcessError as error:
        tally.skipped.append(f"a read-only cache and a full disk: tmpfs cannot be mounted ({error.stderr.strip()})")


@contextlib.contextmanager
def _tmpfs(folder: Path, size: str) -> Iterator[Callable[[str], object]]:
    def call(*command: str) -> object:
        return subprocess.run(command, check=True, capture_output=True, text=True)

    call("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    try:
        yield lambda option: call("mount", "-o", f"remount,{option}", str(folder))
    finally:
        call("umount", str(folder))

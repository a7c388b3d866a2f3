"""Caches compiled engines on disk, so that the next process need not build them again.

An entry is a file. Its first line is the SHA-256 of the rest, which is a safetensors document with the parts of the
entry and its key. Each file is read once, and the bytes that were hashed are the bytes that are used.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import safetensors.numpy

from mnv2zoo import environment
from mnv2zoo.errors import DeployError, one_line
from mnv2zoo.runtimes.runners import Parts
from mnv2zoo.system import posix
from mnv2zoo.system.files import locked, whole_file

T = TypeVar("T")
KEY, SUM = "key", "sum"
LOCK_SECONDS = 900  # quantizing to int8 takes minutes on a slow machine
ENTRIES, FOLDER = "*.engine", "engines"
MOST_BYTES = 2**30  # of all entries in the default folder; a model of width 1.0 takes 15 MB


@dataclass(frozen=True)
class Cache:
    """A folder of entries.

    The hash in an entry detects damage, truncation and mix-ups. It does not detect attacks, because an attacker who can
    write to the entry can replace the hash too. Therefore, a folder or file that other users may write to is not used.

    Attributes:
        folder: The folder; None to cache nothing.
        key: The part of the key that all entries have in common.
        optional: Whether to work without a cache if the folder cannot be used. Otherwise, that raises an error.
        most: Maximum size of all entries in bytes; None for no limit. The least recently used entries are removed
            first.
    """

    folder: Path | None = None
    key: Mapping[str, str] = field(default_factory=dict)
    optional: bool = False
    most: int | None = None

    @classmethod
    def at_home(cls) -> Cache:
        """Opens the cache in `MNV2ZOO_HOME`. If it cannot be used, nothing is cached."""
        home = environment.home()
        return cls(None if environment.is_homeless(home) else home / FOLDER, optional=True, most=MOST_BYTES)

    def fetch(self, key: Mapping[str, str], make: Callable[[], Parts], use: Callable[[Parts], T]) -> T:
        """Loads a valid entry, or builds it.

        If an entry is damaged, or `use` raises an error for it, it is rebuilt with a warning. While one process builds
        an entry, others wait for it.

        Args:
            key: The facts that this entry depends on, in addition to the common part of the key.
            make: Builds the parts, as bytes by name.
            use: Converts the parts to the result. The parts are only cached if it raises no error.

        Returns:
            The result of `use`.

        Raises:
            DeployError: If the folder is not writable, or other users may write to it.
        """
        if self.folder is None:
            return use(make())
        file, whole_key = self._entry(self.folder, key)
        made: list[T] = []

        def make_and_use() -> tuple[Parts, T]:
            parts = make()
            made.append(use(parts))
            return parts, made[0]

        try:
            return self._fetch(file, whole_key, make_and_use, use)
        except _UnusableError as error:
            self._do_without(error)
            return made[0] if made else make_and_use()[1]

    def add(self, key: Mapping[str, str], number: int) -> int:
        """Adds a number to a cached sum.

        Args:
            key: As for `fetch`.
            number: The number.

        Returns:
            The sum of all numbers that were added for this key; `number` if nothing can be cached.

        Raises:
            DeployError: As `fetch`.
        """
        if self.folder is None:
            return number
        file, whole_key = self._entry(self.folder, key)
        total = number
        try:
            _make_folder(file)
            with _locked(file):
                with contextlib.suppress(Exception):  # a damaged sum starts again
                    total += int(_read(file, whole_key)[SUM])
                with _reported(file.parent):
                    _write(file, whole_key, {SUM: str(total).encode()})
        except _UnusableError as error:
            self._do_without(error)
        return total

    def _do_without(self, error: _UnusableError) -> None:
        """Reports that the folder cannot be used, unless it is optional and read-only."""
        if not self.optional:
            raise error.reason from error.__cause__
        if not isinstance(error.__cause__, OSError):  # a read-only folder needs no warning
            warnings.warn(f"engines are not cached: {one_line(error.reason)}", stacklevel=3)

    def _entry(self, folder: Path, key: Mapping[str, str]) -> tuple[Path, bytes]:
        """The file and the whole key of an entry."""
        whole_key = json.dumps({**self.key, **key}, sort_keys=True).encode()
        return folder / f"{hashlib.sha256(whole_key).hexdigest()}.engine", whole_key

    def _fetch(
        self, file: Path, key: bytes, make_and_use: Callable[[], tuple[Parts, T]], use: Callable[[Parts], T]
    ) -> T:
        _make_folder(file)
        # Entries appear whole, so reading needs no lock, and a read-only folder works too.
        with contextlib.suppress(Exception):
            used = use(_read(file, key))
            with contextlib.suppress(OSError):
                os.utime(file)  # `make_room` relies on it
            return used
        with _locked(file):
            try:
                return use(_read(file, key))
            except FileNotFoundError:
                pass
            except Exception as error:  # runtimes raise nearly any exception for bytes that they cannot use
                warnings.warn(f"the cache entry {file} cannot be used and is rebuilt: {one_line(error)}", stacklevel=2)
            parts, used = make_and_use()
            with _reported(file.parent):
                _write(file, key, parts)
        self.make_room()
        return used

    def has(self, key: Mapping[str, str]) -> bool:
        """Whether there is an entry for a key, valid or not."""
        return self.folder is not None and self._entry(self.folder, key)[0].is_file()

    def make_room(self) -> None:
        """Removes the least recently used entries until the others fit into the maximum size."""
        if self.folder is None or self.most is None:
            return
        with contextlib.suppress(OSError):
            files = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in self.folder.glob(ENTRIES))
            held = sum(size for _, size, _ in files)
            for _, size, file in files[:-1]:  # keep the entry that was just used
                if held <= self.most:
                    return
                file.unlink(missing_ok=True)
                held -= size

    def entries(self) -> list[Entry]:
        """Lists the entries, the most recently used first. Unreadable entries are included."""
        if self.folder is None or not self.folder.is_dir():
            return []
        found = []
        for file in self.folder.glob(ENTRIES):
            try:
                status = file.stat()
            except OSError:  # another process has removed it
                continue
            try:
                about = json.loads(_parts(file)[KEY])
            except Exception:  # the file may contain anything
                about = {}
            found.append(Entry(file, status.st_size, status.st_mtime, about))
        return sorted(found, key=lambda entry: entry.used, reverse=True)

    def clear(self) -> int:
        """Removes all entries.

        Returns:
            Their total size in bytes.

        Raises:
            OSError: If an entry cannot be removed.
        """
        if self.folder is None or not self.folder.is_dir():
            return 0
        entries = [(file, file.stat().st_size) for file in self.folder.glob(ENTRIES)]
        for file in (*(file for file, _ in entries), *self.folder.glob("*.lock")):
            file.unlink(missing_ok=True)
        return sum(size for _, size in entries)


@dataclass(frozen=True)
class Entry:
    """An entry of the cache.

    Attributes:
        file: Its file.
        size: Size of the file in bytes.
        used: Time of its last use, in seconds since 1970.
        about: Its key; empty if the file cannot be read.
    """

    file: Path
    size: int
    used: float
    about: Mapping[str, str]


class _UnusableError(Exception):
    """Raised when the folder cannot be used, with the error to report."""

    def __init__(self, reason: DeployError) -> None:
        super().__init__(reason)
        self.reason = reason


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Returns the versions of packages by import name. The version of a missing package is empty."""
    return {package: _version(package) for package in packages}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)  # searching all distributions takes longer
    except importlib.metadata.PackageNotFoundError:
        return ", ".join(map(importlib.metadata.version, _distributions().get(package, ())))


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    # Several distributions can provide a package: onnxruntime-gpu provides `onnxruntime` too.
    return importlib.metadata.packages_distributions()


def _read(file: Path, key: bytes) -> Parts:
    parts = _parts(file)
    if parts.pop(KEY) != key:
        raise DeployError("it was built for another key")
    return parts


def _parts(file: Path) -> dict[str, bytes]:
    with file.open("rb") as opened:
        _require_private(file, os.fstat(opened.fileno()))
        digest, _, content = opened.read().partition(b"\n")
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise DeployError("its content does not match its SHA-256")
    return {name: part.tobytes() for name, part in safetensors.numpy.load(content).items()}


def _write(file: Path, key: bytes, parts: Parts) -> None:
    arrays = {name: np.frombuffer(part, np.uint8) for name, part in {**parts, KEY: key}.items()}
    content = safetensors.numpy.save(arrays)
    with whole_file(file) as opened:
        posix.forbid_others(opened.fileno())
        opened.write(hashlib.sha256(content).hexdigest().encode() + b"\n")
        opened.write(content)


def _make_folder(file: Path) -> None:
    """Creates the folder of an entry, and checks that it is private."""
    with _reported(file.parent):
        if not file.is_file():
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_private(file.parent, file.parent.stat())


def _require_private(path: Path, status: os.stat_result) -> None:
    if posix.others_may_write(status):
        raise DeployError(
            f"other users may write to {path}",
            expected="a path that only you or root can write to",
            found=f"mode {stat.filemode(status.st_mode)}, owner {status.st_uid}",
            where=path,
            fix=f"Run `chmod go-w {path}`, or choose another folder.",
        )


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    lock = file.with_suffix(".lock")
    with contextlib.ExitStack() as stack:
        with _reported(file.parent):
            try:
                stack.enter_context(locked(lock, LOCK_SECONDS))
            except TimeoutError as error:
                raise DeployError(
                    f"another process is still building the cache entry {file.name}",
                    expected=f"the lock to be released within {LOCK_SECONDS} s",
                    found=error.strerror,
                    where=lock,
                    fix="Stop the process that holds the lock, or choose another folder.",
                ) from error
        yield


@contextlib.contextmanager
def _reported(folder: Path) -> Iterator[None]:
    try:
        yield
    except DeployError as error:
        raise _UnusableError(error) from error.__cause__
    except OSError as error:
        reason = DeployError(
            f"cannot write to the cache folder {folder}",
            expected="a writable folder",
            found=error.strerror or error,
            where=folder,
            fix="Choose a writable folder, or leave out the cache.",
        )
        raise _UnusableError(reason) from error

"""What engines start from, kept on disk, so that the next process need not make it again.

An entry is a file of one line with the SHA-256 of all that follows it, and a safetensors document of the
parts and of the facts that they were made from. It is read once, and what was hashed is what is used.
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

from mnv2zoo.errors import DeployError, one_line
from mnv2zoo.runtimes.runners import Parts
from mnv2zoo.system import posix
from mnv2zoo.system.files import locked, whole_file

T = TypeVar("T")
FACTS = "facts"
LOCK_SECONDS = 900  # an engine of int8 takes minutes on a slow machine


@dataclass(frozen=True)
class Cache:
    """A folder of entries.

    A hash beside what it vouches for tells damage, halves and mix-ups; whoever can write both can change
    both. So nobody else may be able to: a folder that others may write is refused, and such a file not used.

    Attributes:
        folder: Where they are; None where nothing is kept.
        facts: What all that is fetched depends on.
    """

    folder: Path | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    def fetch(self, facts: Mapping[str, str], make: Callable[[], Parts], use: Callable[[Parts], T]) -> T:
        """Takes an entry if there is a sound one, and makes it otherwise.

        An entry that was altered, is not whole, or that `use` cannot use is made anew, with a warning.
        While one process makes an entry, others wait for it.

        Args:
            facts: What this depends on beyond the cache's own facts.
            make: Makes the parts, as bytes by name.
            use: Makes of the parts what is wanted. Only what it took without an error is kept.

        Returns:
            What `use` returned.

        Raises:
            DeployError: If the folder cannot be written, or others may write it.
        """
        if self.folder is None:
            return use(make())
        known = json.dumps({**self.facts, **facts}, sort_keys=True).encode()
        file = self.folder / f"{hashlib.sha256(known).hexdigest()}.engine"
        with _told(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _require_private(self.folder, self.folder.stat())
        # Entries appear whole, so reading needs no lock, and a folder that cannot be written serves too.
        with contextlib.suppress(Exception):
            return use(_read(file, known))
        with _alone(file):
            try:
                return use(_read(file, known))
            except FileNotFoundError:
                pass
            except Exception as error:  # runtimes raise nearly anything at what they cannot use
                warnings.warn(f"{file} is not used but made anew: {one_line(error)}", stacklevel=2)
            parts = make()
            used = use(parts)
            with _told(self.folder):
                _write(file, known, parts)
        return used


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of packages, by the names that they are imported by; empty for one that is not installed."""
    return {package: _version(package) for package in packages}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)  # finding out who else provides it takes a good while
    except importlib.metadata.PackageNotFoundError:
        return ", ".join(map(importlib.metadata.version, _distributions().get(package, ())))


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    # One package may be of several names, as `onnxruntime` is of onnxruntime-gpu.
    return importlib.metadata.packages_distributions()


def _read(file: Path, known: bytes) -> Parts:
    with file.open("rb") as opened:
        _require_private(file, os.fstat(opened.fileno()))
        digest, _, content = opened.read().partition(b"\n")
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise DeployError("its content has another hash than it had when it was written")
    parts = {name: part.tobytes() for name, part in safetensors.numpy.load(content).items()}
    if parts.pop(FACTS) != known:
        raise DeployError("it was made from something else")
    return parts


def _write(file: Path, known: bytes, parts: Parts) -> None:
    arrays = {name: np.frombuffer(part, np.uint8) for name, part in {**parts, FACTS: known}.items()}
    content = safetensors.numpy.save(arrays)
    with whole_file(file) as opened:
        posix.forbid_others(opened.fileno())
        opened.write(hashlib.sha256(content).hexdigest().encode() + b"\n")
        opened.write(content)


def _require_private(path: Path, status: os.stat_result) -> None:
    if posix.others_may_write(status):
        raise DeployError(
            "others may write what would be run here",
            expected="an owner who alone may write",
            found=f"{stat.filemode(status.st_mode)} of user {status.st_uid}",
            where=path,
            fix=f"Run: chmod go-w {path}; or name another folder.",
        )


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    lock = file.with_suffix(".lock")
    with contextlib.ExitStack() as stack:
        with _told(file.parent):
            try:
                stack.enter_context(locked(lock, LOCK_SECONDS))
            except TimeoutError as error:
                raise DeployError(
                    "another process has not finished the cache entry that is needed",
                    expected=f"to wait {LOCK_SECONDS} s at most",
                    found=error.strerror,
                    where=lock,
                    fix="End the process that holds this lock, or name another folder.",
                ) from error
        yield


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DeployError(
            "cannot write the cache",
            found=error.strerror or error,
            where=folder,
            fix="Name a folder that can be written, or leave out the cache.",
        ) from error

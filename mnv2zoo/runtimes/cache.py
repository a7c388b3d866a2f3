"""A cache on disk of what engines start from, so that the next process need not build it again.

An entry is a file: a line with the SHA-256 of all that follows it, and a safetensors document of the entry's parts
and of its key. It is read once, and the bytes that were hashed are the bytes that are used.
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
KEY = "key"
LOCK_SECONDS = 900  # an engine of int8 takes minutes on a slow machine


@dataclass(frozen=True)
class Cache:
    """A folder of entries.

    The hash in an entry reveals damage, truncation and mix-ups. It does not reveal malice, because whoever can write
    the entry can write the hash too. So a folder that other users may write is refused, and such a file is not used.

    Attributes:
        folder: The folder; None to cache nothing.
        key: The part of the key that all entries have in common.
    """

    folder: Path | None = None
    key: Mapping[str, str] = field(default_factory=dict)

    def fetch(self, key: Mapping[str, str], make: Callable[[], Parts], use: Callable[[Parts], T]) -> T:
        """Loads an entry if there is a valid one, and builds it otherwise.

        An entry that was altered or truncated, or that `use` cannot use, is rebuilt, with a warning. While one process
        builds an entry, others wait for it.

        Args:
            key: What the entry depends on beyond the common part of the key.
            make: Builds the parts, as bytes by name.
            use: Turns the parts into the result. They are cached only if it raises no error.

        Returns:
            What `use` returned.

        Raises:
            DeployError: If the folder cannot be written, or other users may write it.
        """
        if self.folder is None:
            return use(make())
        whole_key = json.dumps({**self.key, **key}, sort_keys=True).encode()
        file = self.folder / f"{hashlib.sha256(whole_key).hexdigest()}.engine"
        with _reported(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _require_private(self.folder, self.folder.stat())
        # Entries appear whole, so reading needs no lock, and a read-only folder works too.
        with contextlib.suppress(Exception):
            return use(_read(file, whole_key))
        with _locked(file):
            try:
                return use(_read(file, whole_key))
            except FileNotFoundError:
                pass
            except Exception as error:  # runtimes raise nearly anything at what they cannot use
                warnings.warn(f"the cache entry {file} cannot be used and is rebuilt: {one_line(error)}", stacklevel=2)
            parts = make()
            used = use(parts)
            with _reported(self.folder):
                _write(file, whole_key, parts)
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


def _read(file: Path, key: bytes) -> Parts:
    with file.open("rb") as opened:
        _require_private(file, os.fstat(opened.fileno()))
        digest, _, content = opened.read().partition(b"\n")
    if hashlib.sha256(content).hexdigest().encode() != digest:
        raise DeployError("its content has another hash than it had when it was written")
    parts = {name: part.tobytes() for name, part in safetensors.numpy.load(content).items()}
    if parts.pop(KEY) != key:
        raise DeployError("it was made from something else")
    return parts


def _write(file: Path, key: bytes, parts: Parts) -> None:
    arrays = {name: np.frombuffer(part, np.uint8) for name, part in {**parts, KEY: key}.items()}
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
def _locked(file: Path) -> Iterator[None]:
    lock = file.with_suffix(".lock")
    with contextlib.ExitStack() as stack:
        with _reported(file.parent):
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
def _reported(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DeployError(
            "cannot write the cache",
            found=error.strerror or error,
            where=folder,
            fix="Name a folder that can be written, or leave out the cache.",
        ) from error

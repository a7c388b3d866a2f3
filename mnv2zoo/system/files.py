"""Files and folders that are written whole or not at all, and how much is read of one."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from io import RawIOBase
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

MAX_BYTES = 2**30  # the most that is read from a file of weights whose size nobody vouches for; the largest has 25 MB


def place(path: Path) -> Path:
    """Finds where a file would be written.

    Args:
        path: The file.

    Returns:
        It; of a link, the file behind it, which would be replaced.

    Raises:
        OSError: If there is no such folder, or something else than a regular file.
    """
    path = path.resolve()
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(path.parent))
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "not a regular file", str(path))
    return path


def as_text(name: str) -> str:
    """A file's name as valid text: other bytes are written with a backslash."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def read_all(file: RawIOBase, size: int) -> bytes:
    """Reads an unbuffered file to its end, which must come after so many bytes.

    One read of an unbuffered file may give less than was asked for: over a network or FUSE file system, or
    beyond two gigabytes.

    Args:
        file: The open file.
        size: The bytes that it holds.

    Returns:
        Its content.

    Raises:
        OSError: If it ends earlier or later: it was changed while it was read.
    """
    parts, left = [], size
    while left and (part := file.read(left)):
        parts.append(part)
        left -= len(part)
    if left or file.read(1):
        raise OSError(f"the file changed while it was read: it ends {'before' if left else 'after'} {size} bytes")
    return b"".join(parts)


@contextlib.contextmanager
def locked(file: Path, seconds: float) -> Iterator[None]:
    """Holds a lock file, so that no other process does at the same time.

    Args:
        file: The lock file.
        seconds: How long to wait for another process that holds it.

    Raises:
        TimeoutError: If another process held it all that time.
        OSError: If it cannot be written, or the file system has no locks.
    """
    lock = FileLock(file)
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise TimeoutError(errno.ETIMEDOUT, f"another process has held it for {seconds:.0f} s", str(file)) from None
    except NotImplementedError as error:  # older releases of filelock, where a file system has no locks
        raise OSError(errno.ENOLCK, str(error), str(file)) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a file for writing that appears, whole, when all went well.

    It is written aside and moved, so that neither a failure nor another process at the same work
    leaves half a file.

    Args:
        path: The file; what it held before stays until then.

    Yields:
        The open file.

    Raises:
        OSError: If it cannot be written.
    """
    path = place(path)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with aside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def vacant(folder: Path) -> bool:
    """Whether a folder could be made: it is not there yet, or empty."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Makes a folder that appears, whole, when all went well.

    Args:
        path: The folder, which is vacant. Folders above it are made, and are gone again after a failure.

    Yields:
        The folder aside to put everything into.

    Raises:
        OSError: If it cannot be written.
    """
    above = missing(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as aside:
            made = Path(aside) / "made"
            made.mkdir()
            yield made
            move_folder(made, path)
    except BaseException:
        remove_empty(above)
        raise


def move_folder(made: Path, path: Path) -> None:
    """Moves a folder to its place.

    Args:
        made: The folder.
        path: The place, which is vacant.

    Raises:
        OSError: If it cannot be moved.
    """
    try:
        made.replace(path)
    except OSError:
        if not path.is_dir():
            raise
        path.rmdir()  # Windows replaces no folder, not even an empty one
        made.replace(path)


def missing(folder: Path) -> list[Path]:
    """Finds the folders that must be made for a folder to be there.

    Args:
        folder: The folder.

    Returns:
        It and those above it that are not there, the innermost first.
    """
    return [place for place in (folder, *folder.parents) if not place.exists()]


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes folders that were made for nothing, as long as they are empty.

    Args:
        folders: The folders, the innermost first.
    """
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()

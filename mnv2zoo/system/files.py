"""Writes files and folders completely or not at all, and limits how much of a file is read."""

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

MAX_BYTES = 2**30  # maximum size of a weights file of unknown size; the largest known one has 25 MB


def place(path: Path) -> Path:
    """Resolves where a file would be written.

    Args:
        path: The file.

    Returns:
        The file. For a link, its target, which would be replaced.

    Raises:
        OSError: If the folder does not exist, or the path is something other than a regular file.
    """
    path = path.resolve()
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(path.parent))
    if path.exists() and not path.is_file():
        raise FileExistsError(errno.EEXIST, "not a regular file", str(path))
    return path


def as_text(name: str) -> str:
    """Returns a file name as valid text. Other bytes become backslash escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def read_all(file: RawIOBase, size: int) -> bytes:
    """Reads an unbuffered file of known size to its end.

    A single read of an unbuffered file may return fewer bytes than requested: on a network or FUSE file system, or
    above two gigabytes.

    Args:
        file: The open file.
        size: Its size in bytes.

    Returns:
        Its content.

    Raises:
        OSError: If the file is shorter or longer, because it changed while it was read.
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
    """Holds a lock file, so that other processes wait.

    Args:
        file: The lock file.
        seconds: How long to wait for another process that holds it.

    Raises:
        TimeoutError: If another process held it all that time.
        OSError: If the file cannot be written, or the file system has no locks.
    """
    lock = FileLock(file)
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise TimeoutError(errno.ETIMEDOUT, f"another process has held it for {seconds:.0f} s", str(file)) from None
    except NotImplementedError as error:  # older versions of filelock, on file systems without locks
        raise OSError(errno.ENOLCK, str(error), str(file)) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a file for writing that is moved into place only if no error occurs.

    It is written under a temporary name, so neither a failure nor another process doing the same leaves a partial
    file.

    Args:
        path: The file. Its previous content stays until then.

    Yields:
        The open file.

    Raises:
        OSError: If the file cannot be written.
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
    """Checks whether a folder can be created: it does not exist yet, or is empty."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Creates a folder that is moved into place only if no error occurs.

    Args:
        path: The folder, which must be vacant. Its parents are created, and removed again after a failure.

    Yields:
        A temporary folder for the content.

    Raises:
        OSError: If the folder cannot be written.
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
    """Moves a folder into place.

    Args:
        made: The folder.
        path: The new path, which must be vacant.

    Raises:
        OSError: If the folder cannot be moved.
    """
    try:
        made.replace(path)
    except OSError:
        if not path.is_dir():
            raise
        path.rmdir()  # Windows does not replace folders, not even empty ones
        made.replace(path)


def missing(folder: Path) -> list[Path]:
    """Lists the folders that must be created for a folder to exist.

    Args:
        folder: The folder.

    Returns:
        The folder and its missing parents, innermost first.
    """
    return [place for place in (folder, *folder.parents) if not place.exists()]


def remove_empty(folders: Iterable[Path]) -> None:
    """Removes folders that were created and are still empty.

    Args:
        folders: The folders, innermost first.
    """
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()

"""Trust on first use: records the hash of unpinned weights when they are first downloaded.

As with ssh host keys, the first use asks the Hub and records the result, and every later use must match it. The
record is one JSON file in `MNV2ZOO_HOME`.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mnv2zoo import environment
from mnv2zoo.errors import IntegrityError, WeightsError
from mnv2zoo.system.files import locked, whole_file

LOCK_SECONDS = 10  # the record is locked for milliseconds at a time


@dataclass(frozen=True)
class Record:
    """The record of the first use of a location.

    Attributes:
        commit: Commit of the repository. None if the file came from a mirror and the Hub could not be reached.
        sha256: SHA-256 of the file.
        size: Its size in bytes.
    """

    commit: str | None
    sha256: str
    size: int


def path() -> Path:
    """Returns the file of the record, which may not exist.

    Raises:
        WeightsError: If the user has no home folder and `MNV2ZOO_HOME` is not set.
    """
    home = environment.home()
    if environment.is_homeless(home):
        raise WeightsError(
            "no folder for the record of first use",
            expected=f"a home folder, or a folder in {environment.HOME.name}",
            found=f"{home}, and this user has no home folder",
            fix=f"Set {environment.HOME.name} to a writable folder.",
        )
    return home / "first_use.json"


def records() -> dict[str, Record]:
    """Reads the record.

    Returns:
        One entry per location.

    Raises:
        WeightsError: If the file is corrupt or cannot be read.
    """
    file = path()
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        found = {location: Record(**fields) for location, fields in document["first_use"].items()}
        if not all(sound(record) for record in found.values()):
            raise ValueError("an entry with an invalid commit, hash or size")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _unusable(file, "read", error) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WeightsError(
            "the record of first use is corrupt",
            expected="the JSON file that mnv2zoo wrote",
            found=f"{type(error).__name__}: {error}"[:200],
            where=file,
            fix="Restore it from a backup, or delete it to trust the Hub on the next use.",
        ) from error
    return found


def sound(record: Record) -> bool:
    """Checks whether a record's commit, hash and size are well-formed.

    Args:
        record: A record from a file or from the Hub.

    Returns:
        True if the commit is 40 hexadecimal digits or None, the hash is 64, and the size is positive.
    """
    commit_ok = record.commit is None or re.fullmatch(r"[0-9a-f]{40}", record.commit) is not None
    return commit_ok and re.fullmatch(r"[0-9a-f]{64}", record.sha256) is not None and record.size > 0


def remember(location: str, record: Record, seconds: float = LOCK_SECONDS) -> bool:
    """Records what was found at a location.

    Args:
        location: The location.
        record: What was found there.
        seconds: How long to wait for another process that is writing to the record.

    Returns:
        True if the entry is new, False if another process recorded the same in the meantime.

    Raises:
        IntegrityError: If something else is recorded for the location.
        WeightsError: If the record cannot be read or written.
    """
    with _changing(seconds) as known:
        if location not in known:
            known[location] = record
            return True
        require_same(location, known[location], record)
        return False


def require_same(location: str, known: Record, found: Record) -> None:
    """Rejects weights that differ from those of their first use.

    Args:
        location: The location.
        known: The record of the first use.
        found: What was found now.

    Raises:
        IntegrityError: If their hashes differ.
    """
    if known.sha256 != found.sha256:
        raise IntegrityError(
            f"{location} has changed since its first use",
            expected=f"sha256 {known.sha256}",
            found=f"sha256 {found.sha256}",
            where=location,
            fix="If you expect the change, run `mnv2zoo weights forget NAME` and load the weights again.",
        )


def forget(location: str) -> bool:
    """Removes the record of a location.

    Args:
        location: The location.

    Returns:
        Whether there was one.

    Raises:
        WeightsError: If the record cannot be read or written.
    """
    if location not in records():
        return False
    with _changing() as known:
        return known.pop(location, None) is not None


@contextlib.contextmanager
def _changing(seconds: float = LOCK_SECONDS) -> Iterator[dict[str, Record]]:
    """Yields the record for changes, and writes it atomically under a lock."""
    file = path()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with locked(file.with_name(f"{file.name}.lock"), seconds):
            known = records()
            before = dict(known)
            yield known
            if known != before:
                _write(file, known)
    except TimeoutError as error:
        raise WeightsError(
            "the record of first use is locked",
            expected="a lock held only briefly",
            found=error.strerror,
            where=error.filename,
            fix="End the process that holds the lock, or set MNV2ZOO_HOME to another folder.",
        ) from error
    except OSError as error:
        raise _unusable(file, "write", error) from error


def _unusable(file: Path, do: str, error: OSError) -> WeightsError:
    return WeightsError(
        f"cannot {do} the record of first use",
        expected=f"permission to {do} it",
        found=f"{type(error).__name__}: {error.strerror or error}",
        where=file,
        fix="Correct the folder's permissions, or set MNV2ZOO_HOME to another folder.",
    )


def _write(file: Path, known: dict[str, Record]) -> None:
    document = {"first_use": {location: asdict(known[location]) for location in sorted(known)}}
    with whole_file(file) as out:
        out.write(json.dumps(document, indent=2).encode())

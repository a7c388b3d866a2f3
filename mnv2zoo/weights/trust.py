"""Trust on first use: the record of what the Hub served when weights without a known hash came first.

As ssh does with host keys: the first use asks the Hub and writes down what it got, every later one
must match. The record is one JSON file under `MNV2ZOO_HOME`.
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
    """What was found at the first use of a location.

    Attributes:
        commit: Commit of the repository, None if the file came from a mirror with no Hub in reach.
        sha256: SHA-256 of the file.
        size: Its size in bytes.
    """

    commit: str | None
    sha256: str
    size: int


def path() -> Path:
    """The file that holds the record; it need not exist.

    Raises:
        WeightsError: If the user has no home folder and `MNV2ZOO_HOME` is not set.
    """
    home = environment.home()
    if environment.is_homeless(home):
        raise WeightsError(
            "there is no folder for the record of first use",
            expected=f"a home folder, or a folder in {environment.HOME.name}",
            found=f"{home}, and this user has no home folder",
            fix=f"Set {environment.HOME.name} to a folder that can be written.",
        )
    return home / "first_use.json"


def records() -> dict[str, Record]:
    """Reads the record.

    Returns:
        What was found, by location.

    Raises:
        WeightsError: If the file is damaged.
    """
    file = path()
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        found = {location: Record(**fields) for location, fields in document["first_use"].items()}
        if not all(sound(record) for record in found.values()):
            raise ValueError("a record with a commit, hash or size that is none")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _unusable(file, "read", error) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WeightsError(
            "cannot read the record of first use",
            expected="the JSON file that this package wrote",
            found=f"{type(error).__name__}: {error}"[:200],
            where=file,
            fix="Restore it from a backup, or delete it to trust what the Hub serves at the next use.",
        ) from error
    return found


def sound(record: Record) -> bool:
    """Whether a record's commit, hash and size look like such.

    Args:
        record: A record from a file or from the Hub.

    Returns:
        Whether the commit is 40 hexadecimal digits or None, the hash is 64, and the size is positive.
    """
    commit_ok = record.commit is None or re.fullmatch(r"[0-9a-f]{40}", record.commit) is not None
    return commit_ok and re.fullmatch(r"[0-9a-f]{64}", record.sha256) is not None and record.size > 0


def remember(location: str, record: Record, seconds: float = LOCK_SECONDS) -> bool:
    """Writes down what was found at a location.

    Args:
        location: The location.
        record: What was found there.
        seconds: How long to wait for another process that writes to the record.

    Returns:
        Whether it is new; False if another process wrote down the same in the meantime.

    Raises:
        IntegrityError: If something else is written down for the location.
        WeightsError: If the record cannot be read or written.
    """
    with _changing(seconds) as known:
        if location not in known:
            known[location] = record
            return True
        require_same(location, known[location], record)
        return False


def require_same(location: str, known: Record, found: Record) -> None:
    """Refuses weights that are not those of their first use.

    Args:
        location: The location.
        known: What was found at the first use.
        found: What was found now.

    Raises:
        IntegrityError: If their hashes differ.
    """
    if known.sha256 != found.sha256:
        raise IntegrityError(
            "these weights are not those of the first use",
            expected=f"sha256 {known.sha256}",
            found=f"sha256 {found.sha256}",
            where=location,
            fix="If the change is intended, run `mnv2zoo weights forget NAME` and load them again.",
        )


def forget(location: str) -> bool:
    """Drops what is written down for a location.

    Args:
        location: The location.

    Returns:
        Whether there was anything.

    Raises:
        WeightsError: If the record cannot be read or written.
    """
    if location not in records():
        return False
    with _changing() as known:
        return known.pop(location, None) is not None


@contextlib.contextmanager
def _changing(seconds: float = LOCK_SECONDS) -> Iterator[dict[str, Record]]:
    """Gives the record for changing, and writes it atomically and under a lock."""
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
            expected="a lock that is held for a moment",
            found=error.strerror,
            where=error.filename,
            fix="End the process that holds this lock, or set MNV2ZOO_HOME to another folder.",
        ) from error
    except OSError as error:
        raise _unusable(file, "write", error) from error


def _unusable(file: Path, do: str, error: OSError) -> WeightsError:
    return WeightsError(
        f"cannot {do} the record of first use",
        expected=f"a folder that this user can {do}",
        found=f"{type(error).__name__}: {error.strerror or error}",
        where=file,
        fix="Correct the permissions of that folder, or set MNV2ZOO_HOME to another one.",
    )


def _write(file: Path, known: dict[str, Record]) -> None:
    document = {"first_use": {location: asdict(known[location]) for location in sorted(known)}}
    with whole_file(file) as out:
        out.write(json.dumps(document, indent=2).encode())

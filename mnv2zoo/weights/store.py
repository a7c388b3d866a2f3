"""From an index entry to verified bytes, and from those to a state dict.

The bytes that are hashed are the bytes that are parsed: a file is read once, and nothing is reopened.
A file is looked for in this order: beside the index (bundled), in the mirror, in the Hub's cache, on the plain file
server, on the Hub.
"""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from mnv2zoo import convert, environment
from mnv2zoo.errors import IntegrityError, UnpinnedWeightsError, WeightsError, WeightsUnavailableError
from mnv2zoo.system import posix
from mnv2zoo.system.files import MAX_BYTES, read_all, whole_file
from mnv2zoo.weights import file_server, index, trust
from mnv2zoo.weights.hub import Hub, HubFile, mirror_hint, snapshot
from mnv2zoo.weights.schema import WeightsEntry
from mnv2zoo.weights.trust import Record

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Verified:
    """A file's bytes, which matched what is known of them.

    Attributes:
        path: Where they were read.
        data: The bytes.
        sha256: Their hash.
    """

    path: Path
    data: bytes
    sha256: str


def fetch(name: str, cache_dir: str | Path | None = None) -> Path:
    """Fetches weights if need be and verifies them.

    Args:
        name: `architecture.tag`, or an architecture, whose default weights are meant.
        cache_dir: The Hub's cache; its own default if None.

    Returns:
        The local file, which held the right bytes just now.

    Raises:
        IntegrityError: If its bytes are not those that were pinned or first used.
        UnpinnedWeightsError: If no hash is known and `MNV2ZOO_REQUIRE_PINNED` is set.
        WeightsUnavailableError: If it cannot be fetched.
        UnknownModelError: If there are no such weights.
        WeightsIndexError: If an index file is bad.

    Examples:
        >>> import mnv2zoo
        >>> mnv2zoo.weights.fetch("mnv2zoo_100_c20").name
        'mnv2zoo_100_c20.cifar100_coarse.safetensors'
    """
    return verified(index.entry(name), cache_dir).path


def load(name: str, cache_dir: str | Path | None = None) -> dict[str, Tensor]:
    """Fetches weights if need be, verifies them and parses the verified bytes.

    Args:
        name: `architecture.tag`, or an architecture, whose default weights are meant.
        cache_dir: The Hub's cache; its own default if None.

    Returns:
        The state dict in the native layout, on the CPU.

    Raises:
        IntegrityError: If the bytes are not those that were pinned or first used.
        UnpinnedWeightsError: If no hash is known and `MNV2ZOO_REQUIRE_PINNED` is set.
        WeightsUnavailableError: If the file cannot be fetched.
        ConversionError: If the tensors do not fit the entry's layout.
        UnknownModelError: If there are no such weights.
        WeightsIndexError: If an index file is bad.

    Examples:
        >>> import mnv2zoo
        >>> mnv2zoo.weights.load("mnv2zoo_100_c20")["conv_stem.weight"].shape
        torch.Size([32, 3, 3, 3])
    """
    entry = index.entry(name)
    return tensors(verified(entry, cache_dir), entry.name, entry.layout)


def tensors(file: Verified, model_name: str, layout: str | None) -> dict[str, Tensor]:
    """Parses verified bytes.

    Args:
        file: The bytes.
        model_name: The architecture they are for, with or without a tag.
        layout: Their layout; recognised if None.

    Returns:
        The state dict in the native layout.

    Raises:
        IntegrityError: If the bytes are no safetensors file.
        ConversionError: If the tensors do not fit the layout.
    """
    state_dict = _parsed(file)
    return state_dict if layout == "timm" else convert.to_native(state_dict, model_name, layout)


def _parsed(file: Verified) -> dict[str, Tensor]:
    import safetensors.torch

    try:
        return safetensors.torch.load(file.data)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise IntegrityError(
            "not a safetensors file",
            expected="tensors in the safetensors format",
            found=f"{type(error).__name__}: {error}",
            where=file.path,
            fix="Ask whoever published the file for a valid one.",
        ) from error


def verified(
    source: WeightsEntry | HubFile, cache_dir: str | Path | None = None, meanwhile: Callable[[], object] | None = None
) -> Verified:
    """Finds a file, fetches it if need be, and verifies its bytes.

    Args:
        source: An index entry, or a file on the Hub that no index lists.
        cache_dir: The Hub's cache; its own default if None.
        meanwhile: What to do while the bytes are hashed, such as building the network that they are for. It may be
            called more than once.

    Returns:
        The bytes that matched.

    Raises:
        IntegrityError: If they match neither in the cache nor after one more download.
        UnpinnedWeightsError: If no hash is known and `MNV2ZOO_REQUIRE_PINNED` is set.
        WeightsUnavailableError: If the file cannot be fetched.
    """
    if isinstance(source, WeightsEntry):
        if source.bundled is not None:
            path = bundled_path(source)
            return _read(path, source.sha256, source.size, "Reinstall the package, or restore the file.", meanwhile)
        file = _hub_file(source)
    else:
        file = source
    hub = Hub(cache_dir)
    return _first_used(file, hub, meanwhile) if file.pin is None else _pinned(file, file.pin, hub, meanwhile)


def _hub_file(entry: WeightsEntry) -> HubFile:
    assert entry.repo_id is not None
    assert entry.filename is not None
    return HubFile(entry.name, entry.repo_id, entry.filename, entry.revision, entry.sha256, entry.size)


def bundled_path(entry: WeightsEntry) -> Path:
    """The file of a bundled entry: in the package for the shipped index, else beside the index.

    Args:
        entry: An entry with `bundled` set.

    Returns:
        Its path.
    """
    assert entry.bundled is not None
    shipped = entry.folder == index.shipped_path().parent
    return (Path(__file__).parent.parent / "bundled" if shipped else entry.folder) / entry.bundled


def _pinned(file: HubFile, pin: Record, hub: Hub, meanwhile: Callable[[], object] | None) -> Verified:
    """Verifies a file whose hash is known, from wherever it is."""
    for path in _in_mirror(file, pin.sha256)[:1]:
        return _read(path, pin.sha256, pin.size, "Correct the mirror that MNV2ZOO_WEIGHTS_DIR names.", meanwhile)
    revision = pin.commit or file.revision
    path = _cached(file, pin, hub) or file_server.download(file, pin, revision, hub)
    try:
        return _read(path, pin.sha256, pin.size, "", meanwhile)
    except IntegrityError as error:
        return _replace(file, pin, revision, hub, error)


def _cached(file: HubFile, pin: Record | None, hub: Hub) -> Path | None:
    """Looks into the cache, where a plain file server's file of no known commit lies under its hash."""
    path = hub.cached(file, pin.commit if pin else file.revision)
    return path or (hub.cached(file, snapshot(file, pin)) if pin else None)


def _replace(file: HubFile, pin: Record, revision: str | None, hub: Hub, error: IntegrityError) -> Verified:
    """Downloads a file anew, once, because the local copy is bad."""
    fix = (
        "It was downloaded anew and is still bad: do not use it. The repository, a proxy on the way or the index "
        f"is wrong; a good copy can be put at {mirror_hint(file)}."
    )
    try:
        # Without force the client would link the same bad blob again.
        path = file_server.download(file, pin, revision, hub, force=True)
        try:
            return _read(path, pin.sha256, pin.size, fix)
        except IntegrityError:
            # The client replaces its blob, but not what somebody put in the place of its link to the blob.
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
            path = file_server.download(file, pin, revision, hub)
    except (WeightsError, OSError) as unavailable:
        reason = unavailable.found if isinstance(unavailable, WeightsError) else unavailable
        error.fix = f"A good copy could not be fetched ({reason}). Go online and load it again, or delete it."
        raise error from unavailable
    return _read(path, pin.sha256, pin.size, fix)


def _first_used(file: HubFile, hub: Hub, meanwhile: Callable[[], object] | None) -> Verified:
    """Verifies a file whose hash no index has for its location, against the record of its first use.

    At the first use, that is the Hub's word, or a mirror's file where the Hub cannot be asked. It is
    recorded always: bytes that some index entry vouches for today may be others at this location tomorrow.
    """
    record = trust.records().get(file.location)
    if record is not None:
        _require_listed(file, record)
        return _pinned(file, record, hub, meanwhile)
    if file.location in {entry.location for entry in index.entries().values()}:
        _require_listed(file, None)  # the Hub need not be asked about an entry that says itself that it has no hash
    try:
        record = hub.describe(file)
    except WeightsUnavailableError as error:
        in_mirror = _in_mirror(file, None)
        if not in_mirror:
            _require_no_file_server(file, error)
            raise
        found = _read(in_mirror[0], None, None, "Correct the mirror that MNV2ZOO_WEIGHTS_DIR names.")
        record = Record(None, found.sha256, len(found.data))
        _require_listed(file, record)
        _parsed(found)  # what is no safetensors file is not trusted either
        witness = f"the mirror ({found.path}), because the Hub could not be asked"
    else:
        _require_listed(file, record)
        found = _pinned(file, record, hub, meanwhile)
        witness = f"the Hub, at commit {record.commit}"
    if trust.remember(file.location, record, min(trust.LOCK_SECONDS, hub.seconds_left(file))) and not _listed(record):
        warnings.warn(
            f"{file.name}: no index pins these weights, so they are trusted on first use: sha256 {record.sha256} from "
            f"{witness}. Every later load must match (recorded in {trust.path()}).",
            stacklevel=2,
        )
    return found


def _listed(record: Record) -> bool:
    return record.sha256 in {entry.sha256 for entry in index.entries().values()}


def _require_listed(file: HubFile, record: Record | None) -> None:
    """Refuses a file whose hash no index has, not even under another location, where that is demanded."""
    if environment.require_pinned() and (record is None or not _listed(record)):
        raise UnpinnedWeightsError(
            f"{file.name} has no pinned hash",
            expected="a SHA-256 in an index",
            found="none" if record is None else f"sha256 {record.sha256}, which no index lists",
            where=file.location,
            fix=f"Pin them (`mnv2zoo weights pin {file.name}` prints the entry), or unset MNV2ZOO_REQUIRE_PINNED.",
        )


def _require_no_file_server(file: HubFile, error: WeightsUnavailableError) -> None:
    """Says why a plain file server is of no use for a file whose hash nobody knows."""
    if environment.weights_url() is not None:
        raise UnpinnedWeightsError(
            f"{file.name} has no pinned hash, and a plain file server is trusted with pinned weights only",
            expected="a SHA-256 in an index, or a Hub that gives one",
            found=error.found,
            where=file.location,
            fix=f"Pin them where the Hub can be asked (`mnv2zoo weights pin {file.name}` prints the entry).",
        ) from error


def _in_mirror(file: HubFile, sha256: str | None) -> list[Path]:
    mirror = environment.weights_dir()
    if mirror is None:
        return []
    if environment.is_homeless(mirror):
        raise WeightsError(
            "the mirror is in a home folder that does not exist",
            expected="a folder",
            found=str(mirror),
            where=environment.WEIGHTS_DIR.name,
            fix="Give its whole path.",
        )
    places = [mirror / file.repo_id / file.filename]
    if sha256 is not None:
        places.append(mirror / f"{sha256}.safetensors")
    return [place for place in places if os.path.lexists(place)]


def _read(
    path: Path, sha256: str | None, size: int | None, fix: str, meanwhile: Callable[[], object] | None = None
) -> Verified:
    """Reads a file once and verifies what was read.

    Args:
        path: The file.
        sha256: The hash it must have, if one is known.
        size: The size it must have in bytes, if one is known.
        fix: What to do if it is not right.
        meanwhile: What to do while the bytes are hashed.

    Raises:
        IntegrityError: If it is no regular file, cannot be read, or has another size or hash.
    """

    def bad(problem: str, expected: object, found: object) -> NoReturn:
        raise IntegrityError(problem, expected=expected, found=found, where=path, fix=fix)

    limit = size or MAX_BYTES
    try:
        with posix.open_regular(path) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                bad("not a regular file", "a file", stat.filemode(status.st_mode))
            if size and status.st_size != size:
                bad("wrong size", f"{size} bytes", f"{status.st_size} bytes")
            if status.st_size > limit:
                bad("file too large", f"at most {limit} bytes", f"{status.st_size} bytes")
            data = read_all(file, status.st_size)
    except OSError as error:
        raise IntegrityError(
            "cannot read the file",
            expected="a file that can be read",
            found=f"{type(error).__name__}: {error.strerror or error}",
            where=path,
            fix=fix,
        ) from error
    found = _hash(data, meanwhile)
    if sha256 is not None and found != sha256:
        bad("wrong hash", f"sha256 {sha256}", f"sha256 {found}")
    return Verified(path, data, found)


def _hash(data: bytes, meanwhile: Callable[[], object] | None) -> str:
    """Hashes bytes, on another core than the one that does something else meanwhile: hashing releases the GIL."""
    if meanwhile is None:
        return hashlib.sha256(data).hexdigest()
    with ThreadPoolExecutor(1) as pool:
        hashing = pool.submit(hashlib.sha256, data)
        meanwhile()
        return hashing.result().hexdigest()


def _known_record(entry: WeightsEntry) -> Record | None:
    """What the file of an entry must match: the index's pin, or what is written down from its first use."""
    if entry.bundled is not None:
        assert entry.sha256 is not None
        return Record(None, entry.sha256, entry.size or 0)
    return _hub_file(entry).pin or trust.records().get(entry.location)


def local_file(entry: WeightsEntry, cache_dir: str | Path | None = None) -> Path | None:
    """Where an entry's file is on this machine, without fetching or verifying it.

    Args:
        entry: An entry.
        cache_dir: The Hub's cache; its own default if None.

    Returns:
        The path, or None if there is none yet.
    """
    if entry.bundled is not None:
        return bundled_path(entry)
    file, record = _hub_file(entry), _known_record(entry)
    in_mirror = _in_mirror(file, record.sha256 if record else None)
    return in_mirror[0] if in_mirror else _cached(file, record, Hub(cache_dir))


def verify_local(entry: WeightsEntry, cache_dir: str | Path | None = None) -> Path | None:
    """Verifies the copy on this machine, fetching nothing.

    Args:
        entry: An entry.
        cache_dir: The Hub's cache; its own default if None.

    Returns:
        The verified file; None if there is none, or nothing yet that it must match.

    Raises:
        IntegrityError: If its bytes are not those that were pinned or first used.
    """
    path, record = local_file(entry, cache_dir), _known_record(entry)
    if path is None or record is None:
        return None
    return _read(path, record.sha256, record.size, f"Run `mnv2zoo weights fetch {entry.name}`, or replace it.").path


def ask(entry: WeightsEntry, cache_dir: str | Path | None = None) -> WeightsEntry:
    """Asks the Hub what an entry needs to be pinned, downloading nothing.

    Args:
        entry: An entry of the Hub.
        cache_dir: The Hub's cache; its own default if None.

    Returns:
        The entry with revision, hash and size.

    Raises:
        IntegrityError: If the Hub gives no SHA-256, or another one than at the first use.
        WeightsUnavailableError: If it cannot be asked.
    """
    file = _hub_file(entry)
    record = Hub(cache_dir).describe(file)
    first = None if file.pin else trust.records().get(file.location)
    if first is not None:
        trust.require_same(file.location, first, record)
    return replace(entry, revision=record.commit, sha256=record.sha256, size=record.size)


def pin(entry: WeightsEntry, cache_dir: str | Path | None = None) -> WeightsEntry:
    """Finds out what an entry needs to be pinned, and verifies it on a download.

    Args:
        entry: An entry of the Hub.
        cache_dir: The Hub's cache; its own default if None.

    Returns:
        The entry with revision, hash and size.

    Raises:
        IntegrityError: If the Hub gives no SHA-256, bytes that do not match it, or others than at their first use.
        WeightsUnavailableError: If it cannot be asked.
    """
    if entry.bundled is not None:
        return entry
    pinned = ask(entry, cache_dir)
    tensors(verified(pinned, cache_dir), entry.name, entry.layout)
    return pinned


def mirror(name: str, directory: Path, cache_dir: str | Path | None = None) -> Path:
    """Puts a verified copy into a mirror folder.

    Args:
        name: `architecture.tag`, or an architecture, whose default weights are meant.
        directory: The mirror, which `MNV2ZOO_WEIGHTS_DIR` can name later.
        cache_dir: The Hub's cache; its own default if None.

    Returns:
        The copy.

    Raises:
        WeightsError: As `fetch` does.
        OSError: If the folder cannot be written.
    """
    entry = index.entry(name)
    found = verified(entry, cache_dir)
    path = directory / (f"{found.sha256}.safetensors" if entry.bundled else f"{entry.repo_id}/{entry.filename}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(found.data)
    return path

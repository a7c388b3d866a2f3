"""Finds, downloads and verifies weights, and parses the verified bytes to a state dict.

Each file is read once. Its hash is checked, and the same in-memory bytes are then parsed. A file is searched in this
order: next to the index (bundled), in the mirror, in the Hub cache, on the plain file server, on the Hub.
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
    """The verified bytes of a file.

    Attributes:
        path: The file that they were read from.
        data: The bytes.
        sha256: Their SHA-256.
    """

    path: Path
    data: bytes
    sha256: str


def fetch(name: str, cache_dir: str | Path | None = None) -> Path:
    """Downloads weights if necessary, and verifies them.

    Args:
        name: `architecture.tag`, or an architecture, for its default weights.
        cache_dir: The Hub cache. None uses the default.

    Returns:
        The local file, which has just been verified.

    Raises:
        IntegrityError: If the bytes do not match the pinned hash or the one recorded on first use.
        UnpinnedWeightsError: If no hash is known and `MNV2ZOO_REQUIRE_PINNED` is set.
        WeightsUnavailableError: If the file cannot be downloaded.
        UnknownModelError: If no weights have that name.
        WeightsIndexError: If an index file is invalid.

    Examples:
        >>> import mnv2zoo
        >>> mnv2zoo.weights.fetch("mnv2zoo_100_c20").name
        'mnv2zoo_100_c20.cifar100_coarse.safetensors'
    """
    return verified(index.entry(name), cache_dir).path


def load(name: str, cache_dir: str | Path | None = None) -> dict[str, Tensor]:
    """Downloads weights if necessary, verifies them and parses the verified bytes.

    Args:
        name: `architecture.tag`, or an architecture, for its default weights.
        cache_dir: The Hub cache. None uses the default.

    Returns:
        The state dict in the native layout, on the CPU.

    Raises:
        IntegrityError: If the bytes do not match the pinned hash or the one recorded on first use.
        UnpinnedWeightsError: If no hash is known and `MNV2ZOO_REQUIRE_PINNED` is set.
        WeightsUnavailableError: If the file cannot be downloaded.
        ConversionError: If the tensors do not match the entry's layout.
        UnknownModelError: If no weights have that name.
        WeightsIndexError: If an index file is invalid.

    Examples:
        >>> import mnv2zoo
        >>> mnv2zoo.weights.load("mnv2zoo_100_c20")["conv_stem.weight"].shape
        torch.Size([32, 3, 3, 3])
    """
    entry = index.entry(name)
    return tensors(verified(entry, cache_dir), entry.name, entry.layout)


def tensors(file: Verified, model_name: str, layout: str | None) -> dict[str, Tensor]:
    """Parses verified bytes to a state dict.

    Args:
        file: The bytes.
        model_name: The architecture, with or without a tag.
        layout: The layout of the parameter names. None detects it.

    Returns:
        The state dict in the native layout.

    Raises:
        IntegrityError: If the bytes are not a safetensors file.
        ConversionError: If the tensors do not match the layout.
    """
    state_dict = _parsed(file)
    return state_dict if layout == "timm" else convert.to_native(state_dict, model_name, layout)


def _parsed(file: Verified) -> dict[str, Tensor]:
    import safetensors.torch

    try:
        return safetensors.torch.load(file.data)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise IntegrityError(
            f"{file.path.name} is not a safetensors file",
            expected="tensors in the safetensors format",
            found=f"{type(error).__name__}: {error}",
            where=file.path,
            fix="Ask the publisher of the file for a valid one.",
        ) from error


def verified(
    source: WeightsEntry | HubFile, cache_dir: str | Path | None = None, meanwhile: Callable[[], object] | None = None
) -> Verified:
    """Finds a file, downloads it if necessary, and verifies its bytes.

    Args:
        source: An index entry, or a Hub file that is not in the index.
        cache_dir: The Hub cache. None uses the default.
        meanwhile: Called while the bytes are hashed, for example to build the model. It may be called more than
            once.

    Returns:
        The verified bytes.

    Raises:
        IntegrityError: If the bytes match neither in the cache nor after one more download.
        UnpinnedWeightsError: If no hash is known and `MNV2ZOO_REQUIRE_PINNED` is set.
        WeightsUnavailableError: If the file cannot be downloaded.
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
    """Returns the file of a bundled entry: in the package for the bundled index, otherwise next to the index.

    Args:
        entry: An entry with `bundled` set.

    Returns:
        The path.
    """
    assert entry.bundled is not None
    shipped = entry.folder == index.shipped_path().parent
    return (Path(__file__).parent.parent / "bundled" if shipped else entry.folder) / entry.bundled


def _pinned(file: HubFile, pin: Record, hub: Hub, meanwhile: Callable[[], object] | None) -> Verified:
    """Verifies a file with a known hash, from any source."""
    for path in _in_mirror(file, pin.sha256)[:1]:
        return _read(path, pin.sha256, pin.size, "Correct the mirror in MNV2ZOO_WEIGHTS_DIR.", meanwhile)
    revision = pin.commit or file.revision
    path = _cached(file, pin, hub) or file_server.download(file, pin, revision, hub)
    try:
        return _read(path, pin.sha256, pin.size, "", meanwhile)
    except IntegrityError as error:
        return _replace(file, pin, revision, hub, error)


def _cached(file: HubFile, pin: Record | None, hub: Hub) -> Path | None:
    """Looks up a file in the cache. A file from a plain server, of unknown commit, is stored there by its hash."""
    path = hub.cached(file, pin.commit if pin else file.revision)
    return path or (hub.cached(file, snapshot(file, pin)) if pin else None)


def _replace(file: HubFile, pin: Record, revision: str | None, hub: Hub, error: IntegrityError) -> Verified:
    """Downloads a file once more because the local copy is corrupt."""
    fix = (
        "Do not use this file: it was downloaded again and still does not match. The repository, a proxy or the index "
        f"is wrong. If you have a good copy, put it at {mirror_hint(file)}."
    )
    try:
        # Without force, the client would link the same corrupt blob again.
        path = file_server.download(file, pin, revision, hub, force=True)
        try:
            return _read(path, pin.sha256, pin.size, fix)
        except IntegrityError:
            # The client replaces its blob, but not what somebody put in place of its link to the blob.
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
            path = file_server.download(file, pin, revision, hub)
    except (WeightsError, OSError) as unavailable:
        reason = unavailable.found if isinstance(unavailable, WeightsError) else unavailable
        error.fix = f"The file could not be downloaded again ({reason}). Go online and load it again, or delete it."
        raise error from unavailable
    return _read(path, pin.sha256, pin.size, fix)


def _first_used(file: HubFile, hub: Hub, meanwhile: Callable[[], object] | None) -> Verified:
    """Verifies a file that is not pinned at its location against the record of its first use.

    On first use, the hash comes from the Hub, or from a mirror's file if the Hub cannot be reached. It is always
    recorded, even if another index entry has it, because the file at this location may change later.
    """
    record = trust.records().get(file.location)
    if record is not None:
        _require_listed(file, record)
        return _pinned(file, record, hub, meanwhile)
    if file.location in {entry.location for entry in index.entries().values()}:
        _require_listed(file, None)  # the entry itself has no hash, so there is no need to contact the Hub
    try:
        record = hub.describe(file)
    except WeightsUnavailableError as error:
        in_mirror = _in_mirror(file, None)
        if not in_mirror:
            _require_no_file_server(file, error)
            raise
        found = _read(in_mirror[0], None, None, "Correct the mirror in MNV2ZOO_WEIGHTS_DIR.")
        record = Record(None, found.sha256, len(found.data))
        _require_listed(file, record)
        _parsed(found)  # do not trust a file that is not safetensors
        witness = f"the mirror ({found.path}), because the Hub could not be reached"
    else:
        _require_listed(file, record)
        found = _pinned(file, record, hub, meanwhile)
        witness = f"the Hub, at commit {record.commit}"
    if trust.remember(file.location, record, min(trust.LOCK_SECONDS, hub.seconds_left(file))) and not _listed(record):
        warnings.warn(
            f"{file.name}: no index pins these weights, so they are trusted on first use: sha256 {record.sha256} from "
            f"{witness}. Later loads must match it (recorded in {trust.path()}).",
            stacklevel=2,
        )
    return found


def _listed(record: Record) -> bool:
    return record.sha256 in {entry.sha256 for entry in index.entries().values()}


def _require_listed(file: HubFile, record: Record | None) -> None:
    """Rejects a file whose hash no index has, at any location, if `MNV2ZOO_REQUIRE_PINNED` is set."""
    if environment.require_pinned() and (record is None or not _listed(record)):
        raise UnpinnedWeightsError(
            f"{file.name} has no pinned hash",
            expected="a SHA-256 in an index",
            found="none" if record is None else f"sha256 {record.sha256}, which no index lists",
            where=file.location,
            fix=f"Pin the weights (`mnv2zoo weights pin {file.name}` prints the entry), or unset "
            "MNV2ZOO_REQUIRE_PINNED.",
        )


def _require_no_file_server(file: HubFile, error: WeightsUnavailableError) -> None:
    """Explains why a plain file server cannot be used for a file without a known hash."""
    if environment.weights_url() is not None:
        raise UnpinnedWeightsError(
            f"{file.name} has no pinned hash, so it cannot be downloaded from a plain file server",
            expected="a SHA-256 in an index or from the Hub",
            found=error.found,
            where=file.location,
            fix=f"Pin the weights where the Hub can be reached (`mnv2zoo weights pin {file.name}` prints the entry).",
        ) from error


def _in_mirror(file: HubFile, sha256: str | None) -> list[Path]:
    mirror = environment.weights_dir()
    if mirror is None:
        return []
    if environment.is_homeless(mirror):
        raise WeightsError(
            f"the mirror {str(mirror)!r} is in a home folder that does not exist",
            expected="an existing home folder",
            found=str(mirror),
            where=environment.WEIGHTS_DIR.name,
            fix="Set an absolute path.",
        )
    places = [mirror / file.repo_id / file.filename]
    if sha256 is not None:
        places.append(mirror / f"{sha256}.safetensors")
    return [place for place in places if os.path.lexists(place)]


def _read(
    path: Path, sha256: str | None, size: int | None, fix: str, meanwhile: Callable[[], object] | None = None
) -> Verified:
    """Reads a file once and verifies the bytes.

    Args:
        path: The file.
        sha256: The hash that it must have, if known.
        size: The size in bytes that it must have, if known.
        fix: The fix for the error.
        meanwhile: Called while the bytes are hashed.

    Raises:
        IntegrityError: If the path is not a regular file, cannot be read, or has another size or hash.
    """

    def bad(problem: str, expected: object, found: object) -> NoReturn:
        raise IntegrityError(problem, expected=expected, found=found, where=path, fix=fix)

    limit = size or MAX_BYTES
    try:
        with posix.open_regular(path) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                bad("not a regular file", "a regular file", stat.filemode(status.st_mode))
            if size and status.st_size != size:
                bad("wrong size", f"{size} bytes", f"{status.st_size} bytes")
            if status.st_size > limit:
                bad("the file is too large", f"at most {limit} bytes", f"{status.st_size} bytes")
            data = read_all(file, status.st_size)
    except OSError as error:
        raise IntegrityError(
            f"cannot read {path.name}",
            expected="a readable file",
            found=f"{type(error).__name__}: {error.strerror or error}",
            where=path,
            fix=fix,
        ) from error
    found = _hash(data, meanwhile)
    if sha256 is not None and found != sha256:
        bad("wrong hash", f"sha256 {sha256}", f"sha256 {found}")
    return Verified(path, data, found)


def _hash(data: bytes, meanwhile: Callable[[], object] | None) -> str:
    """Hashes bytes in another thread while `meanwhile` runs. Hashing releases the GIL."""
    if meanwhile is None:
        return hashlib.sha256(data).hexdigest()
    with ThreadPoolExecutor(1) as pool:
        hashing = pool.submit(hashlib.sha256, data)
        meanwhile()
        return hashing.result().hexdigest()


def _known_record(entry: WeightsEntry) -> Record | None:
    """Returns what an entry's file must match: the index's pin, or the record of its first use."""
    if entry.bundled is not None:
        assert entry.sha256 is not None
        return Record(None, entry.sha256, entry.size or 0)
    return _hub_file(entry).pin or trust.records().get(entry.location)


def local_file(entry: WeightsEntry, cache_dir: str | Path | None = None) -> Path | None:
    """Finds an entry's file on this machine, without downloading or verifying it.

    Args:
        entry: An entry.
        cache_dir: The Hub cache. None uses the default.

    Returns:
        The path, or None if there is no local file.
    """
    if entry.bundled is not None:
        return bundled_path(entry)
    file, record = _hub_file(entry), _known_record(entry)
    in_mirror = _in_mirror(file, record.sha256 if record else None)
    return in_mirror[0] if in_mirror else _cached(file, record, Hub(cache_dir))


def verify_local(entry: WeightsEntry, cache_dir: str | Path | None = None) -> Path | None:
    """Verifies the local copy of an entry's file without downloading anything.

    Args:
        entry: An entry.
        cache_dir: The Hub cache. None uses the default.

    Returns:
        The verified file, or None if there is no local file or no known hash.

    Raises:
        IntegrityError: If the bytes do not match the pinned hash or the one recorded on first use.
    """
    path, record = local_file(entry, cache_dir), _known_record(entry)
    if path is None or record is None:
        return None
    return _read(path, record.sha256, record.size, f"Run `mnv2zoo weights fetch {entry.name}`, or replace it.").path


def ask(entry: WeightsEntry, cache_dir: str | Path | None = None) -> WeightsEntry:
    """Gets the data for pinning an entry from the Hub, without downloading the file.

    Args:
        entry: An entry with a file on the Hub.
        cache_dir: The Hub cache. None uses the default.

    Returns:
        The entry with revision, hash and size.

    Raises:
        IntegrityError: If the Hub has no SHA-256, or a different one than on first use.
        WeightsUnavailableError: If the Hub cannot be reached.
    """
    file = _hub_file(entry)
    record = Hub(cache_dir).describe(file)
    first = None if file.pin else trust.records().get(file.location)
    if first is not None:
        trust.require_same(file.location, first, record)
    return replace(entry, revision=record.commit, sha256=record.sha256, size=record.size)


def pin(entry: WeightsEntry, cache_dir: str | Path | None = None) -> WeightsEntry:
    """Gets the data for pinning an entry, downloads its file and verifies it.

    Args:
        entry: An entry with a file on the Hub.
        cache_dir: The Hub cache. None uses the default.

    Returns:
        The entry with revision, hash and size.

    Raises:
        IntegrityError: If the Hub has no SHA-256, or the file matches neither it nor the first use.
        WeightsUnavailableError: If the file cannot be downloaded.
    """
    if entry.bundled is not None:
        return entry
    pinned = ask(entry, cache_dir)
    tensors(verified(pinned, cache_dir), entry.name, entry.layout)
    return pinned


def mirror(name: str, directory: Path, cache_dir: str | Path | None = None) -> Path:
    """Copies verified weights to a mirror folder.

    Args:
        name: `architecture.tag`, or an architecture, for its default weights.
        directory: The mirror, for use as `MNV2ZOO_WEIGHTS_DIR`.
        cache_dir: The Hub cache. None uses the default.

    Returns:
        The copy.

    Raises:
        WeightsError: As for `fetch`.
        OSError: If the folder cannot be written.
    """
    entry = index.entry(name)
    found = verified(entry, cache_dir)
    path = directory / (f"{found.sha256}.safetensors" if entry.bundled else f"{entry.repo_id}/{entry.filename}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(found.data)
    return path

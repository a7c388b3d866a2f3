"""Pins weights: gets their revision, hash and size from the Hub and writes them to an index file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnv2zoo.errors import IntegrityError, WeightsError, WeightsIndexError
from mnv2zoo.system.files import whole_file
from mnv2zoo.weights import index, store
from mnv2zoo.weights.schema import WeightsEntry

PIN_FIELDS = ("revision", "sha256", "size")


@dataclass(frozen=True)
class Row:
    """The result for one entry.

    Attributes:
        entry: The entry, with its pin if there is one.
        status: `pinned` (just now), `already pinned`, or `failed`.
        error: Why it failed.
    """

    entry: WeightsEntry
    status: str
    error: WeightsError | None = None


def pin_all(path: Path, cache_dir: str | Path | None = None) -> Iterator[Row]:
    """Pins every entry of an index file and saves each pin before continuing.

    Entries that are already pinned are compared with the Hub at their revision and never changed. To resume after an
    interruption, call it again: only missing files are downloaded. The signature of the file is not checked, because
    the first pin invalidates it.

    Args:
        path: The index file.
        cache_dir: The Hub cache. None uses the default.

    Yields:
        One row per entry on the Hub, in file order.

    Raises:
        WeightsIndexError: If the index is invalid, or another process changed the entry in the meantime.
        OSError: If the file cannot be written.
    """
    for entry in index.read_unsigned(path).values():
        if entry.bundled is not None:
            continue
        try:
            pinned = _pin(entry, cache_dir)
        except WeightsError as error:
            yield Row(entry, "failed", error)
            continue
        if pinned == entry:
            yield Row(entry, "already pinned")
        else:
            _write(path, entry, pinned)
            yield Row(pinned, "pinned")


def _pin(entry: WeightsEntry, cache_dir: str | Path | None) -> WeightsEntry:
    known = store.ask(entry, cache_dir)
    if entry.sha256 not in (None, known.sha256) or entry.size not in (None, known.size):
        raise IntegrityError(
            f"the pin of {entry.name} does not match the file on the Hub",
            expected=f"sha256 {entry.sha256}, {entry.size} bytes",
            found=f"sha256 {known.sha256}, {known.size} bytes",
            where=entry.location,
            fix="The pin is unchanged. If you expect the new file, first set revision, sha256 and size to null.",
        )
    return entry if known == entry else store.pin(entry, cache_dir)


def _write(path: Path, entry: WeightsEntry, pinned: WeightsEntry) -> None:
    """Fills in one entry's pin without changing any other character of the file."""
    text = path.read_text(encoding="utf-8")
    values = {field: getattr(pinned, field) for field in PIN_FIELDS}
    changed = fill(text, entry.name, values)
    before, after = (json.loads(version)["weights"].get(entry.name, {}) for version in (text, changed))
    same = all(before.get(field) == getattr(entry, field) for field in PIN_FIELDS)
    if not same or after != before | values:
        raise WeightsIndexError(
            f"the entry {entry.name} changed while the index was being pinned",
            expected="the entry as it was read",
            found="a different entry",
            where=path,
            fix="Run the command again.",
        )
    with whole_file(path) as file:
        file.write(changed.encode())


def fill(text: str, name: str, values: dict[str, Any]) -> str:
    """Replaces fields of one entry in the text of an index.

    Args:
        text: JSON.
        name: The entry.
        values: Strings, numbers or None by field. The entry must already have these fields.

    Returns:
        The text. Only these values differ.
    """
    key = re.search(re.escape(json.dumps(name)) + r"\s*:\s*(?=\{)", text)
    if key is None:
        return text
    _, end = json.JSONDecoder().raw_decode(text, key.end())
    entry = text[key.end() : end]
    for field, value in values.items():
        pattern = rf'("{field}"\s*:\s*)(?:null|\d+|"[^"\\]*")'
        entry = re.sub(pattern, lambda found, value=value: found[1] + json.dumps(value), entry, count=1)  # type: ignore[misc]
    return text[: key.end()] + entry + text[end:]

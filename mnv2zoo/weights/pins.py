"""Pinning: revision, hash and size of weights, as the Hub has them, and an index file that is filled with them."""

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
    """What became of one entry.

    Attributes:
        entry: The entry, with all that is known now.
        status: `pinned` (just now), `already pinned`, or `failed`.
        error: Why it failed.
    """

    entry: WeightsEntry
    status: str
    error: WeightsError | None = None


def pin_all(path: Path, cache_dir: str | Path | None = None) -> Iterator[Row]:
    """Pins every entry of an index file, and writes each pin into the file before it goes on.

    An entry that is pinned already is compared with what the Hub has at its revision, and never changed. Whatever was
    cut short is done again by the next call, which downloads only what is still missing. The signature of the file is
    not checked, since the first pin makes it out of date.

    Args:
        path: The index file.
        cache_dir: The Hub's cache; its own default if None.

    Yields:
        A row for each entry on the Hub, in the order of the file.

    Raises:
        WeightsIndexError: If the file is not a valid index, or somebody else changed the entry in the meantime.
        OSError: If it cannot be written.
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
            f"{entry.name} is pinned to another file than the Hub has",
            expected=f"sha256 {entry.sha256}, {entry.size} bytes",
            found=f"sha256 {known.sha256}, {known.size} bytes",
            where=entry.location,
            fix="The pin was left as it is. If the change is intended, set revision, sha256 and size to null first.",
        )
    return entry if known == entry else store.pin(entry, cache_dir)


def _write(path: Path, entry: WeightsEntry, pinned: WeightsEntry) -> None:
    """Fills in one entry's pin, and leaves every other character of the file alone."""
    text = path.read_text(encoding="utf-8")
    values = {field: getattr(pinned, field) for field in PIN_FIELDS}
    changed = fill(text, entry.name, values)
    before, after = (json.loads(version)["weights"].get(entry.name, {}) for version in (text, changed))
    same = all(before.get(field) == getattr(entry, field) for field in PIN_FIELDS)
    if not same or after != before | values:
        raise WeightsIndexError(
            "the index was changed while it was being pinned",
            expected=f"the entry {entry.name} as it was read",
            found="another one",
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
        values: Texts, numbers or None by field. The entry has these fields already.

    Returns:
        The text, in which only these values differ.
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

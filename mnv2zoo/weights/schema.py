"""What an index of weights says: its entries, and the rules that each must keep."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from mnv2zoo import architecture
from mnv2zoo.convert import LAYOUTS
from mnv2zoo.errors import WeightsIndexError

SCHEMA_VERSION = 1
MAX_BYTES = 16 * 2**20  # a bound for the parser's memory; the shipped index is a few kilobytes
LABEL_SETS = ("imagenet-1k",)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")

LOCATION_FIELDS = ("repo_id", "revision", "filename")
DESCRIPTIVE_FIELDS = ("metrics", "origin", "description")  # may be left out; null then
FIELDS = (
    *LOCATION_FIELDS,
    "bundled",
    "sha256",
    "size",
    "layout",
    "num_classes",
    "input_size",
    "crop_pct",
    "interpolation",
    "mean",
    "std",
    "label_names",
    "labels",
    "license",
    *DESCRIPTIVE_FIELDS,
)


@dataclass(frozen=True)
class WeightsEntry:
    """One set of weights, as the index tells of it; what is unknown is None.

    Attributes:
        name: `architecture.tag`.
        repo_id: Repository on the Hub.
        revision: Commit of that repository.
        filename: Safetensors file in that repository.
        bundled: Safetensors file that ships beside the index, in place of the three above.
        sha256: SHA-256 of the file, in hexadecimal.
        size: Its size in bytes.
        layout: Whose parameter names the file uses; see `mnv2zoo.convert`.
        num_classes: Classes of the classifier.
        input_size: Channels, height and width that it was evaluated at.
        crop_pct: Share of the resized image's side that the centre crop keeps.
        interpolation: Filter that resizes.
        mean: Mean of each channel, of values in 0 to 1.
        std: Standard deviation of each channel.
        own_label_names: Names of the classes in class order, where the entry has its own.
        labels: Name of a known label set, or None where `label_names` are the entry's own.
        license: Licence of the weights, as SPDX names it where it can.
        metrics: Figures in percent, such as `top1`.
        origin: Address of those who made the weights.
        description: What they are.
        folder: Folder of the index file that lists it.
    """

    name: str
    repo_id: str | None
    revision: str | None
    filename: str | None
    bundled: str | None
    sha256: str | None
    size: int | None
    layout: str
    num_classes: int
    input_size: tuple[int, int, int]
    crop_pct: float
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    own_label_names: tuple[str, ...] | None
    labels: str | None
    license: str
    metrics: dict[str, float]
    origin: str | None
    description: str | None
    folder: Path

    @property
    def architecture(self) -> str:
        """The part of the name before the first dot."""
        return self.name.partition(".")[0]

    @property
    def tag(self) -> str:
        """The part of the name behind the first dot."""
        return self.name.partition(".")[2]

    @property
    def pinned(self) -> bool:
        """Whether the index knows the file's hash."""
        return self.sha256 is not None

    @property
    def location(self) -> str:
        """Where the file is, in one string that no other entry has."""
        return self.bundled or hub_location(self.repo_id, self.revision, self.filename)

    def to_json(self) -> dict[str, Any]:
        """The entry as an index file has it.

        Returns:
            Its fields by name, ready for `json.dumps`.
        """
        left_out = LOCATION_FIELDS if self.bundled is not None else ("bundled",)
        labels = ("labels",) if self.own_label_names is not None else ("label_names",)
        values = {field: getattr(self, field) for field in FIELDS if field not in (*left_out, *labels)}
        return {field: list(value) if isinstance(value, tuple) else value for field, value in values.items()}

    @cached_property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes in class order; their numbers where the names are unknown."""
        if self.own_label_names is not None:
            return self.own_label_names
        if self.labels is None:
            return tuple(str(i) for i in range(self.num_classes))
        from timm.data import ImageNetInfo  # reads its tables, and most loads need no labels

        info = ImageNetInfo("imagenet-1k")
        return tuple(info.index_to_description(i) for i in range(info.num_classes()))


def hub_location(repo_id: str | None, revision: str | None, filename: str | None) -> str:
    """One string for a file on the Hub, by which first uses are recorded.

    Args:
        repo_id: Its repository.
        revision: A commit, branch or tag; None for `main`.
        filename: Its path there.

    Returns:
        `owner/name@revision/filename`.
    """
    return f"{repo_id}@{revision or 'main'}/{filename}"


# The rules. Each is a statement about one entry's raw fields, or about all entries together, and yields
# (field, expected, found) for whatever breaks it.
Breach = tuple[str, object, object]
Rule = Callable[[str, Mapping[str, Any]], Iterator[Breach]]


def _number(value: object, low: float, high: float) -> bool:
    # The bounds come first: an integer may be too large for a float. A NaN is within none.
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _integer(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def fields_are_known(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """An entry has the schema's fields and no others."""
    for field in raw:
        if field not in FIELDS:
            near = difflib.get_close_matches(field, FIELDS, n=1)
            yield field, f"the field {near[0]!r}" if near else "a field of the schema", "an unknown field"
    needed = [f for f in FIELDS if f not in (*DESCRIPTIVE_FIELDS, "bundled", "labels", "label_names")]
    if raw.get("bundled") is not None:
        needed = [f for f in needed if f not in LOCATION_FIELDS]
    for field in needed:
        if field not in raw:
            yield field, "the field, null where the value is unknown", "no such field"


def key_names_an_architecture(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """A key is `architecture.tag` and its architecture exists."""
    name, _, tag = key.partition(".")
    if name not in architecture.CONFIGS:
        near = difflib.get_close_matches(name, architecture.CONFIGS, n=1)
        yield "key", f"an architecture such as {(near or ['mnv2zoo_100'])[0]}", repr(name)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", tag):
        yield "key", "architecture.tag, the tag of letters, digits and _.-", repr(key)


def location_is_one_file(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """A location is a file in a Hub repository, or a bundled file, and stays inside its folder."""
    bundled = raw.get("bundled")
    if bundled is not None:
        if any(raw.get(field) is not None for field in LOCATION_FIELDS):
            yield "bundled", "either a bundled file or a repository", "both"
        if not isinstance(bundled, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors", bundled):
            yield "bundled", "the plain name of a .safetensors file", repr(bundled)
        return
    repo_id, filename = raw.get("repo_id"), raw.get("filename")
    if not isinstance(repo_id, str) or not re.fullmatch(r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*", repo_id, re.ASCII):
        yield "repo_id", "owner/name", repr(repo_id)
    inside = (
        isinstance(filename, str)
        and filename.endswith(".safetensors")
        and re.fullmatch(r"[\w./-]+", filename, re.ASCII)
        and all(part not in ("", ".", "..") for part in filename.split("/"))
        and not PurePosixPath(filename).is_absolute()
    )
    if not inside:
        yield "filename", "the relative path of a .safetensors file", repr(filename)


def revision_is_a_commit(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """A revision is 40 hexadecimal digits, or unknown."""
    value = raw.get("revision")
    if value is not None and not (isinstance(value, str) and re.fullmatch(r"[0-9a-f]{40}", value)):
        yield "revision", "40 lower-case hexadecimal digits or null", repr(value)


def hash_is_a_sha256(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """A hash is 64 hexadecimal digits, or unknown; a bundled file's is known."""
    value = raw.get("sha256")
    if value is None and raw.get("bundled") is not None:
        yield "sha256", "the hash of the bundled file", "null"
    if value is not None and not (isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value)):
        yield "sha256", "64 lower-case hexadecimal digits or null", repr(value)


def size_is_a_byte_count(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """A size is a positive number of bytes, or unknown."""
    value = raw.get("size")
    if value is not None and not _integer(value, 1, 2**40):
        yield "size", "a positive number of bytes or null", repr(value)


def layout_is_known(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """A layout is one that can be converted."""
    if raw.get("layout") not in tuple(LAYOUTS):
        yield "layout", " or ".join(LAYOUTS), repr(raw.get("layout"))


def preprocessing_is_complete(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """Preprocessing is given in full and within its bounds."""
    size = raw.get("input_size")
    sound = isinstance(size, list) and len(size) == 3 and all(_integer(v, 1, 65536) for v in size)
    if not sound:
        yield "input_size", "[channels, height, width]", repr(size)
    if not _number(raw.get("crop_pct"), 0.01, 1):
        yield "crop_pct", "a number from 0.01 to 1", repr(raw.get("crop_pct"))
    if raw.get("interpolation") not in INTERPOLATIONS:
        yield "interpolation", " or ".join(INTERPOLATIONS), repr(raw.get("interpolation"))
    for field, low in (("mean", -1e6), ("std", 1e-9)):
        value = raw.get(field)
        numbers = isinstance(value, list) and all(_number(v, low, 1e6) for v in value)
        if not numbers or (sound and len(value) != size[0]):  # type: ignore[arg-type,index]
            yield field, "a number for each channel" + (", above 0" if field == "std" else ""), repr(value)


def classes_are_named(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """The classes are counted, and named by `labels` (a known set) or by `label_names`, or their names are unknown."""
    count, names, labels = raw.get("num_classes"), raw.get("label_names"), raw.get("labels")
    if not _integer(count, 1, 10**6):
        yield "num_classes", "a positive number", repr(count)
    if names is not None and labels is not None:
        yield "label_names", "label_names or labels", "both"
    elif labels is not None:
        if labels not in LABEL_SETS:
            yield "labels", " or ".join(LABEL_SETS), repr(labels)
        elif count != 1000:
            yield "num_classes", "1000, as many as imagenet-1k has", repr(count)
    elif names is None:
        return
    elif not isinstance(names, list) or not all(_text(name) for name in names):
        yield "label_names", "a list of names", repr(names)[:80]
    elif len(names) != count or len(set(names)) != len(names):
        yield "label_names", f"{count} different names", f"{len(set(names))} different names"


def licence_is_named(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """A licence is named."""
    if not _text(raw.get("license")):
        yield "license", "the name of a licence", repr(raw.get("license"))


def metrics_are_percents(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """Metrics are percents by name, or unknown."""
    value = raw.get("metrics")
    if value is not None and not (isinstance(value, dict) and all(_number(v, 0, 100) for v in value.values())):
        yield "metrics", "numbers from 0 to 100 by name, or null", repr(value)


def notes_are_text(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """Origin and description are text, or unknown."""
    for field in ("origin", "description"):
        if raw.get(field) is not None and not _text(raw[field]):
            yield field, "one line of text or null", repr(raw[field])


RULES: tuple[Rule, ...] = (
    fields_are_known,
    key_names_an_architecture,
    location_is_one_file,
    revision_is_a_commit,
    hash_is_a_sha256,
    size_is_a_byte_count,
    layout_is_known,
    preprocessing_is_complete,
    classes_are_named,
    licence_is_named,
    metrics_are_percents,
    notes_are_text,
)


def no_two_share_a_file(entries: Iterable[WeightsEntry]) -> Iterator[tuple[WeightsEntry, WeightsEntry, str]]:
    """No two entries share a location or a hash.

    Args:
        entries: All entries in use.

    Yields:
        Two entries and the field they share.
    """
    for field in ("location", "sha256"):
        seen: dict[object, WeightsEntry] = {}
        for entry in entries:
            value = getattr(entry, field)
            if value is not None and value in seen:
                yield seen[value], entry, field
            seen.setdefault(value, entry)


def parse(text: str, path: Path) -> dict[str, WeightsEntry]:
    """Parses and validates the text of an index.

    Args:
        text: JSON.
        path: The file it came from; bundled weights lie beside it, and errors name it.

    Returns:
        The entries by name, in the order of the file.

    Raises:
        WeightsIndexError: If it is no JSON of the schema, or an entry breaks a rule.
    """

    def bad(expected: object, found: object, where: str = "") -> NoReturn:
        raise WeightsIndexError(
            "bad index of weights",
            expected=expected,
            found=found,
            where=f"{path}, {where}" if where else path,
            fix="Correct the file, or unset MNV2ZOO_WEIGHTS_INDEX if it is yours.",
        )

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
            bad("each key once", f"{key!r} twice")
        return found

    def constant(name: str) -> NoReturn:
        bad("finite numbers", name)

    try:
        document = json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except WeightsIndexError:
        raise
    except (ValueError, RecursionError) as error:
        bad("JSON", f"{type(error).__name__}: {error}"[:200])
    if not isinstance(document, dict) or set(document) != {"schema_version", "weights"}:
        bad('an object with "schema_version" and "weights"', list(document) if isinstance(document, dict) else "none")
    version = document["schema_version"]
    if version != SCHEMA_VERSION or isinstance(version, bool):
        bad(f"schema_version {SCHEMA_VERSION}", repr(version)[:80])
    if not isinstance(document["weights"], dict):
        bad("weights by name", type(document["weights"]).__name__)

    entries = {}
    for key, raw in document["weights"].items():
        if not isinstance(raw, dict):
            bad("an object of fields", type(raw).__name__, f"entry {key!r}")
        for rule in RULES:
            for field, expected, found in rule(key, raw):
                bad(expected, found, f"entry {key!r}, {field}")
        entries[key] = WeightsEntry(
            name=key,
            own_label_names=None if raw.get("label_names") is None else tuple(raw["label_names"]),
            labels=raw.get("labels"),
            input_size=tuple(raw["input_size"]),
            mean=tuple(raw["mean"]),
            std=tuple(raw["std"]),
            metrics=dict(raw.get("metrics") or {}),
            folder=path.parent,
            **{field: raw.get(field) for field in _PLAIN_FIELDS},  # type: ignore[arg-type]  # the rules have checked
        )
    _check_together(entries, path)
    return entries


_PLAIN_FIELDS = tuple(f for f in FIELDS if f not in ("label_names", "labels", "input_size", "mean", "std", "metrics"))


def _check_together(entries: Mapping[str, WeightsEntry], path: Path) -> None:
    for one, other, field in no_two_share_a_file(entries.values()):
        raise WeightsIndexError(
            "two entries for one file",
            expected=f"a {field} of its own for each entry",
            found=f"{one.name} and {other.name} with {getattr(one, field)}",
            where=path,
            fix="Correct or remove one of the two.",
        )

"""What an index of weights says: its entries, and the rules that each must keep."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from mnv2zoo import architecture
from mnv2zoo.convert import LAYOUTS
from mnv2zoo.errors import WeightsIndexError
from mnv2zoo.system.validation import Breach, bounded, breaches, description, fits, list_of, nullable, one_of, text

SCHEMA_VERSION = 1
MAX_BYTES = 16 * 2**20  # a bound for the parser's memory; the shipped index is a few kilobytes
LABEL_SETS = ("imagenet-1k",)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")

TAG = text(r"\w[\w.-]*", "architecture.tag, the tag of letters, digits and _.-")
LOCATION_FIELDS = ("repo_id", "revision", "filename")
DESCRIPTIVE_FIELDS = ("metrics", "origin", "description")  # may be left out; null then
TEMPERATURES = 0.05, 20.0  # the lowest and the highest
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
    "temperature",
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
        license: License of the weights, as SPDX names it where it can.
        temperature: Number that divides a classifier's logits before the softmax, so that scores are as high as the
            network is right.
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
    temperature: float | None
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
    def trust(self) -> str:
        """How the file is verified: `pinned`, by the index's hash, or `first use`, by what the Hub served then.

        These are the words for it everywhere: in the tables of the documentation and of the command line.
        """
        return "pinned" if self.pinned else "first use"

    @property
    def location(self) -> str:
        """Where the file is, in one string that no other entry has."""
        return self.bundled or hub_location(self.repo_id, self.revision, self.filename)

    def to_json(self) -> dict[str, Any]:
        """The entry as an index file has it.

        Returns:
            Its fields by name, ready for `json.dumps`.
        """
        left_out = [*LOCATION_FIELDS] if self.bundled is not None else ["bundled"]
        left_out.append("labels" if self.own_label_names is not None else "label_names")
        left_out += ["temperature"] if self.temperature is None else []  # which earlier versions do not know
        values = {field: getattr(self, field) for field in FIELDS if field not in left_out}
        return {field: list(value) if isinstance(value, tuple) else value for field, value in values.items()}

    def transforms(self, training: bool = False, **options: Any) -> Callable[..., Any]:
        """Makes the preprocessing that the weights want, as `mnv2zoo.transforms` does for a name.

        Args:
            training: Make the augmentation for training instead.
            **options: Arguments of `timm.data.create_transform` that replace its own.

        Returns:
            A function from a PIL image of any mode to a float tensor (channels, height, width).

        Raises:
            DataError: If the weights are for images that are neither gray nor RGB.

        Examples:
            >>> import mnv2zoo
            >>> from PIL import Image
            >>> preprocess = mnv2zoo.weights.entry("mnv2zoo_100_c20").transforms()
            >>> preprocess(Image.open("examples/coffee.jpg")).shape
            torch.Size([3, 64, 64])
        """
        from mnv2zoo.data import preprocessing, transforms  # imports PyTorch and timm

        return transforms.for_weights({key: getattr(self, key) for key in preprocessing.FIELDS}, training, **options)

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


# What each field may hold, on its own. The descriptions are what errors say was expected.
KINDS: dict[str, Any] = {
    "repo_id": text(r"\w[\w.-]*/\w[\w.-]*", "owner/name"),
    "revision": nullable(text(r"[0-9a-f]{40}", "40 lower-case hexadecimal digits")),
    # Each part of the path has a name, which is neither "." nor "..".
    "filename": text(r"(?:(?!\.\.?/)[\w.-]+/)*[\w.-]*\.safetensors", "the relative path of a .safetensors file"),
    "bundled": text(r"\w[\w.-]*\.safetensors", "the plain name of a .safetensors file"),
    "sha256": nullable(text(r"[0-9a-f]{64}", "64 lower-case hexadecimal digits")),
    "size": nullable(bounded(int, 1, 2**40, "a positive number of bytes")),
    "layout": one_of(LAYOUTS),
    "num_classes": bounded(int, 1, 10**6, "a positive number"),
    "input_size": list_of(bounded(int, 1, 65536), 3, 3, "[channels, height, width]"),
    "crop_pct": bounded(float, 0.01, 1, "a number from 0.01 to 1"),
    "interpolation": one_of(INTERPOLATIONS),
    "mean": list_of(bounded(float, -1e6, 1e6), text="a number for each channel"),
    "std": list_of(bounded(float, 1e-9, 1e6), text="a number for each channel, above 0"),
    "label_names": nullable(list_of(str, text="a list of names"), "a list of names"),
    "labels": nullable(one_of(LABEL_SETS), " or ".join(LABEL_SETS)),
    "license": text(".*", "the name of a license"),
    "temperature": nullable(bounded(float, *TEMPERATURES, f"a number from {TEMPERATURES[0]} to {TEMPERATURES[1]:g}")),
    "metrics": nullable(dict[str, bounded(float, 0, 100)], "numbers from 0 to 100 by name, or null"),  # type: ignore[misc]
    "origin": nullable(str, "one line of text or null"),
    "description": nullable(str, "one line of text or null"),
}

# The rules. Each is a statement about one entry's raw fields, or about all entries together, and yields
# (field, expected, found) for whatever breaks it.
Rule = Callable[[str, Mapping[str, Any]], Iterator[Breach]]


def fields_are_known(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """An entry has the schema's fields and no others."""
    for field in raw:
        if field not in FIELDS:
            near = difflib.get_close_matches(field, FIELDS, n=1)
            yield field, f"the field {near[0]!r}" if near else "a field of the schema", "an unknown field"
    optional = (*DESCRIPTIVE_FIELDS, "temperature", "bundled", "labels", "label_names")
    needed = [f for f in FIELDS if f not in optional]
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
    if not fits(tag, TAG):
        yield "key", description(TAG), repr(key)


def location_is_one_file(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """A location is a file in a Hub repository, or a bundled file, and stays inside its folder."""
    if raw.get("bundled") is None:
        yield from breaches(raw, KINDS, "repo_id", "filename")
        return
    if any(raw.get(field) is not None for field in LOCATION_FIELDS):
        yield "bundled", "either a bundled file or a repository", "both"
    yield from breaches(raw, KINDS, "bundled")


def revision_is_a_commit(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """A revision is 40 hexadecimal digits, or unknown."""
    yield from breaches(raw, KINDS, "revision")


def hash_is_a_sha256(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """A hash is 64 hexadecimal digits, or unknown; a bundled file's is known."""
    if raw.get("sha256") is None and raw.get("bundled") is not None:
        yield "sha256", "the hash of the bundled file", "null"
    yield from breaches(raw, KINDS, "sha256")


def size_is_a_byte_count(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """A size is a positive number of bytes, or unknown."""
    yield from breaches(raw, KINDS, "size")


def layout_is_known(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """A layout is one that can be converted."""
    yield from breaches(raw, KINDS, "layout")


def preprocessing_is_complete(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """Preprocessing is given in full and within its bounds."""
    broken = {}
    for field, expected, found in breaches(raw, KINDS, "input_size", "crop_pct", "interpolation", "mean", "std"):
        broken[field] = found
        yield field, expected, found
    for field in ("mean", "std"):
        if not broken.keys() & {field, "input_size"} and len(raw[field]) != raw["input_size"][0]:
            yield field, description(KINDS[field]), repr(raw[field])


def classes_are_named(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """The classes are counted, and named by `labels` (a known set) or by `label_names`, or their names are unknown."""
    count, names, labels = raw.get("num_classes"), raw.get("label_names"), raw.get("labels")
    yield from breaches(raw, KINDS, "num_classes")
    if names is not None and labels is not None:
        yield "label_names", "label_names or labels", "both"
    elif labels is not None:
        yield from breaches(raw, KINDS, "labels")
        if count != 1000:
            yield "num_classes", "1000, as many as imagenet-1k has", repr(count)
    elif names is not None:
        if not fits(names, KINDS["label_names"]) or not all(map(_one_line, names)):
            yield "label_names", description(KINDS["label_names"]), repr(names)[:80]
        elif len(names) != count or len(set(names)) != len(names):
            yield "label_names", f"{count} different names", f"{len(set(names))} different names"


def license_is_named(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """A license is named."""
    yield from _lines_of_text(raw, "license")


def temperature_is_in_bounds(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """A temperature is a number from 0.05 to 20, or unknown."""
    yield from breaches(raw, KINDS, "temperature")


def metrics_are_percents(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """Metrics are percents by name, or unknown."""
    yield from breaches(raw, KINDS, "metrics")


def notes_are_text(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """Origin and description are text, or unknown."""
    yield from _lines_of_text(raw, "origin", "description")


def _lines_of_text(raw: Mapping[str, Any], *fields: str) -> Iterator[Breach]:
    yield from breaches(raw, KINDS, *fields)
    for field in fields:
        if isinstance(raw.get(field), str) and not _one_line(raw[field]):
            yield field, description(KINDS[field]), repr(raw[field])


def _one_line(text: str) -> bool:
    return bool(text.strip()) and text.isprintable()


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
    license_is_named,
    temperature_is_in_bounds,
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
        path: The file it came from. Bundled weights are in the same folder, and errors name the file.

    Returns:
        The entries by name, in the order of the file.

    Raises:
        WeightsIndexError: If it is not JSON of the schema, or an entry breaks a rule.
    """
    weights = _weights(_document(text, path), path)
    for key, raw in weights.items():
        if not isinstance(raw, dict):
            raise _bad(path, "an object of fields", type(raw).__name__, f"entry {key!r}")
        for rule in RULES:
            for field, expected, found in rule(key, raw):
                raise _bad(path, expected, found, f"entry {key!r}, {field}")
    entries = {key: _entry(key, raw, path.parent) for key, raw in weights.items()}
    check_together(entries, path)
    return entries


def _document(text: str, path: Path) -> Any:
    """Parses JSON in which each key comes once and each number is finite."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            (key, _), *_ = Counter(key for key, _ in pairs).most_common(1)
            raise _bad(path, "each key once", f"{key!r} twice")
        return found

    def constant(name: str) -> NoReturn:
        raise _bad(path, "finite numbers", name)

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except WeightsIndexError:
        raise
    except (ValueError, RecursionError) as error:
        raise _bad(path, "JSON", f"{type(error).__name__}: {error}"[:200]) from error


def _weights(document: Any, path: Path) -> dict[str, Any]:
    """Takes the entries from a document."""
    if not isinstance(document, dict) or set(document) != {"schema_version", "weights"}:
        found = list(document) if isinstance(document, dict) else "none"
        raise _bad(path, 'an object with "schema_version" and "weights"', found)
    version, weights = document["schema_version"], document["weights"]
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise _bad(path, f"schema_version {SCHEMA_VERSION}", repr(version)[:80])
    if not isinstance(weights, dict):
        raise _bad(path, "weights by name", type(weights).__name__)
    return weights


def _entry(key: str, raw: dict[str, Any], folder: Path) -> WeightsEntry:
    """Makes an entry of fields that the rules have checked."""
    return WeightsEntry(
        name=key,
        own_label_names=None if raw.get("label_names") is None else tuple(raw["label_names"]),
        labels=raw.get("labels"),
        input_size=tuple(raw["input_size"]),
        mean=tuple(raw["mean"]),
        std=tuple(raw["std"]),
        metrics=dict(raw.get("metrics") or {}),
        folder=folder,
        **{field: raw.get(field) for field in _PLAIN_FIELDS},  # type: ignore[arg-type]  # the rules have checked
    )


_PLAIN_FIELDS = tuple(f for f in FIELDS if f not in ("label_names", "labels", "input_size", "mean", "std", "metrics"))


def _bad(path: Path, expected: object, found: object, where: str = "") -> WeightsIndexError:
    return WeightsIndexError(
        "bad index of weights",
        expected=expected,
        found=found,
        where=f"{path}, {where}" if where else path,
        fix="Correct the file, or unset MNV2ZOO_WEIGHTS_INDEX if it is yours.",
    )


def check_together(entries: Mapping[str, WeightsEntry], path: Path) -> None:
    """Refuses entries that share a file.

    Args:
        entries: All entries in use.
        path: The index file that was read last, for the error.

    Raises:
        WeightsIndexError: If two of them do.
    """
    for one, other, field in no_two_share_a_file(entries.values()):
        raise WeightsIndexError(
            "two entries for one file",
            expected=f"a {field} of its own for each entry",
            found=f"{one.name} and {other.name} with {getattr(one, field)}",
            where=path,
            fix="Correct or remove one of the two.",
        )

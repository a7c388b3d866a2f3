"""The schema of an index of weights: its entries and the rules that they must follow."""

from __future__ import annotations

import csv
import difflib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from mnv2zoo import architecture
from mnv2zoo.convert import LAYOUTS
from mnv2zoo.errors import WeightsIndexError
from mnv2zoo.system.validation import Breach, bounded, breaches, description, fits, list_of, nullable, one_of, text

SCHEMA_VERSION = 1
MAX_BYTES = 16 * 2**20  # limits the parser's memory; the bundled index is a few kilobytes
LABEL_SETS = ("imagenet-1k",)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")

TAG = text(r"\w[\w.-]*", "architecture.tag, with a tag of letters, digits and _.-")
LOCATION_FIELDS = ("repo_id", "revision", "filename")
DESCRIPTIVE_FIELDS = ("metrics", "origin", "description")  # optional; null if left out
TEMPERATURES = 0.05, 20.0  # minimum and maximum
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
    """One set of weights in an index. Unknown values are None.

    Attributes:
        name: `architecture.tag`.
        repo_id: Repository on the Hub.
        revision: Commit of that repository.
        filename: Safetensors file in that repository.
        bundled: Safetensors file next to the index, instead of the three fields above.
        sha256: SHA-256 of the file, in hexadecimal.
        size: Size of the file in bytes.
        layout: Layout of the parameter names in the file; see `mnv2zoo.convert`.
        num_classes: Number of classes.
        input_size: Channels, height and width at evaluation.
        crop_pct: Center-crop ratio: side of the crop divided by that of the resized image.
        interpolation: Filter for resizing.
        mean: Mean of each channel, for values from 0 to 1.
        std: Standard deviation of each channel.
        own_label_names: Class names in class order, if the entry lists them itself.
        labels: Name of a known label set, or None if the entry lists its own names.
        license: License of the weights, as an SPDX identifier if there is one.
        temperature: Softmax temperature, which calibrates a classifier's scores.
        metrics: Metrics in percent, such as `top1`.
        origin: URL of the authors of the weights.
        description: A description of the weights.
        folder: Folder of the index file that contains the entry.
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
        """The part of the name after the first dot."""
        return self.name.partition(".")[2]

    @property
    def pinned(self) -> bool:
        """Whether the index has the file's hash."""
        return self.sha256 is not None

    @property
    def trust(self) -> str:
        """How the file is verified: `pinned` (by the index's hash) or `first use` (by the hash on first download).

        The tables of the documentation and of the command line use the same words.
        """
        return "pinned" if self.pinned else "first use"

    @property
    def location(self) -> str:
        """A unique string for the location of the file."""
        return self.bundled or hub_location(self.repo_id, self.revision, self.filename)

    def to_json(self) -> dict[str, Any]:
        """Returns the entry as stored in an index file.

        Returns:
            Its fields by name, ready for `json.dumps`.
        """
        left_out = [*LOCATION_FIELDS] if self.bundled is not None else ["bundled"]
        left_out.append("labels" if self.own_label_names is not None else "label_names")
        left_out += ["temperature"] if self.temperature is None else []  # earlier versions do not know this field
        values = {field: getattr(self, field) for field in FIELDS if field not in left_out}
        return {field: list(value) if isinstance(value, tuple) else value for field, value in values.items()}

    def transforms(self, training: bool = False, **options: Any) -> Callable[..., Any]:
        """Builds the preprocessing for the weights, as `mnv2zoo.transforms` does for a name.

        Args:
            training: Build the training augmentation instead.
            **options: Arguments for `timm.data.create_transform` that override the defaults.

        Returns:
            A function from a PIL image of any mode to a float tensor (channels, height, width).

        Raises:
            DataError: If the weights take images that are neither gray nor RGB.

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
        """Class names in class order, or class numbers if the names are unknown."""
        if self.own_label_names is not None:
            return self.own_label_names
        if self.labels is None:
            return tuple(str(i) for i in range(self.num_classes))
        return _imagenet_names()


def _imagenet_names() -> tuple[str, ...]:
    """Reads timm's ImageNet names from its files, because importing timm takes seconds.

    They are the descriptions of `timm.data.ImageNetInfo`, which reads them if a file is somewhere else.
    """
    timm = find_spec("timm")
    tables = Path(str(timm and timm.origin)).parent / "data" / "_info"
    try:
        synsets = (tables / "imagenet_synsets.txt").read_text(encoding="utf-8").splitlines()
        lemmas = (tables / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8").splitlines()
        names = dict(csv.reader(lemmas, delimiter="\t"))
        return tuple(names[synset] for synset in synsets)
    except (OSError, KeyError, ValueError):
        from timm.data import ImageNetInfo

        info = ImageNetInfo("imagenet-1k")
        return tuple(info.index_to_description(i) for i in range(info.num_classes()))


def hub_location(repo_id: str | None, revision: str | None, filename: str | None) -> str:
    """Returns a string for a file on the Hub, under which its first use is recorded.

    Args:
        repo_id: Its repository.
        revision: A commit, branch or tag. None means `main`.
        filename: Its path in the repository.

    Returns:
        `owner/name@revision/filename`.
    """
    return f"{repo_id}@{revision or 'main'}/{filename}"


# The valid values of each field. Errors quote the descriptions after "expected".
KINDS: dict[str, Any] = {
    "repo_id": text(r"\w[\w.-]*/\w[\w.-]*", "owner/name"),
    "revision": nullable(text(r"[0-9a-f]{40}", "40 lowercase hexadecimal digits")),
    # No part of the path may be "." or "..".
    "filename": text(r"(?:(?!\.\.?/)[\w.-]+/)*[\w.-]*\.safetensors", "the relative path of a .safetensors file"),
    "bundled": text(r"\w[\w.-]*\.safetensors", "the plain name of a .safetensors file"),
    "sha256": nullable(text(r"[0-9a-f]{64}", "64 lowercase hexadecimal digits")),
    "size": nullable(bounded(int, 1, 2**40, "a positive number of bytes")),
    "layout": one_of(LAYOUTS),
    "num_classes": bounded(int, 1, 10**6, "a positive number"),
    "input_size": list_of(bounded(int, 1, 65536), 3, 3, "[channels, height, width]"),
    "crop_pct": bounded(float, 0.01, 1, "a number from 0.01 to 1"),
    "interpolation": one_of(INTERPOLATIONS),
    "mean": list_of(bounded(float, -1e6, 1e6), text="one number per channel"),
    "std": list_of(bounded(float, 1e-9, 1e6), text="one number per channel, above 0"),
    "label_names": nullable(list_of(str, text="a list of names"), "a list of names"),
    "labels": nullable(one_of(LABEL_SETS), " or ".join(LABEL_SETS)),
    "license": text(".*", "the name of a license"),
    "temperature": nullable(bounded(float, *TEMPERATURES, f"a number from {TEMPERATURES[0]} to {TEMPERATURES[1]:g}")),
    "metrics": nullable(dict[str, bounded(float, 0, 100)], "numbers from 0 to 100 by name, or null"),  # type: ignore[misc]
    "origin": nullable(str, "one line of text or null"),
    "description": nullable(str, "one line of text or null"),
}

# The rules. Each checks one entry's raw fields, or all entries together, and yields (field, expected, found) for each
# violation.
Rule = Callable[[str, Mapping[str, Any]], Iterator[Breach]]


def fields_are_known(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """An entry has all fields of the schema and no others."""
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
            yield field, "the field, null if its value is unknown", "a missing field"


def key_names_an_architecture(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """The key is `architecture.tag` and the architecture exists."""
    name, _, tag = key.partition(".")
    if name not in architecture.CONFIGS:
        near = difflib.get_close_matches(name, architecture.CONFIGS, n=1)
        yield "key", f"an architecture such as {(near or ['mnv2zoo_100'])[0]}", repr(name)
    if not fits(tag, TAG):
        yield "key", description(TAG), repr(key)


def location_is_one_file(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """The location is a file in a Hub repository, or a bundled file, and stays inside its folder."""
    if raw.get("bundled") is None:
        yield from breaches(raw, KINDS, "repo_id", "filename")
        return
    if any(raw.get(field) is not None for field in LOCATION_FIELDS):
        yield "bundled", "either a bundled file or a repository", "both"
    yield from breaches(raw, KINDS, "bundled")


def revision_is_a_commit(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """The revision is 40 hexadecimal digits, or unknown."""
    yield from breaches(raw, KINDS, "revision")


def hash_is_a_sha256(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """The hash is 64 hexadecimal digits, or unknown. For a bundled file it is known."""
    if raw.get("sha256") is None and raw.get("bundled") is not None:
        yield "sha256", "the hash of the bundled file", "null"
    yield from breaches(raw, KINDS, "sha256")


def size_is_a_byte_count(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """The size is a positive number of bytes, or unknown."""
    yield from breaches(raw, KINDS, "size")


def layout_is_known(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """The layout can be converted."""
    yield from breaches(raw, KINDS, "layout")


def preprocessing_is_complete(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """The preprocessing is complete and within its bounds."""
    broken = {}
    for field, expected, found in breaches(raw, KINDS, "input_size", "crop_pct", "interpolation", "mean", "std"):
        broken[field] = found
        yield field, expected, found
    for field in ("mean", "std"):
        if not broken.keys() & {field, "input_size"} and len(raw[field]) != raw["input_size"][0]:
            yield field, description(KINDS[field]), repr(raw[field])


def classes_are_named(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """The number of classes is given. Their names come from `labels` or `label_names`, or are unknown."""
    count, names, labels = raw.get("num_classes"), raw.get("label_names"), raw.get("labels")
    yield from breaches(raw, KINDS, "num_classes")
    if names is not None and labels is not None:
        yield "label_names", "label_names or labels", "both"
    elif labels is not None:
        yield from breaches(raw, KINDS, "labels")
        if count != 1000:
            yield "num_classes", "1000, the number of classes in imagenet-1k", repr(count)
    elif names is not None:
        if not fits(names, KINDS["label_names"]) or not all(map(_one_line, names)):
            yield "label_names", description(KINDS["label_names"]), repr(names)[:80]
        elif len(names) != count or len(set(names)) != len(names):
            yield "label_names", f"{count} different names", f"{len(set(names))} different names"


def license_is_named(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """The license is given."""
    yield from _lines_of_text(raw, "license")


def temperature_is_in_bounds(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """The temperature is a number from 0.05 to 20, or unknown."""
    yield from breaches(raw, KINDS, "temperature")


def metrics_are_percents(key: str, raw: Mapping[str, Any]) -> Iterator[Breach]:
    """The metrics are percentages by name, or unknown."""
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
    """No two entries have the same location or hash.

    Args:
        entries: All entries in use.

    Yields:
        Two entries and the field that they share.
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
        path: The file. Bundled weights are in its folder, and errors name it.

    Returns:
        The entries by name, in the order of the file.

    Raises:
        WeightsIndexError: If the text is not valid JSON, or breaks a rule of the schema.
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
    """Parses JSON, rejecting repeated keys and non-finite numbers."""

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
        raise _bad(path, "entries by name", type(weights).__name__)
    return weights


def _entry(key: str, raw: dict[str, Any], folder: Path) -> WeightsEntry:
    """Builds an entry from fields that passed the rules."""
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
        "the index of weights is invalid",
        expected=expected,
        found=found,
        where=f"{path}, {where}" if where else path,
        fix="Correct the file, or unset MNV2ZOO_WEIGHTS_INDEX if the file is yours.",
    )


def check_together(entries: Mapping[str, WeightsEntry], path: Path) -> None:
    """Rejects entries that share a file.

    Args:
        entries: All entries in use.
        path: The index file that was read last, for the error.

    Raises:
        WeightsIndexError: If two entries share a file.
    """
    for one, other, field in no_two_share_a_file(entries.values()):
        raise WeightsIndexError(
            f"the entries {one.name} and {other.name} have the same {field}",
            expected=f"a different {field} in each entry",
            found=getattr(one, field),
            where=path,
            fix="Correct or remove one of the two.",
        )

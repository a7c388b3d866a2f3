"""Reads a list of images with their splits and groups: a CSV, TSV or JSON file, or the `split.json` of a run."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnv2zoo.data import decode
from mnv2zoo.data.annotations import some
from mnv2zoo.data.datasets import AnySample, Data, Sample, in_other_splits
from mnv2zoo.data.discover import SPLIT_OF, SPLITS
from mnv2zoo.data.labels import composed
from mnv2zoo.errors import DataError, ImageReadError
from mnv2zoo.system.validation import fits

IMAGE, SPLIT = "image", "split"
ENDINGS = (".csv", ".tsv", ".json")
Cells = Mapping[str, str]


@dataclass(frozen=True)
class SplitFile:
    """A list of images with their splits and groups.

    Attributes:
        path: The file.
        columns: Names of its columns.
        rows: The cells of each image by column, by the image's name in the file.
        keys: Identifier of each image, by its name in the file, if a run recorded it.
    """

    path: Path
    columns: frozenset[str]
    rows: Mapping[str, Cells]
    keys: Mapping[str, str]

    @staticmethod
    def read(path: str | Path) -> SplitFile:
        """Reads a list of images.

        Args:
            path: A CSV or TSV file with a column `image` and others, such as `split`; a JSON array of objects with
                these keys; or a JSON object with arrays of images under `train`, `val` and `test`, such as the
                `split.json` of a run.

        Returns:
            The list.

        Raises:
            DataError: If the file has another format, or names an image twice.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
            document = json.loads(text) if path.suffix.lower() == ".json" else None
        except (OSError, ValueError, RecursionError) as error:
            raise _bad(path, getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"[:200]) from error
        if isinstance(document, dict):
            return _of_run(path, document)
        if document is None:
            tabs = path.suffix.lower() == ".tsv"
            reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if tabs else ",", restval="")
            document = [{name: cell for name, cell in row.items() if name is not None} for row in reader]
        if not fits(document, list[dict[str, str | int | float | None]]):
            raise _bad(path, "a different JSON document")
        rows = [{key.strip(): _text(cell) for key, cell in row.items()} for row in document]
        if not rows or any(IMAGE not in row for row in rows):
            found = ", ".join(rows[0]) if rows else "no rows"
            raise _bad(path, f"the columns {found}" if rows else found)
        return _listed(path, rows, {})

    def of_images(self, data: Data) -> tuple[dict[str, Cells], list[AnySample]]:
        """Finds the listed images in the data.

        A listed name matches an image's path in the data, with or without its split folder, or its file name if only
        one image has it.

        Args:
            data: The data.

        Returns:
            The cells of each image by its name in the data, and the images that are not listed.

        Raises:
            DataError: If a listed image is not in the data, a name matches several images, or two rows match one image.
        """
        samples = [sample for own in data.splits.values() for sample in own]
        find = _finder(samples)
        found: dict[str, Cells] = {}
        wrong: dict[str, list[str]] = {}
        for name, row in self.rows.items():
            fitting = find(name, self.keys.get(name))
            if len(fitting) != 1:
                wrong.setdefault("several" if fitting else "none", []).append(name)
            elif fitting[0].name in found:
                wrong.setdefault("twice", []).append(name)
            else:
                found[fitting[0].name] = row
        self._refuse(wrong, len(samples))
        return found, [sample for sample in samples if sample.name not in found]

    def _refuse(self, wrong: Mapping[str, Sequence[str]], images: int) -> None:
        """Raises the error for names that do not match exactly one image."""
        for kind, problem, fix in (
            ("none", "images in the list are not in the data", "Restore the images, or remove their rows."),
            ("several", "names in the list match several images", "Write their full paths in the data."),
            ("twice", "rows in the list match the same image as another row", "Keep one row per image."),
        ):
            if names := wrong.get(kind):
                raise DataError(
                    f"{len(names)} {problem}",
                    expected=f"one row for each of the {images} images in the data",
                    found=some(names),
                    where=self.path,
                    fix=fix,
                )


def _of_run(path: Path, document: Mapping[str, Any]) -> SplitFile:
    """Reads the list in the `split.json` of a run, or in a similar file."""
    splits = {split: names for split, names in document.items() if split in SPLITS}
    if not splits or not all(fits(names, list[str]) for names in splits.values()):
        raise _bad(path, "a different JSON document")
    images = document.get("images")
    keys = {name: key for name, key in images.items() if isinstance(key, str)} if isinstance(images, dict) else {}
    return _listed(path, [{IMAGE: name, SPLIT: split} for split, names in splits.items() for name in names], keys)


def _text(cell: object) -> str:
    return "" if cell is None else str(cell).strip()


def _listed(path: Path, rows: Sequence[Cells], keys: Mapping[str, str]) -> SplitFile:
    by_name: dict[str, Cells] = {}
    twice = []
    for row in rows:
        name = row[IMAGE].removeprefix("./")
        if name in by_name:
            twice.append(name)
        by_name[name] = row
    if twice:
        raise DataError(
            f"{len(twice)} images are listed twice",
            expected="one row per image",
            found=some(twice),
            where=path,
            fix="Keep one row per image.",
        )
    return SplitFile(path, frozenset().union(*rows), by_name, keys)


def _bad(path: Path, found: object) -> DataError:
    return DataError(
        f"cannot read the list of images {path.name}",
        expected="a .csv, .tsv or .json file with columns image and split, or the split.json of a run",
        found=found,
        where=path,
        fix="Correct the file, or pass another path.",
    )


def _finder(samples: Sequence[AnySample]) -> Callable[[str, str | None], list[AnySample]]:
    """Returns a function from the name and the identifier of a listed image to the images that match."""
    maps: list[dict[str, list[AnySample]]] = [{}, {}, {}]
    for sample in samples:
        path = path_of(sample)
        for names, name in zip(maps, (sample.name, path, path.rpartition("/")[2]), strict=True):
            names.setdefault(composed(name), []).append(sample)
    by_key: dict[str, list[AnySample]] = {}

    def find(name: str, key: str | None) -> list[AnySample]:
        for names in maps:
            if composed(name) in names:
                return names[composed(name)]
        if key is not None and not by_key:  # takes a while, because every image is hashed
            for sample in samples:
                by_key.setdefault(sample.identify() or "", []).append(sample)
        return by_key.get(key, []) if key else []

    return find


def path_of(sample: AnySample) -> str:
    """Returns the path of an image in the data, without its split folder."""
    first, _, rest = sample.name.partition("/")
    return rest if rest and first in SPLITS else sample.name


def apply(data: Data, listed: SplitFile, skip_bad_images: bool = False) -> Data:
    """Splits the data as a list says, replacing its own splits.

    Args:
        data: The data, before images are checked.
        listed: The list. Without a column `split`, the data is unchanged.
        skip_bad_images: Whether unreadable images need no row.

    Returns:
        The data with the list's splits.

    Raises:
        DataError: If a listed image is not in the data or an image is not listed, a split is unknown, or a class has
            no training image.
    """
    if SPLIT not in listed.columns:
        return data
    found, unnamed = listed.of_images(data)
    _check_splits(found, listed)
    readable = [sample for sample in unnamed if not skip_bad_images or _is_readable(sample)]
    if readable:
        raise DataError(
            f"{len(readable)} images in the data are not in the list",
            expected="one row per image",
            found=some(sample.name for sample in readable),
            where=listed.path,
            fix="Add rows for them, or remove them from the data.",
        )
    splits: dict[str, list[AnySample]] = {split: [] for split in SPLITS}
    for sample in (sample for own in data.splits.values() for sample in own if sample.name in found):
        splits[SPLIT_OF[found[sample.name][SPLIT].lower()]].append(sample)
    if not splits["train"]:
        raise DataError(
            "the list has no training images",
            expected="rows with the split train",
            found="none",
            where=listed.path,
            fix="Set the split of some images to train.",
        )
    data = in_other_splits(data, splits)
    if not unnamed:
        return data
    return replace(data, notes=(*data.notes, f"{len(unnamed)} unreadable images are not in the list"))


def _check_splits(found: Mapping[str, Cells], listed: SplitFile) -> None:
    unknown = {name: row[SPLIT] for name, row in found.items() if row.get(SPLIT, "").lower() not in SPLIT_OF}
    if unknown:
        raise DataError(
            f"{len(unknown)} images in the list have an unknown split",
            expected="train, val or test",
            found=f"{some(map(repr, unknown.values()))} for {some(unknown)}",
            where=listed.path,
            fix="Correct the column split.",
        )


def _is_readable(sample: AnySample) -> bool:
    if not isinstance(sample, Sample):
        return True
    try:
        decode.read(sample.content(), sample.name, channels=sample.channels)
    except ImageReadError:
        return False
    return True


def group_names(data: Data, group_by: str, listed: SplitFile | None) -> dict[str, str]:
    """Finds the group of each image.

    Args:
        data: The data.
        group_by: A column of the list, or a regular expression with one group that is searched in each image's path in
            the data.
        listed: The list, if there is one.

    Returns:
        The group of each image, by the image's name.

    Raises:
        DataError: If the column does not exist, or an image has no group.
    """
    samples = [sample for own in data.splits.values() for sample in own]
    if "(" in group_by:
        matches = {sample.name: re.search(group_by, path_of(sample)) for sample in samples}
        found = {name: match[1] or "" for name, match in matches.items() if match}
        lack, fix = f"do not match the pattern {group_by!r}", "Correct --group-by."
    else:
        found = _column(data, group_by, listed)
        lack, fix = f"have an empty cell in the column {group_by!r}", "Fill in the column."
    if without := [sample.name for sample in samples if not found.get(sample.name)]:
        raise DataError(
            f"{len(without)} of {len(samples)} images {lack}",
            expected="a group for each image",
            found=some(without),
            where=listed.path if listed else "group_by",
            fix=fix,
        )
    return found


def _column(data: Data, name: str, listed: SplitFile | None) -> dict[str, str]:
    if listed is None or name not in listed.columns - {IMAGE, SPLIT}:
        raise DataError(
            f"cannot group images by the column {name!r}: it does not exist",
            expected=_columns(listed.columns if listed else ()),
            found=repr(name),
            where=listed.path if listed else "group_by",
            fix=r"Name a column of --split-file, or pass a pattern with one group, such as --group-by 'plant(\d+)'.",
        )
    return {image: row.get(name, "") for image, row in listed.of_images(data)[0].items()}


def _columns(columns: Iterable[str]) -> str:
    own = sorted(set(columns) - {IMAGE, SPLIT})
    return f"a column such as {' or '.join(own)}" if own else "a --split-file with such a column"

"""A list of images with their splits and their groups: a CSV, TSV or JSON file, or the `split.json` of a run."""

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
from mnv2zoo.data.layout import composed
from mnv2zoo.errors import DataError, ImageReadError
from mnv2zoo.system.validation import fits

IMAGE, SPLIT = "image", "split"
ENDINGS = (".csv", ".tsv", ".json")
Cells = Mapping[str, str]


@dataclass(frozen=True)
class SplitFile:
    """A list of images.

    Attributes:
        path: The file.
        columns: Names of its columns.
        rows: The cells of each image by column, by the image's name in the file.
        keys: What recognizes an image whatever it is called, by its name in the file, where a run recorded it.
    """

    path: Path
    columns: frozenset[str]
    rows: Mapping[str, Cells]
    keys: Mapping[str, str]

    @staticmethod
    def read(path: str | Path) -> SplitFile:
        """Reads a list.

        Args:
            path: A CSV or TSV file with a column `image` and further ones, such as `split`; a JSON array of objects
                with these keys; or a JSON object with arrays of images at `train`, `val` and `test`, such as the
                `split.json` of a run.

        Returns:
            The list.

        Raises:
            DataError: If it is no such file, or names an image twice.
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
            raise _bad(path, "other JSON")
        rows = [{key.strip(): _text(cell) for key, cell in row.items()} for row in document]
        if not rows or any(IMAGE not in row for row in rows):
            found = ", ".join(rows[0]) if rows else "no rows"
            raise _bad(path, f"the columns {found}" if rows else found)
        return _listed(path, rows, {})

    def of_images(self, data: Data) -> tuple[dict[str, Cells], list[AnySample]]:
        """Finds the images of the list in the data.

        An image in the list is the data's image of that name, which is its path within the data with or without its
        split's folder, or its file name alone where only one image has it.

        Args:
            data: The data.

        Returns:
            The cells of each image by its name in the data, and the images that are not in the list.

        Raises:
            DataError: If an image of the list is not in the data, a name fits several images, or two rows are of one.
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
        """Raises the error for names that do not stand for one image each."""
        for kind, problem, fix in (
            ("none", "images of the list are not in the data", "Restore the images, or remove their rows."),
            ("several", "names in the list fit several images", "Write their paths within the data."),
            ("twice", "rows of the list are of images that others are of", "Leave one row per image."),
        ):
            if names := wrong.get(kind):
                raise DataError(
                    f"{len(names)} {problem}",
                    expected=f"a row for each of the {images} images in the data",
                    found=some(names),
                    where=self.path,
                    fix=fix,
                )


def _of_run(path: Path, document: Mapping[str, Any]) -> SplitFile:
    """The list in the `split.json` of a run, or in a file like it."""
    splits = {split: names for split, names in document.items() if split in SPLITS}
    if not splits or not all(fits(names, list[str]) for names in splits.values()):
        raise _bad(path, "other JSON")
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
            f"{len(twice)} images come twice in the list",
            expected="one row per image",
            found=some(twice),
            where=path,
            fix="Leave one row per image.",
        )
    return SplitFile(path, frozenset().union(*rows), by_name, keys)


def _bad(path: Path, found: object) -> DataError:
    return DataError(
        "cannot read the list of images",
        expected="a .csv, .tsv or .json file with columns image and split, or the split.json of a run",
        found=found,
        where=path,
        fix="Correct the file, or the path.",
    )


def _finder(samples: Sequence[AnySample]) -> Callable[[str, str | None], list[AnySample]]:
    """A function from the name of an image in a list, and its key, to the images that fit."""
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
        if key is not None and not by_key:  # takes a while: every image is hashed
            for sample in samples:
                by_key.setdefault(sample.identify() or "", []).append(sample)
        return by_key.get(key, []) if key else []

    return find


def path_of(sample: AnySample) -> str:
    """The path of an image within the data, without the folder of its split."""
    first, _, rest = sample.name.partition("/")
    return rest if rest and first in SPLITS else sample.name


def apply(data: Data, listed: SplitFile, skip_bad_images: bool = False) -> Data:
    """Splits the data as a list says, whatever splits it has.

    Args:
        data: The data, before images are checked.
        listed: The list; one without a column `split` leaves the data as it is.
        skip_bad_images: Whether images that cannot be read need no row.

    Returns:
        The data in the list's splits.

    Raises:
        DataError: If an image of the list is not in the data or the other way round, a split is unknown, or a class
            has no image to train on.
    """
    if SPLIT not in listed.columns:
        return data
    found, unnamed = listed.of_images(data)
    _check_splits(found, listed)
    readable = [sample for sample in unnamed if not skip_bad_images or _is_readable(sample)]
    if readable:
        raise DataError(
            f"{len(readable)} images in the data are not in the list",
            expected="a row per image",
            found=some(sample.name for sample in readable),
            where=listed.path,
            fix="Add rows for them, or move them out of the data.",
        )
    splits: dict[str, list[AnySample]] = {split: [] for split in SPLITS}
    for sample in (sample for own in data.splits.values() for sample in own if sample.name in found):
        splits[SPLIT_OF[found[sample.name][SPLIT].lower()]].append(sample)
    if not splits["train"]:
        raise DataError(
            "the list has no images to train on", expected="rows with the split train", found="none", where=listed.path
        )
    data = in_other_splits(data, splits)
    if not unnamed:
        return data
    return replace(data, notes=(*data.notes, f"{len(unnamed)} images that cannot be read are not in the list"))


def _check_splits(found: Mapping[str, Cells], listed: SplitFile) -> None:
    unknown = {name: row[SPLIT] for name, row in found.items() if row.get(SPLIT, "").lower() not in SPLIT_OF}
    if unknown:
        raise DataError(
            f"{len(unknown)} images in the list have a split of another name",
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
        group_by: A column of the list, or a regular expression with one group that is searched for in each image's
            path within the data.
        listed: The list, if there is one.

    Returns:
        The group by the image's name.

    Raises:
        DataError: If there is no such column, or an image has no group.
    """
    samples = [sample for own in data.splits.values() for sample in own]
    if "(" in group_by:
        matches = {sample.name: re.search(group_by, path_of(sample)) for sample in samples}
        found = {name: match[1] or "" for name, match in matches.items() if match}
        lack, fix = f"do not match the pattern {group_by!r}", "Correct --group-by."
    else:
        found = _column(data, group_by, listed)
        lack, fix = f"have no cell in the column {group_by!r}", "Fill in the column."
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
            f"there is no column {name!r} to group images by",
            expected=_columns(listed.columns if listed else ()),
            found=repr(name),
            where=listed.path if listed else "group_by",
            fix=r"Name a column of --split-file, or pass a pattern with one group, such as --group-by 'plant(\d+)'.",
        )
    return {image: row.get(name, "") for image, row in listed.of_images(data)[0].items()}


def _columns(columns: Iterable[str]) -> str:
    own = sorted(set(columns) - {IMAGE, SPLIT})
    return f"a column such as {' or '.join(own)}" if own else "a file with such a column"

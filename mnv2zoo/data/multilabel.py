"""Reads images with any number of labels from CSV files, class folders or COCO annotations.

A CSV file has a column `image` with paths, and either a column `labels` with separated names, or one column of 0
and 1 per label. In class folders, an image has the labels of all folders that contain a copy of it. In a COCO file, an
annotation gives its image the label of its category.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnv2zoo.data import boxes
from mnv2zoo.data import layout as layouts
from mnv2zoo.data.annotations import Trouble, files_in, read_bytes, some
from mnv2zoo.data.discover import SPLIT_OF, SPLITS, Parts, wanted
from mnv2zoo.data.labels import composed
from mnv2zoo.data.layout import Found, Layout
from mnv2zoo.data.tree import File
from mnv2zoo.errors import DataError

IMAGE, LABELS, SPLIT = "image", "labels", "split"  # columns of a CSV file
SEPARATORS = ("|", ";", ",")  # between labels, if none is given

Files = Mapping[Parts, File]


@dataclass(frozen=True, slots=True)
class LabeledImage:
    """An image and its labels.

    Attributes:
        name: Its path in the data.
        file: The file with its bytes.
        labels: Names of its labels. Empty if it has none.
    """

    name: str
    file: File
    labels: frozenset[str]


@dataclass(frozen=True)
class LabelListing:
    """The images and labels of a dataset.

    Attributes:
        form: Source of the labels, such as `COCO categories`.
        class_names: Label names: in the order of the columns or of the category ids, otherwise alphabetical.
        splits: The images by split. Images without a split are in `train`.
        notes: Remarks for the user, one sentence each.
    """

    form: str
    class_names: tuple[str, ...]
    splits: dict[str, tuple[LabeledImage, ...]]
    notes: tuple[str, ...]


def read(place: str | Path, layout: Layout) -> LabelListing:
    """Finds images and labels.

    Args:
        place: A CSV file; a folder or tar file with images and CSV files, or with images and COCO `.json` files; or
            class folders as for classification. Splits are files or folders named `train`, `val` and `test`, or a
            column `split`.
        layout: How class folders are laid out, the separator of labels, and whether to skip invalid annotations.

    Returns:
        The images and labels.

    Raises:
        DataError: If there are no labels, a file cannot be read, a column or value is invalid, an image is missing, or
            another split has labels that `train` lacks.
    """
    table = Path(place) if Path(place).suffix.lower() == ".csv" and Path(place).is_file() else None
    files, is_image = files_in(table.parent if table else place), wanted(layout.in_chans)
    trouble, notes = Trouble(place, layout.skip_bad_images), list[str]()
    tables = _tables(files, place, table.name if table else None)
    documents = {} if tables else _documents(files, place)
    if not tables and not documents:
        if not any(len(parts) > 1 and is_image(parts[-1]) for parts in files):
            raise _no_labels(place, f"{sum(is_image(parts[-1]) for parts in files)} images without labels")
        return _of_folders(place, layout)
    if layout.layout is not None or layout.named:
        raise DataError(
            "layout options do not apply to CSV and COCO files",
            expected="one file per split, such as train.csv, or a column named split",
            found=", ".join(layout.named.values()) or f"the layout {layout.layout!r}",
            where=place,
            fix="Leave out --layout, --train-dir, --val-dir and --test-dir.",
        )
    if tables:
        rows = _Rows(files, trouble, notes, layout.label_separator)
        names, splits = rows.of(tables)
        form = f"CSV, labels separated by {rows.separator!r}" if rows.separator else "CSV"
    else:
        form, (names, splits) = "COCO categories", _of_coco(documents, files, trouble)
    notes += trouble.report()
    used = {image.file for images in splits.values() for image in images}
    if not table and (unused := sum(is_image(parts[-1]) and file not in used for parts, file in files.items())):
        notes.append(f"images that no {'row' if tables else 'file'} lists are not used: {unused}")
    return _listing(form, names, splits, place, notes)


def _no_labels(place: str | Path, found: str) -> DataError:
    return DataError(
        "the data has no labels",
        expected=f"a CSV file with the columns {IMAGE} and {LABELS}, a COCO .json file, or one folder per label",
        found=found,
        where=place,
        fix="Pass the CSV file, or the folder that also contains the labels.",
    )


def _listing(
    form: str, names: Iterable[str], splits: Mapping[str, Sequence[LabeledImage]], place: str | Path, notes: list[str]
) -> LabelListing:
    """Builds the listing, with the labels of the training images."""
    found = {split: tuple(splits[split]) for split in SPLITS if splits.get(split)}
    shown = {split: set[str]().union(*(image.labels for image in images)) for split, images in found.items()}
    learned = shown.get("train") or set().union(*shown.values())
    if not learned:
        raise DataError(
            "no image has a label",
            expected="images with labels",
            found="none",
            where=place,
            fix="Check the labels.",
        )
    for split, labels in shown.items():
        if unknown := sorted(labels - learned):
            raise DataError(
                f"the split {split} has labels that train lacks",
                expected=f"some of train's {len(learned)} labels",
                found=some(unknown),
                where=place,
                fix="Give them the names that they have in train, or remove them.",
            )
    if empty := [name for name in names if name not in learned]:
        notes.append(f"labels without training images are ignored: {some(empty)}")
    return LabelListing(form, tuple(name for name in names if name in learned), found, tuple(notes))


# CSV files


@dataclass(frozen=True)
class _Table:
    columns: list[str]
    rows: list[tuple[int, list[str]]]  # with their line numbers
    where: str  # for messages
    split: str  # of the rows, if there is no column for it


def has_labels(place: str | Path) -> bool:
    """Checks whether data clearly has several labels per image, according to a CSV file.

    Args:
        place: The data.

    Returns:
        True if it is a CSV file, or a folder with one at the top level that lists images with a column `labels` or
        with two or more columns of 0 and 1.
    """
    path = Path(place)
    if path.is_file():
        return path.suffix.lower() == ".csv"
    for file in sorted(path.glob("*.csv")) if path.is_dir() else ():
        try:
            table = _parse((file.name,), File(file.name, file), place)
        except DataError:  # a file about something else
            continue
        others = [column for column in table.columns if column not in (IMAGE, SPLIT)]
        cells = (cell for _, row in table.rows for cell in _cells(table, row, others))
        hot = len(others) > 1 and all(_hot(cell) is not None for cell in cells)
        if IMAGE in table.columns and (LABELS in others or hot):
            return True
    return False


def _cells(table: _Table, row: Sequence[str], columns: Iterable[str]) -> list[str]:
    cells = dict(zip(table.columns, row, strict=False))
    return [cells.get(column, "") for column in columns]


def _tables(files: Files, place: str | Path, only: str | None) -> list[_Table]:
    """Returns the CSV files that list images. With `only`, the file with that name at the top level."""
    found = []
    for parts, file in files.items():
        if not parts[-1].lower().endswith(".csv") or (only is not None and parts != (only,)):
            continue
        table = _parse(parts, file, place)
        if IMAGE in table.columns:
            found.append(table)
            _check_columns(table, place)
        elif only is not None:
            raise DataError(
                f"{place} has no column {IMAGE!r}",
                expected=f"a column {IMAGE!r} with paths, and a column {LABELS!r} or one of 0 and 1 per label",
                found=some(table.columns) or "an empty file",
                where=place,
                fix=f"Rename the column with the images' paths to {IMAGE!r}.",
            )
    splits = [table.split for table in found]
    if twice := sorted({split for split in splits if splits.count(split) > 1}):
        raise DataError(
            f"two CSV files have labels for the split {twice[0]}",
            expected="one CSV file, or one per split with the split in its name, such as train.csv",
            found=some(table.where for table in found if table.split == twice[0]),
            where=place,
            fix="Remove or rename one of them, or pass the path of the CSV file to use.",
        )
    return found


def _check_columns(table: _Table, place: str | Path) -> None:
    columns, where = table.columns, place if Path(place).is_file() else f"{place}: {table.where}"
    others = [column for column in columns if column not in (IMAGE, SPLIT)]
    if twice := sorted({column for column in columns if columns.count(column) > 1}):
        raise DataError(
            "two columns of a CSV file have the same name",
            expected="a different name for each column",
            found=some(map(repr, twice)),
            where=where,
            fix="Rename or remove one of them.",
        )
    if not others:
        raise DataError(
            "a CSV file has no labels",
            expected=f"a column {LABELS!r}, or one column of 0 and 1 per label",
            found=some(map(repr, columns)),
            where=where,
            fix="Add the labels of the images.",
        )
    if LABELS in others and len(others) > 1:
        raise DataError(
            "a CSV file has unknown columns",
            expected=f"{IMAGE}, {LABELS} and optionally {SPLIT}",
            found=some(repr(column) for column in others if column != LABELS),
            where=where,
            fix=f"Remove them. If each of them is a label with 0 and 1, remove {LABELS} instead.",
        )


def _parse(parts: Parts, file: File, place: str | Path) -> _Table:
    where = "/".join(parts)
    try:
        text = read_bytes(file).decode("utf-8-sig")
        header = text.partition("\n")[0]
        delimiter = max((",", ";", "\t"), key=header.count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        first = next(reader, [])
        rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"cannot read the CSV file {where}",
            expected="UTF-8 text with one line per image",
            found=str(error),
            where=f"{place}: {where}",
            fix="Export the file again.",
        ) from error
    columns = [composed(column.strip()) for column in first]
    columns = [column.lower() if column.lower() in (IMAGE, LABELS, SPLIT) else column for column in columns]
    return _Table(columns, rows, where, boxes.split_of(parts))


def _hot(cell: str) -> bool | None:
    """Parses a cell of 0 or 1. None for other values."""
    return {"0": False, "1": True, "0.0": False, "1.0": True}.get(cell.strip())


class _Rows:
    """Converts the rows of CSV files to images with labels.

    Args:
        files: All files of the data.
        trouble: Collects bad rows.
        notes: Receives a note if rows were merged.
        separator: The separator of labels. None detects it.
    """

    def __init__(self, files: Files, trouble: Trouble, notes: list[str], separator: str | None) -> None:
        self.files, self.trouble, self.notes, self.separator = files, trouble, notes, separator
        self.by_name = boxes.images_by_name(files)
        self.found: dict[str, dict[Parts, set[str]]] = defaultdict(dict)
        self.repeated: list[str] = []

    def of(self, tables: Sequence[_Table]) -> tuple[list[str], dict[str, list[LabeledImage]]]:
        """Returns the label names, and the images by split."""
        names: dict[str, None] = {}
        lists = [table for table in tables if LABELS in table.columns]
        self._find_separator(cell for table in lists for _, row in table.rows for cell in _cells(table, row, [LABELS]))
        for table in tables:
            names |= dict.fromkeys(self._read(table))
        if lists:
            names = dict.fromkeys(sorted(names))
        if self.repeated:
            self.notes.append(f"images in several rows have the labels of all of them: {some(self.repeated)}")
        return list(names), {
            split: [LabeledImage("/".join(p), self.files[p], frozenset(labels)) for p, labels in own.items()]
            for split, own in self.found.items()
        }

    def _find_separator(self, cells: Iterable[str]) -> None:
        if self.separator is not None:
            return
        found = {separator for cell in cells for separator in SEPARATORS if separator in cell}
        if len(found) > 1:
            raise DataError(
                "the separator of the labels is ambiguous",
                expected=f"one of {' '.join(SEPARATORS)} between the labels of an image",
                found=" and ".join(sorted(found)),
                where=self.trouble.place,
                fix="Pass the separator as --label-separator.",
            )
        if found:
            (self.separator,) = found

    def _read(self, table: _Table) -> list[str]:
        """Reads a table, and returns its label names."""
        others = [column for column in table.columns if column not in (IMAGE, SPLIT)]
        names: dict[str, None] = {} if LABELS in others else dict.fromkeys(others)
        for number, row in table.rows:
            line = f"line {number} of {table.where}"
            if len(row) != len(table.columns):
                self.trouble.add(f"rows that do not have {len(table.columns)} cells, like the header", line)
                continue
            cells = dict(zip(table.columns, row, strict=True))
            labels = self._listed(cells[LABELS]) if LABELS in others else self._hot(cells, others, line)
            split = SPLIT_OF.get(cells[SPLIT].strip().lower()) if SPLIT in cells else table.split
            path = self._path(cells[IMAGE].strip(), table)
            if split is None:
                self.trouble.add(f"rows with an unknown split, such as {cells[SPLIT]!r}", line)
            elif path is None:
                self.trouble.add("images that do not exist", cells[IMAGE].strip() or line)
            elif labels is not None:
                if path in self.found[split]:
                    self.repeated.append("/".join(path))
                self.found[split].setdefault(path, set()).update(labels)
                names |= dict.fromkeys(labels)
        return list(names)

    def _listed(self, cell: str) -> list[str]:
        parts = cell.split(self.separator) if self.separator else [cell]
        return [composed(part.strip()) for part in parts if part.strip()]

    def _hot(self, cells: Mapping[str, str], columns: Sequence[str], line: str) -> list[str] | None:
        values = {column: _hot(cells[column]) for column in columns}
        if wrong := [column for column, value in values.items() if value is None]:
            self.trouble.add(f"values other than 0 and 1, such as {cells[wrong[0]]!r} in {wrong[0]!r}", line)
            return None
        return [column for column, value in values.items() if value]

    def _path(self, name: str, table: _Table) -> Parts | None:
        root = Path(self.trouble.place)
        root = root.parent if root.is_file() else root
        if Path(name).is_absolute() and Path(name).is_relative_to(root.absolute()):
            name = Path(name).relative_to(root.absolute()).as_posix()
        return boxes.image_path(name, tuple(table.where.split("/")), self.files, self.by_name)


# COCO


def _documents(files: Files, place: str | Path) -> dict[Parts, dict[str, Any]]:
    """Returns the COCO files by path."""
    found = {}
    for parts, file in files.items():
        if parts[-1].lower().endswith(".json"):
            document = boxes.coco_document("/".join(parts), file, place)
            if document is not None:
                found[parts] = document
    return found


def _of_coco(
    documents: Mapping[Parts, dict[str, Any]], files: Files, trouble: Trouble
) -> tuple[list[str], dict[str, list[LabeledImage]]]:
    names: dict[str, None] = {}
    splits: dict[str, list[LabeledImage]] = {}
    by_name = boxes.images_by_name(files)
    for parts, document in documents.items():
        where, split = "/".join(parts), boxes.split_of(parts)
        if split in splits:
            raise DataError(
                f"two files have labels for the split {split}",
                expected="one .json file per split, with the split in its name or its folder's",
                found=where,
                where=trouble.place,
                fix="Remove one of them, or rename them to train.json, val.json and test.json.",
            )
        try:
            categories = {int(one["id"]): composed(str(one["name"])) for one in document["categories"]}
            labels = _labels_by_image(document, categories, where, trouble)
            splits[split] = []
            for one in document["images"]:
                path = boxes.image_path(str(one["file_name"]), parts, files, by_name)
                if path is None:
                    trouble.add("images that do not exist", str(one["file_name"]))
                else:
                    own = frozenset(labels.get(one["id"], ()))
                    splits[split].append(LabeledImage("/".join(path), files[path], own))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"cannot read the annotation file {where}",
                expected="images, annotations and categories in COCO format",
                found=f"{type(error).__name__}: {error}",
                where=f"{trouble.place}: {where}",
                fix="Export the annotations again.",
            ) from error
        names |= dict.fromkeys(categories[number] for number in sorted(categories))
    return list(names), splits


def _labels_by_image(
    document: Mapping[str, Any], categories: Mapping[int, str], where: str, trouble: Trouble
) -> dict[Any, set[str]]:
    known = {one["id"] for one in document["images"]}
    labels: dict[Any, set[str]] = defaultdict(set)
    for one in document["annotations"]:
        name = f"annotation {one.get('id')} in {where}"
        if one["category_id"] not in categories:
            trouble.add("annotations of an unknown category", name)
        elif one["image_id"] not in known:
            trouble.add("annotations of an unknown image", name)
        else:
            labels[one["image_id"]].add(categories[one["category_id"]])
    return labels


# Class folders


def _of_folders(place: str | Path, layout: Layout) -> LabelListing:
    listing = layouts.read(place, layout)
    notes, splits = list(listing.notes), dict[str, list[LabeledImage]]()
    several = 0
    for split, found in listing.splits.items():
        groups = _copies(found, place)
        splits[split] = [LabeledImage(own[0].name, own[0].file, frozenset(one.label for one in own)) for own in groups]
        several += sum(len(image.labels) > 1 for image in splits[split])
    if listing.unused:
        notes.append(str(listing.unused))
    names = sorted(set().union(*listing.classes.values()))
    if len(names) < 2:
        raise _no_labels(place, f"only the folder {names[0]!r}")
    form = f"class folders, {several} images in several of them"
    return _listing(form, names, splits, place, notes)


def _copies(found: Sequence[Found], place: str | Path) -> list[list[Found]]:
    """Groups files with the same image, by content."""
    sizes: dict[int, list[Found]] = defaultdict(list)
    named: dict[str, set[str]] = defaultdict(set)
    for one in found:
        sizes[_size(one.file)].append(one)
    keys = {one.name: _key(one, len(own) > 1) for own in sizes.values() for one in own}
    groups: dict[str, list[Found]] = {}
    for one in found:
        groups.setdefault(keys[one.name], []).append(one)
        named[one.name.split("/", 2)[2]].add(keys[one.name])  # path below its split and class
    if differing := [name for name, own in named.items() if len(own) > 1]:
        raise DataError(
            "files with the same name in several class folders are different images",
            expected="copies of the same image, or different names",
            found=f"{len(differing)}: {some(differing)}",
            where=place,
            fix="Rename them, replace them with copies of one file, or list the images in a CSV file.",
        )
    return list(groups.values())


def _size(file: File) -> int:
    if file.offset is not None:
        return file.size
    return file.place.stat().st_size if file.place.exists() else -1


def _key(one: Found, alike: bool) -> str:
    """Returns an identifier that copies of an image share: its own name if no other file has its size."""
    if not alike or not (one.file.offset is not None or one.file.place.is_file()):
        return one.name
    return hashlib.sha256(read_bytes(one.file)).hexdigest()

"""Writes rows of predictions to a file that appears when it is complete. Added rows survive if the run is killed."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from mnv2zoo.errors import MissingExtraError, OutputError
from mnv2zoo.system import files, tables
from mnv2zoo.system.installation import install_command
from mnv2zoo.tasks import Task

Row = dict[str, Any]
PARQUET_ROWS = 10_000  # rows per row group, which are in memory at the same time


class Journal:
    """The rows of a run, in a database next to the output file.

    Added rows survive if the process is killed, and the next run resumes after them. `finish` writes the file in the
    format of its suffix: `.csv`, `.parquet`, `.coco.json` for a detector, or else JSON Lines. Then the database
    `.<file name>.partial` is removed.

    Attributes:
        done: The number of rows from an earlier run.
    """

    def __init__(self, output: Path) -> None:
        """Opens the database.

        Args:
            output: The file. An older file is replaced when the rows are complete.

        Raises:
            OSError: If the file cannot be written there.
            OutputError: If another process is writing to it, or the database of an earlier run cannot be read.
            MissingExtraError: If it is a Parquet file and pyarrow is not installed.
        """
        self.output = files.place(output)
        if self.output.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
            raise MissingExtraError(
                "pyarrow, which writes Parquet files, is not installed", fix=f"Run: {install_command('parquet')}"
            )
        self.path = self.output.with_name(f".{self.output.name}.partial")
        self._settings: dict[str, Any] = {}
        self._task: Task | None = None
        self._finished = False
        with self._errors():
            self._database = sqlite3.connect(self.path, timeout=0, isolation_level=None)
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")  # so that commits do not wait for the disk
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute("CREATE TABLE IF NOT EXISTS settings (document TEXT)")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS rows (number INTEGER PRIMARY KEY, image BLOB UNIQUE, document TEXT)"
            )
            self._database.execute("COMMIT")
            self.done: int = self._database.execute("SELECT COUNT(*) FROM rows").fetchone()[0]

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        with self._errors():
            useless = self._finished or not self._database.execute("SELECT 1 FROM rows").fetchone()
            self._database.close()
        if useless:
            self.path.unlink(missing_ok=True)

    def begin(self, settings: Mapping[str, Any], task: Task) -> None:
        """Records the settings of the rows.

        Args:
            settings: Everything that affects the rows, as JSON values. `topk` is the number of predictions per row.
            task: The task, which defines the columns of a table.

        Raises:
            OutputError: If the rows of an earlier run have other settings, or the file is for COCO results and the task
                predicts no boxes.
        """
        if self.output.name.lower().endswith(COCO) and task.coco_results({"image": "", "detections": ()}, 1) is None:
            raise OutputError(
                f"cannot write COCO results for the task {task.name}, which predicts no boxes",
                expected="a detector, or another ending, such as .jsonl",
                found=self.output.name,
                where=self.output,
                fix="Choose another --output.",
            )
        self._settings, self._task = dict(settings), task
        with self._errors():
            before = self._database.execute("SELECT document FROM settings").fetchone()
            if self.done and before and (earlier := json.loads(before[0])) != self._settings:
                differing = [name for name in {**earlier, **settings} if earlier.get(name) != settings.get(name)]
                raise OutputError(
                    f"the unfinished run of {self.output} has other settings",
                    expected=", ".join(f"{name} {str(earlier.get(name))[:80]}" for name in differing),
                    found=", ".join(f"{name} {str(settings.get(name))[:80]}" for name in differing),
                    where=self.path,
                    fix="Use the same settings to resume, or delete this file to start over.",
                )
            self._database.execute("BEGIN")
            self._database.execute("DELETE FROM settings")
            self._database.execute("INSERT INTO settings VALUES (?)", [json.dumps(self._settings)])
            self._database.execute("COMMIT")

    def __contains__(self, image: Path) -> bool:
        """Whether the row of an image was added."""
        with self._errors():
            found = self._database.execute("SELECT 1 FROM rows WHERE image = ?", [os.fsencode(image)])
            return found.fetchone() is not None

    def add(self, rows: Iterable[Row]) -> None:
        """Stores all of the rows, or none if there is an error.

        Args:
            rows: Rows of images that have no row yet.

        Raises:
            OutputError: If the rows cannot be stored.
        """
        added = [(os.fsencode(row["image"]), json.dumps(row, allow_nan=False)) for row in rows]
        with self._errors():
            self._database.execute("BEGIN")
            self._database.executemany("INSERT INTO rows (image, document) VALUES (?, ?)", added)
            self._database.execute("COMMIT")

    def finish(self) -> None:
        """Writes the file. The database is removed when the context manager exits.

        Raises:
            OSError: If the file cannot be written. The rows stay in the database.
        """
        assert self._task is not None, "begin comes first"
        name = self.output.name.lower()
        write = next((write for ending, write in WRITERS.items() if name.endswith(ending)), write_json_lines)
        with self._errors(), files.whole_file(self.output) as file:
            found = self._database.execute("SELECT document FROM rows ORDER BY number")
            write(file, (json.loads(document) for (document,) in found), self._task, self._settings)
        self._finished = True

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if "locked" in str(error):
                raise OutputError(
                    f"another process is writing {self.output}",
                    where=self.path,
                    fix="Wait for that process, or choose another output.",
                ) from error
            raise OutputError(
                f"cannot store rows for {self.output}",
                found=error,
                where=self.path,
                fix="Free disk space, or delete this file to start over.",
            ) from error


Settings = Mapping[str, Any]


def write_json_lines(file: BinaryIO, rows: Iterable[Row], task: Task, settings: Settings) -> None:
    """Writes rows as JSON, one per line."""
    tables.write_json_lines(file, rows)


def write_csv(file: BinaryIO, rows: Iterable[Row], task: Task, settings: Settings) -> None:
    """Writes rows as CSV: `image`, `model`, `rejected` if `reject_below` is set, and the columns of the task.

    A classifier has `class_1`, `label_1`, `score_1` and so on up to `topk`.
    """
    rows = iter(rows)
    first = list(itertools.islice(rows, 1))
    columns = task.csv_columns(settings["topk"])
    marks = [REJECTED] if rejects(settings) else []
    if columns is None:
        columns = [name for row in first for name in row if name not in ("image", "model", *marks)]

    def cells_of(row: Row) -> list[Any]:
        marked = [str(row.get(mark, False)).lower() for mark in marks]
        own = {name: value for name, value in row.items() if name not in marks}
        return [row["image"], row["model"], *marked, *task.csv_cells(own)]

    cells = map(cells_of, itertools.chain(first, rows))
    tables.write_csv(file, itertools.chain([["image", "model", *marks, *columns]], cells))


def write_parquet(file: BinaryIO, rows: Iterable[Row], task: Task, settings: Settings) -> None:
    """Writes rows as Parquet. The `predictions` of a classifier are a list of structures."""
    if rejects(settings):
        rows = ({**row, REJECTED: row.get(REJECTED, False)} for row in rows)

    def schema_of(first: Sequence[dict[str, Any]]) -> Any:
        import pyarrow as pa

        known = parquet_schema(task, rejects(settings))
        if known is not None:
            return known
        return pa.Table.from_pylist(first).schema if first else pa.schema(_NAMES)

    tables.write_parquet(file, rows, schema_of, PARQUET_ROWS)


def write_coco(file: BinaryIO, rows: Iterable[Row], task: Task, settings: Settings) -> None:
    """Writes boxes as COCO results (https://cocodataset.org/#format-results), which are one JSON array.

    `image_id` is the number of the image's row and `category_id` the number of the class, both from 1. The numbers in
    your annotations may differ: match them by `file_name` and `category_name`.
    """
    results = (box for number, row in enumerate(rows, 1) for box in task.coco_results(row, number) or ())
    file.write(b"[")
    for place, box in enumerate(results):
        file.write(f"{',' if place else ''}\n{json.dumps(box, allow_nan=False)}".encode())
    file.write(b"\n]\n")


_NAMES = (("image", "string"), ("model", "string"))


REJECTED = "rejected"


def rejects(settings: Settings) -> bool:
    """Whether images can be rejected, so that tables have a column for it."""
    return settings.get("reject_below") is not None


def parquet_schema(task: Task, rejected: bool = False) -> Any:
    """Returns the pyarrow schema of a Parquet file; None if the task infers it from the rows.

    Args:
        task: The task.
        rejected: Add a column for rejected images.
    """
    import pyarrow as pa

    own = task.parquet_fields()
    return None if own is None else pa.schema([*_NAMES, *own, *([(REJECTED, pa.bool_())] if rejected else [])])


COCO = ".coco.json"
WRITERS: Mapping[str, Callable[[BinaryIO, Iterable[Row], Task, Settings], None]] = {
    COCO: write_coco,
    ".csv": write_csv,
    ".parquet": write_parquet,
}

"""The outputs for each image that was measured, in a file: JSON lines, CSV or Parquet."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from mnv2zoo.errors import MissingExtraError
from mnv2zoo.system.files import as_text, whole_file

ROWS = 1_000  # in memory at once, and in a row group of Parquet

Row = Mapping[str, Any]


def check(output: Path) -> None:
    """Makes sure that a file can be written, before anything is measured.

    Args:
        output: The file.

    Raises:
        MissingExtraError: If it is a Parquet file and pyarrow is not installed.
        OSError: If its folder does not exist, or it is a folder.
    """
    if output.suffix.lower() == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise MissingExtraError(
                "Parquet files need a further package",
                found=f"no {error.name}",
                fix='Install it: pip install "mnv2zoo[parquet]".',
            ) from error
    if output.is_dir():
        raise IsADirectoryError(f"{output} is a folder")
    if not output.resolve().parent.is_dir():
        raise FileNotFoundError(f"no such folder: {output.resolve().parent}")


def write(output: Path, rows: Iterable[Row], names: Mapping[str, list[str]]) -> None:
    """Writes rows, all or none of them.

    Args:
        output: The file: CSV if it ends in `.csv`, Parquet if in `.parquet`, or else JSON lines.
        rows: A row per image, with the same keys in each. Values are text, numbers, and lists of numbers.
        names: The names of a list's items, by its key. They are the columns of a CSV file, and metadata of the schema
            of a Parquet file.

    Raises:
        OSError: If the file cannot be written.
    """
    writer = {".csv": _csv, ".parquet": _parquet}.get(output.suffix.lower(), _json_lines)
    with whole_file(output) as file:
        writer(file, iter(rows), names)


def _json_lines(file: BinaryIO, rows: Iterator[Row], names: Mapping[str, list[str]]) -> None:
    for row in rows:
        file.write(f"{json.dumps(row, allow_nan=False)}\n".encode())


def _csv(file: BinaryIO, rows: Iterator[Row], names: Mapping[str, list[str]]) -> None:
    # Names of files may not be valid text; they are written as the bytes that they are.
    text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    for number, row in enumerate(rows):
        if number == 0:
            writer.writerow(itertools.chain.from_iterable(names.get(key, [key]) for key in row))
        writer.writerow(itertools.chain.from_iterable(v if isinstance(v, list) else [v] for v in row.values()))
    text.detach()


def _parquet(file: BinaryIO, rows: Iterator[Row], names: Mapping[str, list[str]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def part() -> list[Row]:
        return [{**row, "image": as_text(row["image"])} for row in itertools.islice(rows, ROWS)]

    first = part()
    floats = {key: pa.list_(pa.float32()) for key, value in first[0].items() if isinstance(value, list)}
    schema = pa.schema(
        [(field.name, floats.get(field.name, field.type)) for field in pa.Table.from_pylist(first).schema],
        {key: json.dumps(items) for key, items in names.items()},
    )
    with pq.ParquetWriter(file, schema) as writer:
        for own in itertools.chain([first], iter(part, [])):
            writer.write_table(pa.Table.from_pylist(own, schema))

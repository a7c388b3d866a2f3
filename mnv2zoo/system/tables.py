"""Writes rows as JSON lines, CSV or Parquet. `image` in a row is a file name."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from mnv2zoo.system.files import as_text

Row = Mapping[str, Any]


def write_json_lines(file: BinaryIO, rows: Iterable[Row]) -> None:
    """Writes rows as JSON lines.

    Args:
        file: The file, open for writing.
        rows: The rows.
    """
    for row in rows:
        file.write(f"{json.dumps(row, allow_nan=False)}\n".encode())


def write_csv(file: BinaryIO, rows: Iterable[Iterable[Any]]) -> None:
    """Writes rows of cells as CSV. File names that are not valid text are written as their original bytes.

    Args:
        file: The file, open for writing.
        rows: The rows, header first.
    """
    text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="", write_through=True)
    csv.writer(text, lineterminator="\n").writerows(rows)
    text.detach()


def write_parquet(
    file: BinaryIO, rows: Iterable[Row], schema_of: Callable[[Sequence[dict[str, Any]]], Any], count: int
) -> None:
    """Writes rows as Parquet. Bytes of file names that are not valid text are written as backslash escapes.

    Args:
        file: The file, open for writing.
        rows: The rows.
        schema_of: Returns pyarrow's schema, given the first rows.
        count: Rows per row group, which are in memory at once.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    def groups() -> Iterator[list[dict[str, Any]]]:
        rest = iter(rows)
        while group := list(itertools.islice(rest, count)):
            yield [{**row, "image": as_text(row["image"])} for row in group]

    following = groups()
    first = next(following, [])
    schema = schema_of(first)
    with pq.ParquetWriter(file, schema) as writer:
        for group in itertools.chain([first] if first else [], following):
            writer.write_table(pa.Table.from_pylist(group, schema))

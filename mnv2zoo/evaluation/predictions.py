"""Writes the outputs for each measured image to a JSON Lines, CSV or Parquet file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mnv2zoo.errors import MissingExtraError
from mnv2zoo.system import tables
from mnv2zoo.system.files import whole_file
from mnv2zoo.system.installation import install_command
from mnv2zoo.system.tables import Row

ROWS = 1_000  # rows in memory, and per Parquet row group


def check(output: Path) -> None:
    """Checks that a file can be written, before anything is measured.

    Args:
        output: The file.

    Raises:
        MissingExtraError: If it is a Parquet file and pyarrow is not installed.
        OSError: If the parent folder does not exist, or the path is a folder.
    """
    if output.suffix.lower() == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise MissingExtraError(
                "writing Parquet files requires pyarrow",
                found=f"no module {error.name}",
                fix=f"Run: {install_command('parquet')}",
            ) from error
    if output.is_dir():
        raise IsADirectoryError(f"{output} is a folder")
    if not output.resolve().parent.is_dir():
        raise FileNotFoundError(f"no such folder: {output.resolve().parent}")


def write(output: Path, rows: Iterable[Row], names: Mapping[str, list[str]]) -> None:
    """Writes the rows atomically.

    Args:
        output: The file: CSV if it ends in `.csv`, Parquet if it ends in `.parquet`, else JSON Lines.
        rows: One row per image, all with the same keys. Values are text, numbers and lists of numbers.
        names: The names of the items of each list, by key. They become columns of a CSV file, or schema metadata of a
            Parquet file.

    Raises:
        OSError: If the file cannot be written.
    """
    with whole_file(output) as file:
        match output.suffix.lower():
            case ".csv":
                tables.write_csv(file, _cells(rows, names))
            case ".parquet":
                tables.write_parquet(file, rows, partial(_schema, names=names), ROWS)
            case _:
                tables.write_json_lines(file, rows)


def _cells(rows: Iterable[Row], names: Mapping[str, list[str]]) -> Iterator[list[Any]]:
    """The header and the cells, with one column for each item of a list."""
    for number, row in enumerate(rows):
        if number == 0:
            yield [title for key in row for title in names.get(key, [key])]
        yield [cell for value in row.values() for cell in (value if isinstance(value, list) else [value])]


def _schema(first: Sequence[dict[str, Any]], names: Mapping[str, list[str]]) -> Any:
    """The schema of the rows, with lists of floats in single precision."""
    import pyarrow as pa

    floats = {key: pa.list_(pa.float32()) for key, value in first[0].items() if isinstance(value, list)}
    return pa.schema(
        [(field.name, floats.get(field.name, field.type)) for field in pa.Table.from_pylist(first).schema],
        {key: json.dumps(items) for key, items in names.items()},
    )

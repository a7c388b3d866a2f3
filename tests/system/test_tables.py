"""Rows in files: JSON lines, CSV and Parquet."""

import io
import json

import pytest

from mnv2zoo.system import tables

ROWS = [{"image": "a.png", "n": 1}, {"image": "b\udcff.png", "n": 2}, {"image": "c.png", "n": 3}]


def test_json_lines():
    file = io.BytesIO()
    tables.write_json_lines(file, ROWS)
    assert [json.loads(line) for line in file.getvalue().splitlines()] == ROWS


def test_csv_keeps_the_bytes_of_names():
    file = io.BytesIO()
    tables.write_csv(file, [["image", "n"], ["b\udcff.png", 'a "quote"']])
    assert file.getvalue() == b'image,n\nb\xff.png,"a ""quote"""\n'


@pytest.mark.parametrize("rows", [ROWS, []])
def test_parquet_has_groups_of_rows(rows):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file, seen = io.BytesIO(), []

    def schema_of(first):
        seen.extend(first)
        return pa.schema([("image", pa.string()), ("n", pa.int16())])

    tables.write_parquet(file, iter(rows), schema_of, 2)
    assert [row["image"] for row in seen] == ["a.png", "b\\xff.png"][: len(rows)]
    found = pq.ParquetFile(io.BytesIO(file.getvalue()))
    assert found.read().to_pylist() == [{**row, "image": row["image"].replace("\udcff", "\\xff")} for row in rows]
    assert found.num_row_groups == (2 if rows else 0)

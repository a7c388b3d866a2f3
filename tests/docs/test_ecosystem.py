"""The table of other libraries is that of the tests that `make ecosystem` runs."""

import ast
import json

from tests.conftest import ROOT


def marks():
    """The library of each test marked `ecosystem`, and what it shows."""
    for file in (ROOT / "tests/ecosystem").glob("test_*.py"):
        for test in ast.parse(file.read_text(encoding="utf-8")).body:
            for mark in test.decorator_list if isinstance(test, ast.FunctionDef) else ():
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.ecosystem":
                    yield tuple(ast.literal_eval(argument) for argument in mark.args)


def test_every_row_is_a_test_that_passed():
    rows = json.loads((ROOT / "docs/results/ecosystem.json").read_text(encoding="utf-8"))["rows"]
    assert {(row["library"], row["shows"]) for row in rows} == set(marks())
    assert [row["shows"] for row in rows if row["passed"] is not True] == []

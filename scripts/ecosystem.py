"""Runs the tests with other libraries, and writes the results to `docs/results/ecosystem.json`.

    python scripts/ecosystem.py        # everything; writes the file
    python scripts/ecosystem.py -k peft  # further arguments go to pytest; writes nothing

`make ecosystem` runs it in an environment that has the libraries.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs/results/ecosystem.json"


class Recorder:
    """Records the library, the claim and the result of each test marked `ecosystem`."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Any:
        report: pytest.TestReport = yield
        marker = item.get_closest_marker("ecosystem")
        if marker is not None:
            library, shows = marker.args
            row = self.rows.setdefault(
                (library, shows), {"library": library, "version": version(library), "shows": shows, "passed": True}
            )
            row["passed"] &= report.passed  # a skipped test proves nothing
        return report


def main() -> int:
    """Runs the tests, and writes the results if all of them ran."""
    recorder = Recorder()
    words = ["-m", "ecosystem", str(ROOT / "tests/ecosystem"), *sys.argv[1:]]
    status = pytest.main(words, plugins=[recorder])
    for row in recorder.rows.values():
        print(f"{'passed' if row['passed'] else 'FAILED'}: {row['library']} {row['version']}: {row['shows']}")
    if not sys.argv[1:]:
        about = {"python": platform.python_version(), "torch": version("torch")}
        document = about | {"rows": sorted(recorder.rows.values(), key=lambda row: row["library"])}
        RESULTS.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(status) or int(not all(row["passed"] for row in recorder.rows.values()))


if __name__ == "__main__":
    sys.exit(main())

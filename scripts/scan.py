"""Scans the bundled weights for harmful content with modelaudit, and proves that the scanner would find it.

Run it with the Python of an environment that contains `requirements/scan.txt`.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

BUNDLED = Path(__file__).resolve().parent.parent / "mnv2zoo/bundled"


class Harmful:
    def __reduce__(self):
        return os.system, ("true",)


def scan(path: Path) -> tuple[int, dict]:
    """Returns modelaudit's exit status and report for a file or folder."""
    env = os.environ | {"PROMPTFOO_DISABLE_TELEMETRY": "1"}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        options = ["--strict", "--no-cache", "--quiet", "--format", "json", "--output", report]
        done = subprocess.run([sys.executable, "-m", "modelaudit", "scan", *options, path], env=env, cwd=folder)
        return done.returncode, json.loads(report.read_text(encoding="utf-8"))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        harmful = Path(folder, "model.pkl")
        harmful.write_bytes(pickle.dumps(Harmful()))
        status, report = scan(harmful)
        severities = {issue["severity"] for issue in report["issues"]}
        assert status == 1, f"the scanner misses a pickle that runs code: exit status {status}"
        assert "critical" in severities, f"the scanner misses a pickle that runs code: {severities}"
    status, report = scan(BUNDLED)
    files = {Path(asset["path"]).name: asset["type"] for asset in report["assets"]}
    assert files == {file.name: "safetensors" for file in BUNDLED.iterdir()}, f"scanned: {files}"
    assert (status, report["issues"]) == (0, []), f"exit status {status}: {report['issues']}"
    print(f"{report['total_checks']} checks of {', '.join(files)}: nothing found; a pickle with code was found")


if __name__ == "__main__":
    main()

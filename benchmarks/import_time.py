"""Measures `import mnv2zoo` against `import timm` alone.

Each import has a Python process of its own; the two take turns, so that whatever else the machine does
meets both alike. The goal: at most 50 ms more.

    python benchmarks/import_time.py --rounds 7
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

import report

GOAL_MS = 50
MEASURE = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def seconds_to_import(package: str) -> float:
    command = [sys.executable, "-c", MEASURE.format(package)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="imports of each package (7 by default)")
    rounds = parser.parse_args().rounds

    packages = ("timm", "mnv2zoo")
    series: dict[str, list[float]] = {package: [] for package in packages}
    for package in packages:
        seconds_to_import(package)  # fills the disk's cache
    for _ in range(rounds):
        for package in packages:
            series[package].append(seconds_to_import(package))

    more = 1000 * (statistics.median(series["mnv2zoo"]) - statistics.median(series["timm"]))
    results = {package: report.summary(series[package]) for package in packages}
    path = report.write("import_time", {**results, "more_ms": round(more, 1), "goal_ms": GOAL_MS})
    for package in packages:
        print(f"import {package}: {statistics.median(series[package]) * 1000:.0f} ms (median of {rounds})")
    print(f"mnv2zoo takes {more:.1f} ms more; the goal is at most {GOAL_MS}. Written to {path}")


if __name__ == "__main__":
    main()

"""Measures the time that `import mnv2zoo` adds to `import timm`.

timm takes seconds to import, and the difference of two such times is mostly noise. Therefore each process imports timm
first and then measures `import mnv2zoo` alone. Goal: at most 50 ms.

    python benchmarks/import_time.py --rounds 9
"""

from __future__ import annotations

import statistics

import report

GOAL_MS = 50
MEASURE = """
import time
start = time.perf_counter()
import timm
between = time.perf_counter()
import mnv2zoo
print([between - start, time.perf_counter() - between])
"""


def seconds_to_import() -> tuple[float, float]:
    timm, more = report.in_process("-c", MEASURE)
    return timm, more


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="processes to measure in (9 by default)")
    rounds = parser.parse_args().rounds

    seconds_to_import()  # fills the disk's cache
    timm, more = (list(series) for series in zip(*(seconds_to_import() for _ in range(rounds)), strict=True))
    results = {"timm": report.summary(timm), "more": report.summary(more), "goal_ms": GOAL_MS}
    report.write("import_time", results)
    print(f"import timm: {statistics.median(timm) * 1000:.0f} ms (median of {rounds})")
    print(f"import mnv2zoo then takes {statistics.median(more) * 1000:.1f} ms; the goal is at most {GOAL_MS}.")


if __name__ == "__main__":
    main()

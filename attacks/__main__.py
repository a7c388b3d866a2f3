"""Runs the attacks, prints what came of them and writes it to `docs/results/attacks.json`.

python -m attacks                  # all, half an hour on two cores
python -m attacks tampering crowd  # some; the figures of the others stay
python -m attacks --quick          # a few tries of each; writes nothing
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from attacks.catalog import QUICK, timed
from attacks.machine import machine

COLUMNS = ("tries", "survived", "refused", "lost", "seconds")
RESULTS = Path(__file__).resolve().parent.parent / "docs/results/attacks.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=f"some of {', '.join(QUICK)}; all by default")
    parser.add_argument("--quick", action="store_true", help="a few tries of each")
    arguments = parser.parse_args()
    if unknown := sorted({*arguments.attacks} - QUICK.keys()):
        parser.error(f"no such attack: {', '.join(unknown)}")

    from rich.console import Console
    from rich.table import Table

    console = Console()
    start = time.monotonic()
    table = Table("attack", "tries", "survived", "refused rightly", "lost", "seconds")
    rows: dict[str, dict[str, Any]] = {}
    bounds: dict[str, dict[str, Any]] = {}
    names = arguments.attacks or list(QUICK)
    # Two at once, since the bad Hub mostly waits; each in a fresh process, whose memory is its own.
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        for name, (tally, seconds) in zip(names, pool.map(timed, names, [arguments.quick] * len(names)), strict=True):
            counts = (tally.tries, tally.survived, tally.refused, len(tally.losses), round(seconds))
            rows[name] = dict(zip(COLUMNS, counts, strict=True)) | {"skipped": tally.skipped}
            table.add_row(name, *map(str, counts))
            bounds |= tally.bounds
            for loss in tally.losses:
                console.print(f"{name} lost: {loss}", markup=False, style="red")
            for reason in tally.skipped:
                console.print(f"{name} skipped: {reason}", markup=False)
    totals = [sum(row[column] for row in rows.values()) for column in COLUMNS[:-1]]
    table.add_section()
    table.add_row("all", *map(str, totals), f"{time.monotonic() - start:.0f}")
    console.print(table)
    if not arguments.quick:
        recorded = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        before = recorded.get("attacks", {})
        document = {
            "machine": machine("huggingface-hub", "pillow", "safetensors", "timm", "torch"),
            "attacks": {name: row for name, row in (before | rows).items() if name in QUICK},
            "bounds": bounds or recorded.get("bounds", {}),
        }
        RESULTS.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        console.print(f"wrote {RESULTS}")
    return 1 if totals[3] else 0


if __name__ == "__main__":
    sys.exit(main())

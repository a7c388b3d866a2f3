"""Measures what a kept engine saves: `deploy.optimize` with an empty cache, and again with what it kept.

Each call is in a process of its own, as it is where the cache is of use, and its time counts from when the
network is there, so imports of the engine's runtime are part of it. Weights are Google's, and int8 is calibrated on
photos, where both lie beside the repository; random weights make too poor ranges for int8, which is left out then.

    python benchmarks/engine_cache.py --rounds 3
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import report
from report import GOOGLE, SAMPLES

from mnv2zoo.deploy.engines import ENGINES


def measure(engine: str, precision: str, cache: str) -> None:
    """Runs in the measured process; prints the seconds of one call."""
    import torch

    from mnv2zoo import deploy

    model, example = report.network(), torch.randn(1, 3, 224, 224)
    calibration = SAMPLES if precision == "int8" else None
    model(example)
    started = time.perf_counter()
    deploy.optimize(model, example, engine, precision, calibration, cache=cache)
    print(time.perf_counter() - started)


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="pairs of processes for each engine (3 by default)")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(*args.measure)
        return

    results: dict[str, object] = {}
    for engine, about in ENGINES.items():
        for precision in about.precisions if about.prepare else ():
            if precision == "int8" and not (GOOGLE.is_file() and SAMPLES.is_dir()):
                print(f"{engine} int8 is left out: it takes {GOOGLE} and {SAMPLES}")
                continue
            made, kept = [], []
            for _ in range(args.rounds):
                with tempfile.TemporaryDirectory() as cache:
                    for seconds in (made, kept):
                        seconds.append(report.in_process(__file__, "--measure", engine, precision, cache))
            ratio = statistics.median(made) / statistics.median(kept)
            name = f"{engine} {precision}"
            results[name] = {
                "made": report.summary(made),
                "kept": report.summary(kept),
                "times_faster": round(ratio, 1),
            }
            print(f"{name}: {statistics.median(made):.1f} s, kept {statistics.median(kept):.2f} s, {ratio:.0f} times")
    report.write("engine_cache", results)


if __name__ == "__main__":
    main()

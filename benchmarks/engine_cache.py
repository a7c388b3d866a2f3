"""Measures what the engine cache saves: `deploy.optimize` with an empty cache, and again with the cached engine.

Each call runs in its own process, as it does when the cache is useful. Its time starts when the model has been built,
so it includes the imports of the runtime. Google's weights and photos for int8 calibration are used if both are
available next to the repository. Otherwise weights are random and int8 is left out, because its ranges would be poor.

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

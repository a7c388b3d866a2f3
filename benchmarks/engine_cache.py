"""Measures what a kept engine saves: `deploy.optimize` with an empty cache, and again with what it kept.

Each call is in a process of its own, as it is where the cache is of use, and its time counts from when the
network is there, so imports of the engine's runtime are part of it. Weights are Google's, and int8 is calibrated on
photos, where both lie beside the repository; random weights make too poor ranges for int8, which is left out then.

    python benchmarks/engine_cache.py --rounds 3
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile

import report
from report import GOOGLE, SAMPLES

from mnv2zoo.deploy.engines import ENGINES

MEASURE = """
import sys
import time

import timm
import torch
from safetensors.torch import load_file

from mnv2zoo import deploy

engine, precision, weights, photos, cache = sys.argv[1:]
torch.manual_seed(0)
model = timm.create_model("mnv2zoo_100").eval()
if weights:
    model.load_state_dict(load_file(weights))
example = torch.randn(1, 3, 224, 224)
seen = photos if precision == "int8" else None
model(example)
started = time.perf_counter()
deploy.optimize(model, example, engine, precision, seen, cache=cache)
print(time.perf_counter() - started)
"""


def seconds(engine: str, precision: str, cache: str) -> float:
    weights = str(GOOGLE) if GOOGLE.is_file() else ""
    command = [sys.executable, "-c", MEASURE, engine, precision, weights, str(SAMPLES), cache]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="pairs of processes for each engine (3 by default)")
    rounds = parser.parse_args().rounds

    results: dict[str, object] = {}
    for engine, about in ENGINES.items():
        for precision in about.precisions if about.prepare else ():
            if precision == "int8" and not (GOOGLE.is_file() and SAMPLES.is_dir()):
                print(f"{engine} int8 is left out: it takes {GOOGLE} and {SAMPLES}")
                continue
            made, kept = [], []
            for _ in range(rounds):
                with tempfile.TemporaryDirectory() as cache:
                    made.append(seconds(engine, precision, cache))
                    kept.append(seconds(engine, precision, cache))
            ratio = statistics.median(made) / statistics.median(kept)
            name = f"{engine} {precision}"
            results[name] = {
                "made": report.summary(made),
                "kept": report.summary(kept),
                "times_faster": round(ratio, 1),
            }
            print(f"{name}: {statistics.median(made):.1f} s, kept {statistics.median(kept):.2f} s, {ratio:.0f} times")
    print(f"Written to {report.write('engine_cache', results)}")


if __name__ == "__main__":
    main()

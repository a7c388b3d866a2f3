"""Profiles OpenVINO for one image of 224 pixels, and compares it with bare matrix multiplications.

A 1x1 convolution is a matrix multiplication, and most of the model's computation. PyTorch multiplies matrices of the
same shapes, one multiplication per layer, in turns with whole calls. Being faster than that takes another model, not
another engine.

    python benchmarks/engine_profile.py --rounds 60
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable

import report
import torch
from deploy import SETTLE, photos
from torch import nn

from mnv2zoo import architecture
from mnv2zoo.deploy import calibration, fold
from mnv2zoo.deploy.engines import ENGINES, Source
from mnv2zoo.runtimes.cache import versions
from mnv2zoo.runtimes.runners import openvino_compiler

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}  # of the bare products
KINDS = {"1x1 convolutions": "_1x1_", "depthwise convolutions": "_dw_"}  # by the names of OpenVINO's kernels


def profile(
    model: nn.Module, precision: str, rounds: int, threads: int
) -> tuple[dict[str, float], Callable[[], object]]:
    """Milliseconds of an image by kind of kernel and of all kernels together, and a call that is not profiled."""
    image = photos(1)
    measured = calibration.prepare(photos(100), model, image) if precision == "int8" else None
    parts = ENGINES["openvino"].prepare(Source(fold(model), image, measured), precision)  # type: ignore[misc]
    compiled = openvino_compiler(parts, image.shape[1:], precision, threads)
    array = image.numpy()
    unprofiled = compiled(PERFORMANCE_HINT="LATENCY")
    request = compiled(PERFORMANCE_HINT="LATENCY", PERF_COUNT=True).create_infer_request()
    kernels: Counter[str] = Counter()
    for _ in range(rounds):
        request.infer(array)
        for node in request.profiling_info:
            kind = next((kind for kind, part in KINDS.items() if part in node.exec_type), "all else")
            kernels[kind] += node.real_time.total_seconds() * 1000 / rounds
    row = {kind: round(kernels[kind], 2) for kind in (*KINDS, "all else")}
    return row | {"kernels": round(kernels.total(), 2)}, lambda: unprofiled(array)


def products(dtype: torch.dtype) -> Callable[[], object]:
    """Bare matrix products of the sizes that the network's 1x1 convolutions have."""
    config = architecture.get("mnv2zoo_100")
    sizes = [(7 * 7, config.head_channels, architecture.bottlenecks(config)[-1].out_channels)]
    for block in architecture.bottlenecks(config):
        after = (224 // block.reduction) ** 2
        if block.expand:
            sizes.append((after * block.stride**2, block.hidden, block.in_channels))
        sizes.append((after, block.out_channels, block.hidden))
    layers = [(torch.randn(rows, ins).to(dtype), torch.randn(outs, ins).to(dtype)) for rows, outs, ins in sizes]
    return lambda: [nn.functional.linear(x, weight) for x, weight in layers]


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=60, help="images of each (60 by default)")
    args = parser.parse_args()
    threads = torch.get_num_threads()
    model = report.network()
    rows, bare = {}, {}
    for precision in ("fp32", "bf16", "int8"):
        row, call = profile(model, precision, args.rounds, threads)
        turns = {"call": call} | ({"products": products(DTYPES[precision])} if precision in DTYPES else {})
        with torch.inference_mode():
            series = report.take_turns(turns, args.rounds, warm_up=5, settle=SETTLE)
        times = {name: round(1000 * statistics.median(seconds), 2) for name, seconds in series.items()}
        rows[precision] = row | {"call": times["call"]}
        if "products" in times:
            bare[precision] = times["products"]
        print(precision, rows[precision], "bare products:", bare.get(precision, "not measured"))
    results = {"threads": threads, "versions": versions(["openvino"]), "profile": rows, "products": bare}
    report.write("engine_profile", results)


if __name__ == "__main__":
    main()

"""Measures taps against timm's pruned `forward_intermediates` and torchvision's `create_feature_extractor`.

All use the same model, or timm's with the same weights, and their maps are compared first. Time: they take turns in one
process with one thread. Memory: the growth of a process's peak memory in a forward pass of 64 images.

    python benchmarks/taps.py --rounds 100
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from typing import Any

import report

RIVALS = {
    "Bottleneck_7": ("timm pruned", "torchvision"),
    "Bottleneck_3, Bottleneck_6, Bottleneck_13, Bottleneck_17": ("timm pruned", "torchvision"),
}


def build(kind: str, names: list[str]) -> Any:
    """From images to a list of maps, on random weights that are the same for all kinds."""
    import timm
    import torch
    from torchvision.models.feature_extraction import create_feature_extractor

    from mnv2zoo import features

    torch.manual_seed(0)
    model = timm.create_model("mnv2zoo_100").eval()
    if kind == "mnv2zoo":
        taps = features.BottleneckTaps(model, names)
        return lambda x: list(taps(x).values())
    if kind == "torchvision":
        nodes = {f"blocks.{b.stage}.{b.index}": b.name for b in features.bottlenecks(model) if b.name in names}
        extractor = create_feature_extractor(model, nodes)
        return lambda x: list(extractor(x).values())
    theirs = timm.create_model("mobilenetv2_100").eval()
    theirs.load_state_dict(model.state_dict())
    # timm only returns the last map at each resolution, so move this block to the end of the stage before it.
    if names == ["Bottleneck_7"]:
        theirs.blocks[2].append(theirs.blocks[3][0])
        names = ["Bottleneck_6"]
    ends = [info["module"] for info in theirs.feature_info]
    indices = [ends.index(f"blocks.{block.stage}") for block in features.bottlenecks(model) if block.name in names]
    theirs.prune_intermediate_layers(indices)
    return lambda x: theirs.forward_intermediates(x, indices=indices, stop_early=True, intermediates_only=True)


def peak(kind: str, names: list[str]) -> None:
    """Prints the MB by which the peak of this process grows in a forward pass."""
    import torch

    network, images = build(kind, names), torch.randn(64, 3, 224, 224)
    with torch.inference_mode():
        print(report.peak_growth(partial(network, images)))


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="passes of each kind (100 by default)")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        peak(args.measure[0], args.measure[1].split(", "))
        return

    import torch

    torch.set_num_threads(1)
    results: dict[str, object] = {}
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    for case, rivals in RIVALS.items():
        networks = {kind: build(kind, case.split(", ")) for kind in ("mnv2zoo", *rivals)}
        with torch.inference_mode():
            expected = networks["mnv2zoo"](x)
            for kind, network in networks.items():
                for ours, theirs in zip(expected, network(x), strict=True):
                    torch.testing.assert_close(theirs, ours, msg=kind)
            series = report.take_turns(
                {kind: partial(network, x) for kind, network in networks.items()}, args.rounds, 10
            )
        memory = {kind: round(report.in_process(__file__, "--measure", kind, case)) for kind in networks}
        ratios = {kind: round(report.ratio(series["mnv2zoo"], series[kind]), 3) for kind in rivals}
        times = {kind: report.summary(values) for kind, values in series.items()}
        results[case] = {"time": times, "ratio_to": ratios, "peak_mb_of_64_images": memory}
        print(f"{case}: {json.dumps(results[case])}")
    report.write("taps", {"threads": 1, **results})


if __name__ == "__main__":
    main()

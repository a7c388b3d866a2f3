"""OpenMMLab's layout: the `MobileNetV2` of mmpretrain, which mmclassification had before.

Each convolution is a `ConvModule`, with its batch norm beside it. A classifier keeps the network in `backbone` and the
linear layer in `head.fc`. `widen_factor` is the zoo's width. The padding and the epsilon are PyTorch's own.

Source: https://github.com/open-mmlab/mmpretrain/blob/main/mmpretrain/models/backbones/mobilenet_v2.py
"""

from __future__ import annotations

from collections.abc import Iterator

from mnv2zoo.architecture import Config, bottlenecks
from mnv2zoo.convert.layouts.base import Layout, beyond_a_width, by_module

BACKBONE = "backbone."


def modules(config: Config) -> Iterator[str]:
    """Names OpenMMLab's modules in the order they run.

    Args:
        config: The network.

    Yields:
        A module's name.
    """
    layers = ["conv1"]
    for b in bottlenecks(config):
        layers += (f"layer{b.stage + 1}.{b.index}.conv.{step}" for step in range(3 if b.expand else 2))
    layers.append("conv2")
    for layer in layers:
        yield from (f"{BACKBONE}{layer}.conv", f"{BACKBONE}{layer}.bn")
    yield "head.fc"


LAYOUT = Layout(
    name="openmmlab",
    names=by_module(modules),
    lacks=beyond_a_width,
    prefix=BACKBONE,
    preprocessing={"interpolation": "bilinear"},
)

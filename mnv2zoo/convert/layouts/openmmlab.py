"""The layout of OpenMMLab: `MobileNetV2` in mmpretrain, formerly mmclassification.

Each convolution is a `ConvModule` together with its batch norm. A classifier has the model in `backbone` and the linear
layer in `head.fc`. `widen_factor` is the width here. Padding and epsilon are PyTorch's defaults.

Source: https://github.com/open-mmlab/mmpretrain/blob/main/mmpretrain/models/backbones/mobilenet_v2.py
"""

from __future__ import annotations

from collections.abc import Iterator

from mnv2zoo.architecture import Config, bottlenecks
from mnv2zoo.convert.layouts.base import Layout, beyond_a_width, by_module

BACKBONE = "backbone."


def modules(config: Config) -> Iterator[str]:
    """Yields OpenMMLab's module names in execution order.

    Args:
        config: The architecture.

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

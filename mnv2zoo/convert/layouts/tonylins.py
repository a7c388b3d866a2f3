"""The layout of `tonylins/pytorch-mobilenet-v2`, a widely copied single-file implementation.

All layers of a bottleneck are in one `nn.Sequential`, including activations, so numbers are skipped. Padding and
epsilon are PyTorch's defaults, as in torchvision. Only width 1.0 matches this package: at other widths, that repository
scales neither the stem nor the first bottleneck.

Source: https://github.com/tonylins/pytorch-mobilenet-v2/blob/master/MobileNetV2.py
"""

from __future__ import annotations

from collections.abc import Iterator

from mnv2zoo.architecture import Config, bottlenecks
from mnv2zoo.convert.layouts.base import Layout, beyond_the_paper, by_module

EXPANDED, UNEXPANDED = ("0", "1", "3", "4", "6", "7"), ("0", "1", "3", "4")


def body(config: Config) -> Iterator[str]:
    """Yields the module names of the stem and bottlenecks in execution order.

    Args:
        config: The architecture.

    Yields:
        A module's name.
    """
    yield from ("features.0.0", "features.0.1")
    for b in bottlenecks(config):
        yield from (f"features.{b.number}.conv.{index}" for index in (EXPANDED if b.expand else UNEXPANDED))


def modules(config: Config) -> Iterator[str]:
    """Yields all module names in execution order.

    Args:
        config: The architecture.

    Yields:
        A module's name.
    """
    yield from body(config)
    head = f"features.{len(bottlenecks(config)) + 1}"
    yield from (f"{head}.0", f"{head}.1", "classifier")


def lacks(config: Config) -> list[str]:
    """Lists the properties of an architecture that this repository cannot express.

    Args:
        config: The architecture.

    Returns:
        One phrase per property.
    """
    return beyond_the_paper(config) + [f"width {config.width:g}"] * (config.width != 1)


LAYOUT = Layout(name="tonylins", names=by_module(modules), lacks=lacks, preprocessing={"interpolation": "bilinear"})

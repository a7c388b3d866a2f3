"""The layout of `tonylins/pytorch-mobilenet-v2`, a widely copied implementation in one file.

All layers of a bottleneck are in one `nn.Sequential`, activations included, hence the gaps in the numbers. The padding
and the epsilon are PyTorch's own, as in torchvision. Only width 1.0 is the zoo's network: at other widths, that
repository scales neither the stem nor the first bottleneck.

Source: https://github.com/tonylins/pytorch-mobilenet-v2/blob/master/MobileNetV2.py
"""

from __future__ import annotations

from collections.abc import Iterator

from mnv2zoo.architecture import Config, bottlenecks
from mnv2zoo.convert.layouts.base import Layout, beyond_the_paper, by_module

EXPANDED, UNEXPANDED = ("0", "1", "3", "4", "6", "7"), ("0", "1", "3", "4")


def body(config: Config) -> Iterator[str]:
    """Names the modules of stem and bottlenecks in the order they run.

    Args:
        config: The network.

    Yields:
        A module's name.
    """
    yield from ("features.0.0", "features.0.1")
    for b in bottlenecks(config):
        yield from (f"features.{b.number}.conv.{index}" for index in (EXPANDED if b.expand else UNEXPANDED))


def modules(config: Config) -> Iterator[str]:
    """Names all modules in the order they run.

    Args:
        config: The network.

    Yields:
        A module's name.
    """
    yield from body(config)
    head = f"features.{len(bottlenecks(config)) + 1}"
    yield from (f"{head}.0", f"{head}.1", "classifier")


def lacks(config: Config) -> list[str]:
    """Lists what a network has that this repository cannot express.

    Args:
        config: The network.

    Returns:
        A phrase for each.
    """
    return beyond_the_paper(config) + [f"width {config.width:g}"] * (config.width != 1)


LAYOUT = Layout(name="tonylins", names=by_module(modules), lacks=lacks, preprocessing={"interpolation": "bilinear"})

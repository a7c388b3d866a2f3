"""The tutorial's layout, which the 20-class networks were first saved in.

Its network is built of `nn.Sequential`s, with an activation between a batch norm and the next
convolution, hence the gaps in the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

from mnv2zoo.architecture import Config, bottlenecks
from mnv2zoo.convert.layouts.base import Layout, by_module


def modules(config: Config) -> Iterator[str]:
    """Names the tutorial's modules in the order they run.

    Args:
        config: The network.

    Yields:
        A module's name.
    """
    yield from ("features.C1.0", "features.C1.1")
    for b in bottlenecks(config):
        yield from (f"features.{b.name}.baseNet.{index}" for index in (0, 1, 3, 4, 6, 7))
    yield from ("features.C2.0", "features.C2.1", "features.C3.0", "features.C3.1")


def lacks(config: Config) -> list[str]:
    """Lists in what a network differs from the tutorial's form.

    Args:
        config: The network.

    Returns:
        A phrase for each.
    """
    phrases = {
        "no expansion in its first bottleneck": not config.expand_first,
        "no biases in stem and head": not config.conv_bias,
        f"{config.activation} as activation": config.activation != "relu",
        f"a classifier of form {config.classifier}": config.classifier != "conv_bn_act",
    }
    return [phrase for phrase, present in phrases.items() if present]


LAYOUT = Layout(name="seed", names=by_module(modules), lacks=lacks)

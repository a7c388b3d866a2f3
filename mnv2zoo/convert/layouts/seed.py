"""The layout of the tutorial in which the 20-class models were first saved.

The tutorial's model is built from `nn.Sequential`s that include activations, so numbers are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator

from mnv2zoo.architecture import Config, bottlenecks
from mnv2zoo.convert.layouts.base import Layout, by_module


def modules(config: Config) -> Iterator[str]:
    """Yields the tutorial's module names in execution order.

    Args:
        config: The architecture.

    Yields:
        A module's name.
    """
    yield from ("features.C1.0", "features.C1.1")
    for b in bottlenecks(config):
        yield from (f"features.{b.name}.baseNet.{index}" for index in (0, 1, 3, 4, 6, 7))
    yield from ("features.C2.0", "features.C2.1", "features.C3.0", "features.C3.1")


def lacks(config: Config) -> list[str]:
    """Lists the properties of an architecture that differ from the tutorial's.

    Args:
        config: The architecture.

    Returns:
        One phrase per property.
    """
    phrases = {
        "no expansion in the first bottleneck": not config.expand_first,
        "no biases in the stem and head": not config.conv_bias,
        f"{config.activation} activations": config.activation != "relu",
        f"a classifier of the form {config.classifier}": config.classifier != "conv_bn_act",
    }
    return [phrase for phrase, present in phrases.items() if present]


LAYOUT = Layout(name="seed", names=by_module(modules), lacks=lacks)

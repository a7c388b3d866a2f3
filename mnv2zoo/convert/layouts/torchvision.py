"""The layout of torchvision: `torchvision.models.mobilenet_v2`.

torchvision builds architectures with a fixed stem and head from `inverted_residual_setting` with rounded channels at
`width_mult=1.0`, and the others from `width_mult`.
"""

from __future__ import annotations

from collections.abc import Iterator

from mnv2zoo.architecture import Config, bottlenecks
from mnv2zoo.convert.layouts.base import Layout, beyond_the_paper, by_module


def modules(config: Config) -> Iterator[str]:
    """Yields torchvision's module names in execution order.

    Args:
        config: The architecture.

    Yields:
        A module's name.
    """
    blocks = bottlenecks(config)
    yield from ("features.0.0", "features.0.1")
    for b in blocks:
        names = ("0.0", "0.1", "1.0", "1.1", "2", "3") if b.expand else ("0.0", "0.1", "1", "2")
        yield from (f"features.{b.number}.conv.{name}" for name in names)
    head = f"features.{len(blocks) + 1}"
    yield from (f"{head}.0", f"{head}.1", "classifier.1")


LAYOUT = Layout(
    name="torchvision",
    names=by_module(modules),
    lacks=beyond_the_paper,
    preprocessing={"interpolation": "bilinear"},
)

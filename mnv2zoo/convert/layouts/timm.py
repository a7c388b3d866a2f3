"""The layout of timm, which is the native one: any `mobilenetv2_*` checkpoint, and all of this package's."""

from mnv2zoo.convert.layouts import native
from mnv2zoo.convert.layouts.base import Layout

LAYOUT = Layout(
    name="timm",
    names=lambda config: {key: key for key in native.shapes(config)},
    lacks=lambda config: [],
)

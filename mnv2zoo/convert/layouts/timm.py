"""timm's layout, which is the native one: any `mobilenetv2_*` checkpoint, and any of the zoo's."""

from mnv2zoo.convert.layouts import native
from mnv2zoo.convert.layouts.base import Layout

LAYOUT = Layout(
    name="timm",
    names=lambda config: {key: key for key in native.shapes(config)},
    lacks=lambda config: [],
)

"""Layouts: the tensor names of other libraries, one module per layout."""

from mnv2zoo.convert.layouts import d_li14, keras, openmmlab, seed, timm, tonylins, torchvision, transformers
from mnv2zoo.convert.layouts.base import Layout

LAYOUTS: dict[str, Layout] = {
    module.LAYOUT.name: module.LAYOUT
    for module in (timm, torchvision, transformers, keras, seed, d_li14, tonylins, openmmlab)
}

"""Converts state dicts between this package's native layout and those of other libraries.

| layout | library or repository |
| --- | --- |
| `timm` | timm's `mobilenetv2_*`, and this package: the native layout |
| `torchvision` | `torchvision.models.mobilenet_v2` |
| `transformers` | `MobileNetV2ForImageClassification`; see `convert/layouts/transformers.py` on padding and classes |
| `keras` | `keras.applications.MobileNetV2`; see `convert/layouts/keras.py` on names and heads |
| `seed` | the tutorial that the 20-class architectures come from |
| `d-li14` | `d-li14/mobilenetv2.pytorch` |
| `tonylins` | `tonylins/pytorch-mobilenet-v2` |
| `openmmlab` | the `MobileNetV2` of mmpretrain and mmclassification |

The checkpoint determines the number of classes, the form of the classifier and the input channels. A backbone without
a classifier also converts. `read` loads the tensors from a file, including Keras files, and `identify` detects their
architecture and layout. Tensors are found in any container and under any prefix, such as `module.`. To add a layout,
write a module with a `LAYOUT` and add it to `layouts.LAYOUTS`.
"""

from mnv2zoo.convert.conversion import from_native, to_native
from mnv2zoo.convert.files import Checkpoint, in_folder, read
from mnv2zoo.convert.layouts import LAYOUTS
from mnv2zoo.convert.recognize import identify, without_head
from mnv2zoo.errors import ConversionError

__all__ = [
    "LAYOUTS",
    "Checkpoint",
    "ConversionError",
    "from_native",
    "identify",
    "in_folder",
    "read",
    "to_native",
    "without_head",
]

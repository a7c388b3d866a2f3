"""Conversion between the zoo's native layout of a network's tensors and other libraries'.

| layout | whose |
| --- | --- |
| `timm` | timm's `mobilenetv2_*`, and the zoo's own: the native layout |
| `torchvision` | `torchvision.models.mobilenet_v2` |
| `transformers` | `MobileNetV2ForImageClassification`; read `convert/layouts/transformers.py` on padding and classes |
| `keras` | `keras.applications.MobileNetV2`; read `convert/layouts/keras.py` on names and heads |
| `seed` | the tutorial network that the 20-class architectures come from |
| `d-li14` | `d-li14/mobilenetv2.pytorch` |
| `tonylins` | `tonylins/pytorch-mobilenet-v2` |
| `openmmlab` | the `MobileNetV2` of mmpretrain and mmclassification |

The checkpoint decides on the number of classes, the form of the classifier and the input channels, and
a backbone without classifier converts too. `read` gives the tensors of a file, of Keras' files too,
and `identify` finds whose they are. Tensors are found in any container and under any prefix, such as
`module.`. A further layout is one more module with a `LAYOUT`, and its place in `layouts.LAYOUTS`.
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

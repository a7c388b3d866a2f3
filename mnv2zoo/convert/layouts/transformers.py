"""The layout of transformers: `MobileNetV2ForImageClassification` and the bare `MobileNetV2Model`.

See `convert/layouts/tensorflow.py` for padding, epsilon and normalization. In the other direction, set
`tf_padding=False` in `MobileNetV2Config` for weights trained with this package's default, symmetric padding.

Models trained on ImageNet have 1001 classes in transformers. Class 0, the background, is dropped when converting to
the native layout and not added when converting back: set `num_labels` in `MobileNetV2Config` to the number of
rows of the classifier.
`MobileNetV2Config(depth_multiplier=...)` is the width here.
"""

from __future__ import annotations

from collections.abc import Iterator

from mnv2zoo.architecture import Config, bottlenecks
from mnv2zoo.convert.layouts import tensorflow
from mnv2zoo.convert.layouts.base import Layout, beyond_a_width, by_module
from mnv2zoo.convert.layouts.native import Tensors

BACKBONE = "mobilenet_v2."
IMAGENET_CLASSES = 1000


def modules(config: Config) -> Iterator[str]:
    """Yields transformers' module names in execution order.

    Args:
        config: The architecture.

    Yields:
        A module's name.
    """
    layers = ["conv_stem.first_conv"]
    for b in bottlenecks(config):
        # In transformers the first bottleneck belongs to the stem, and `layer` starts after it.
        block = "conv_stem" if b.number == 1 else f"layer.{b.number - 2}"
        names = ("expand_1x1", "conv_3x3", "reduce_1x1") if b.expand else ("conv_3x3", "reduce_1x1")
        layers += (f"{block}.{name}" for name in names)
    layers.append("conv_1x1")
    for layer in layers:
        yield from (f"{BACKBONE}{layer}.convolution", f"{BACKBONE}{layer}.normalization")
    yield "classifier"


def to_native(tensors: Tensors, config: Config) -> Tensors:
    """Folds the epsilon difference into the running variances and drops ImageNet's background class.

    The background class is present if the classifier has 1001 rows and the architecture was published with 1000
    classes.

    Args:
        tensors: State dict with native names and transformers' values.
        config: The architecture.

    Returns:
        The state dict with native values.
    """
    changed = tensorflow.carry_epsilon(tensors)
    for key, value in tensors.items():
        background = value.shape[:1] == (IMAGENET_CLASSES + 1,) and config.num_classes == IMAGENET_CLASSES
        if key.startswith("classifier.") and background:
            changed[key] = value[1:].clone()
    return changed


def from_native(tensors: Tensors, config: Config) -> Tensors:
    """Removes the epsilon difference from the running variances.

    Args:
        tensors: State dict with native names and values.
        config: The architecture.

    Returns:
        The state dict with native names and transformers' values.

    Raises:
        ConversionError: If a running variance would become negative.
    """
    return tensorflow.take_epsilon_out(tensors, "transformers")


LAYOUT = Layout(
    name="transformers",
    names=by_module(modules),
    lacks=beyond_a_width,
    to_native=to_native,
    from_native=from_native,
    prefix=BACKBONE,
    notes="transformers models use TensorFlow's padding. Create the model with pad_type='same' for these weights, or "
    "the transformers model with tf_padding=False for weights trained without it.",
    pad_type=tensorflow.PAD_TYPE,
    preprocessing=tensorflow.PREPROCESSING,
)

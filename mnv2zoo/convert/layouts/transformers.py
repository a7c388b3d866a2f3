"""transformers' layout: `MobileNetV2ForImageClassification`, and the bare `MobileNetV2Model`.

Read `convert/tf.py` on padding, epsilon and normalisation. The other way, `MobileNetV2Config` needs
`tf_padding=False` for a network that was trained with the zoo's default, symmetric padding.

Networks trained on ImageNet have 1001 classes there, and class 0, the background, means none of the
others. It is dropped on the way in and not invented on the way out: `MobileNetV2Config` needs
`num_labels` equal to the rows of the classifier.

`MobileNetV2Config(depth_multiplier=...)` takes the zoo's width.
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
    """Names transformers' modules in the order they run.

    Args:
        config: The network.

    Yields:
        A module's name.
    """
    layers = ["conv_stem.first_conv"]
    for b in bottlenecks(config):
        # The first bottleneck is part of their stem, and `layer` starts after it.
        block = "conv_stem" if b.number == 1 else f"layer.{b.number - 2}"
        names = ("expand_1x1", "conv_3x3", "reduce_1x1") if b.expand else ("conv_3x3", "reduce_1x1")
        layers += (f"{block}.{name}" for name in names)
    layers.append("conv_1x1")
    for layer in layers:
        yield from (f"{BACKBONE}{layer}.convolution", f"{BACKBONE}{layer}.normalization")
    yield "classifier"


def to_native(tensors: Tensors, config: Config) -> Tensors:
    """Carries epsilon into the running variances and drops ImageNet's background class.

    The background class is there when the classifier has 1001 rows and the network was published
    with 1000 classes.

    Args:
        tensors: State dict with native names and transformers' values.
        config: The network.

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
    """Takes the difference of the epsilons out of the running variances.

    Args:
        tensors: State dict with native names and values.
        config: The network.

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
    notes="transformers' networks pad as TensorFlow does: create the zoo's with pad_type='same' for these weights, "
    "or theirs with tf_padding=False for weights trained without it.",
    pad_type=tensorflow.PAD_TYPE,
    preprocessing=tensorflow.PREPROCESSING,
)

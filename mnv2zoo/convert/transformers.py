"""transformers' layout: `MobileNetV2ForImageClassification`, and the bare `MobileNetV2Model`.

Three things of these networks are not in their state dicts:

- Padding. They pad as TensorFlow does, so a network that takes their weights has to be created with
  `pad_type="same"`. The other way, `MobileNetV2Config` needs `tf_padding=False` for a network that
  was trained with the zoo's default, symmetric padding.
- Epsilon. Their batch norms add 1e-3 to the variance, ours 1e-5. The running variances carry the
  difference, so that the outputs are the same in eval mode.
- The background class. Those trained on ImageNet have 1001 classes, and class 0 means none of the
  others. It is dropped on the way in and not invented on the way out: `MobileNetV2Config` needs
  `num_labels` equal to the rows of the classifier.

`MobileNetV2Config(depth_multiplier=...)` takes the zoo's width.
"""

from __future__ import annotations

from collections.abc import Iterator

from mnv2zoo.architecture import PAPER_STAGES, Config, bottlenecks
from mnv2zoo.convert.layout import Layout, beyond_the_paper, by_module
from mnv2zoo.convert.native import Tensors
from mnv2zoo.errors import ConversionError

BACKBONE = "mobilenet_v2."
EPSILON = 1e-3
NATIVE_EPSILON = 1e-5
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


def lacks(config: Config) -> list[str]:
    """Lists what a network has that `MobileNetV2Config` cannot express.

    Args:
        config: The network.

    Returns:
        A phrase for each.
    """
    other = ["stages that are not the paper's"] * (config.stages != PAPER_STAGES)
    fixed = ["a stem and head that keep their width"] * config.fix_stem_head
    return other + fixed + beyond_the_paper(config)


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
    changed = dict(tensors)
    for key, value in tensors.items():
        if key.endswith("running_var"):
            # The same rounding both ways in any dtype: a variance of zero comes back as zero.
            changed[key] = value + value.new_tensor(EPSILON - NATIVE_EPSILON)
        elif key.startswith("classifier.") and config.num_classes == IMAGENET_CLASSES:
            background = value.shape[:1] == (IMAGENET_CLASSES + 1,)
            changed[key] = value[1:].clone() if background else value
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
    changed = dict(tensors)
    variances = [key for key in tensors if key.endswith("running_var")]
    for key in variances:
        value = tensors[key]
        changed[key] = value - value.new_tensor(EPSILON - NATIVE_EPSILON)
    worst = min(variances, key=lambda key: float(changed[key].min()))
    if changed[worst].min() < 0:
        raise ConversionError(
            "a running variance is too small for the epsilon of transformers' batch norms",
            expected=f"at least {EPSILON - NATIVE_EPSILON:.3g}",
            found=f"{float(tensors[worst].min()):.3g}",
            where=worst,
            fix="Keep this network in a layout with the same epsilon, timm or torchvision.",
        )
    return changed


LAYOUT = Layout(
    name="transformers",
    names=by_module(modules),
    lacks=lacks,
    to_native=to_native,
    from_native=from_native,
    prefix=BACKBONE,
    notes="transformers' networks pad as TensorFlow does: create the zoo's with pad_type='same' for these weights, "
    "or theirs with tf_padding=False for weights trained without it.",
)

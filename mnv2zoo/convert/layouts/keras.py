"""The layout of Keras: `keras.applications.MobileNetV2`, alone or within another model.

A key is the name of the layer and of the variable, such as `Conv1/kernel`, `block_1_expand_BN/moving_variance` and
`predictions/bias`. Keys as Keras writes them are converted to that form: those of nested models
(`mobilenetv2_1.00_224/Conv1/kernel`, and `variable.path`) and those of Keras 2
(`Conv1/Conv1/kernel:0`, `depthwise_kernel`). `convert.read` returns them for all Keras files.

See `convert/layouts/tensorflow.py` for padding, epsilon and normalization. `alpha` is the width here, and also widens
the head if it is above 1. The output is the logits, whatever the last activation in Keras is.

A custom dense layer after global average pooling becomes the classifier. Any other custom layer with weights raises an
error, because the model has no place for it. `without_head` leaves such layers out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NoReturn

from mnv2zoo.architecture import PAPER_STAGES, Config, bottlenecks
from mnv2zoo.convert.layouts import native, tensorflow
from mnv2zoo.convert.layouts.base import Layout, beyond_a_width
from mnv2zoo.convert.layouts.native import Tensors
from mnv2zoo.errors import ConversionError

if TYPE_CHECKING:
    from torch import Tensor

CLASSIFIER, HEAD = "predictions", "Conv_1/kernel"
NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
OTHER = {"weight": "kernel", "bias": "bias"}
KERAS_2 = {"depthwise_kernel": "kernel"}
RANDOM_STATE = "seed_generator_state"  # of dropout and augmentation, which only affect training


def modules(config: Config) -> Iterator[str]:
    """Yields the Keras layer names of layers with weights in execution order.

    Args:
        config: The architecture.

    Yields:
        A layer's name.
    """
    yield from ("Conv1", "bn_Conv1")
    for b in bottlenecks(config):
        block = f"block_{b.number - 1}" if b.expand else "expanded_conv"
        for step in ("expand", "depthwise", "project")[not b.expand :]:
            yield from (f"{block}_{step}", f"{block}_{step}_BN")
    yield from ("Conv_1", "Conv_1_bn", CLASSIFIER)


def names(config: Config) -> dict[str, str]:
    """Returns Keras' key for every native key, except batch counters, which Keras does not have.

    Args:
        config: The architecture.

    Returns:
        Keras' keys by native key, in execution order.
    """
    renamed = dict(zip(native.modules(config), modules(config), strict=True))
    keys: dict[str, str] = {}
    for key in native.shapes(config):
        module, _, leaf = key.rpartition(".")
        if leaf != native.COUNTER:
            variables = NORM if "bn" in module.rpartition(".")[2] else OTHER
            keys[key] = f"{renamed[module]}/{variables[leaf]}"
    return keys


# The same for every width.
LAYERS = tuple(modules(Config("any width", PAPER_STAGES)))


def recognizes(keys: Iterable[str]) -> bool:
    """Checks whether keys are Keras' keys, which contain slashes where others have dots."""
    return any("/" in key for key in keys)


def flat(tensors: Mapping[str, Tensor]) -> Tensors:
    """Converts keys to the form `layer/variable`, and drops random states.

    Args:
        tensors: Weights by Keras' keys.

    Returns:
        The weights by converted keys, including layers outside the model.

    Raises:
        ConversionError: If two tensors get the same key.
    """
    flat: Tensors = {}
    for key, value in tensors.items():
        *groups, variable = key.removesuffix(":0").split("/")
        if variable == RANDOM_STATE:
            continue
        # Groups may be models, layers or scopes. Only the layer names within the model are known.
        layer = next((group for group in groups if group in LAYERS), groups[-1] if groups else variable)
        name = f"{layer}/{KERAS_2.get(variable, variable)}"
        if name in flat:
            raise ConversionError(
                f"two tensors have the same name {key!r}",
                expected="the weights of one model",
                found="two layers with the same name",
                where=key,
                fix="Pass the weights of one model only. In Keras: `model.get_layer(name).save_weights(...)`.",
            )
        flat[name] = value
    return flat


def tidy(tensors: Mapping[str, Tensor]) -> Tensors:
    """Converts keys to the layout's form, and renames a custom dense layer to the classifier.

    Args:
        tensors: Weights by Keras' keys.

    Returns:
        The weights by the layout's keys.

    Raises:
        ConversionError: If two tensors get the same key, or the model has no place for a layer.
    """
    tidied = flat(tensors)
    own = {key: value for key, value in tidied.items() if _layer(key) not in LAYERS}
    if not own or HEAD not in tidied:
        return tidied  # another architecture; comparing keys will report it
    layer, features = _layer(next(iter(own))), tidied[HEAD].shape[-1]
    kernel, bias = own.pop(f"{layer}/kernel", None), own.pop(f"{layer}/bias", None)
    fits = kernel is not None and kernel.ndim == 2 and kernel.shape[0] == features
    if kernel is None or not fits or own or f"{CLASSIFIER}/kernel" in tidied:
        _refuse_head(tidied, features)
    bias = kernel.new_zeros(kernel.shape[1]) if bias is None else bias
    body = {key: value for key, value in tidied.items() if _layer(key) in LAYERS}
    return body | {f"{CLASSIFIER}/kernel": kernel, f"{CLASSIFIER}/bias": bias}


def without_head(tensors: Mapping[str, Tensor]) -> Tensors:
    """Drops the classifier and all custom layers.

    Args:
        tensors: Weights by Keras' keys.

    Returns:
        The backbone's weights by the layout's keys.

    Raises:
        ConversionError: If two tensors get the same key.
    """
    return {key: value for key, value in flat(tensors).items() if _layer(key) in LAYERS and _layer(key) != CLASSIFIER}


def _layer(key: str) -> str:
    return key.partition("/")[0]


def _refuse_head(tidied: Tensors, features: int) -> NoReturn:
    shown = [f"{key} {tuple(value.shape)}" for key, value in tidied.items() if _layer(key) not in LAYERS]
    raise ConversionError(
        "the Keras model has layers that a MobileNetV2 cannot have",
        expected=f"one dense layer with a kernel ({features}, classes) after global average pooling, or none",
        found=", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if shown[4:] else ""),
        fix="Convert only the backbone: `mnv2zoo weights convert FILE --backbone`, or "
        "`mnv2zoo.convert.layouts.keras.without_head(tensors)`.",
    )


def to_native(tensors: Tensors, config: Config) -> Tensors:
    """Transposes kernels to PyTorch's axis order and folds the epsilon difference into the running variances.

    Args:
        tensors: State dict with native names and Keras' values.
        config: The architecture.

    Returns:
        The state dict with native values.
    """
    changed = dict(tensors)
    for key, value in tensors.items():
        if value.ndim == 4:
            # Keras' axes: height, width, input channels, filters. In a depthwise kernel, channels and one filter each.
            axes = (2, 3, 0, 1) if key.endswith("conv_dw.weight") else (3, 2, 0, 1)
            changed[key] = value.permute(axes).contiguous()
        elif value.ndim == 2:
            changed[key] = value.t().contiguous()
    return tensorflow.carry_epsilon(changed)


def from_native(tensors: Tensors, config: Config) -> Tensors:
    """Transposes kernels to Keras' axis order and removes the epsilon difference from the running variances.

    Args:
        tensors: State dict with native names and values.
        config: The architecture.

    Returns:
        The tensors that Keras has, with native names and Keras' values.

    Raises:
        ConversionError: If a running variance would become negative.
    """
    changed = {key: value for key, value in tensors.items() if not key.endswith(native.COUNTER)}
    for key, value in changed.items():
        if value.ndim == 4:
            axes = (2, 3, 0, 1) if key.endswith("conv_dw.weight") else (2, 3, 1, 0)
            changed[key] = value.permute(axes).contiguous()
        elif value.ndim == 2:
            changed[key] = value.t().contiguous()
    return tensorflow.take_epsilon_out(changed, "Keras")


LAYOUT = Layout(
    name="keras",
    names=names,
    lacks=beyond_a_width,
    to_native=to_native,
    from_native=from_native,
    notes="Keras models use TensorFlow's padding and take images from -1 to 1. Create the model with pad_type='same' "
    "for these weights, and normalize images with mean 0.5 and standard deviation 0.5.",
    pad_type=tensorflow.PAD_TYPE,
    preprocessing=tensorflow.PREPROCESSING,
)

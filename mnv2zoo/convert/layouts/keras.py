"""Keras' layout: `keras.applications.MobileNetV2`, alone or within a model of one's own.

A key is the layer's name and the variable's, as in `Conv1/kernel`, `block_1_expand_BN/moving_variance`
and `predictions/bias`. Keys as Keras itself makes them are brought to that form: those of nested models
(`mobilenetv2_1.00_224/Conv1/kernel`, and what `variable.path` says) and those of Keras 2
(`Conv1/Conv1/kernel:0`, `depthwise_kernel`). `convert.read` gives them for all files of Keras.

Read `convert/tf.py` on padding, epsilon and normalisation. `alpha` is the zoo's width, and widens the
head too where it is above 1. The score before the softmax comes out, whatever the last activation is.

A dense layer of one's own behind global average pooling becomes the classifier. Any other layer that
has weights is refused, since the network has no place for it; `without_head` leaves it out.
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
RANDOM_STATE = "seed_generator_state"  # of dropout and of augmentation, which only train


def modules(config: Config) -> Iterator[str]:
    """Names Keras' layers with weights in the order they run.

    Args:
        config: The network.

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
    """Gives Keras' key for every native key but the counters of batches, which Keras has none of.

    Args:
        config: The network.

    Returns:
        Keras' keys by native key, in the order the layers run.
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


def recognises(keys: Iterable[str]) -> bool:
    """Tells Keras' keys from all others, which have dots where these have slashes."""
    return any("/" in key for key in keys)


def flat(tensors: Mapping[str, Tensor]) -> Tensors:
    """Brings keys to the form `layer/variable`, and leaves out the states of random numbers.

    Args:
        tensors: Weights under Keras' keys.

    Returns:
        The same under such keys, those of layers outside the network too.

    Raises:
        ConversionError: If two tensors have the same place.
    """
    flat: Tensors = {}
    for key, value in tensors.items():
        *groups, variable = key.removesuffix(":0").split("/")
        if variable == RANDOM_STATE:
            continue
        # Groups may be models, layers and scopes; only the names within the network are known.
        layer = next((group for group in groups if group in LAYERS), groups[-1] if groups else variable)
        name = f"{layer}/{KERAS_2.get(variable, variable)}"
        if name in flat:
            raise ConversionError(
                "two tensors have the same place",
                expected="the weights of one network",
                found="two layers of one name",
                where=key,
                fix="Give the weights of one of the models alone: in Keras, `model.get_layer(name).save_weights(...)`.",
            )
        flat[name] = value
    return flat


def tidy(tensors: Mapping[str, Tensor]) -> Tensors:
    """Brings keys to the layout's form, and a dense layer of one's own to the classifier's place.

    Args:
        tensors: Weights under Keras' keys.

    Returns:
        The same under the layout's keys.

    Raises:
        ConversionError: If two tensors have the same place, or a layer has none.
    """
    tidied = flat(tensors)
    own = {key: value for key, value in tidied.items() if _layer(key) not in LAYERS}
    if not own or HEAD not in tidied:
        return tidied  # another network, which the comparison of keys tells of
    layer, features = _layer(next(iter(own))), tidied[HEAD].shape[-1]
    kernel, bias = own.pop(f"{layer}/kernel", None), own.pop(f"{layer}/bias", None)
    fits = kernel is not None and kernel.ndim == 2 and kernel.shape[0] == features
    if kernel is None or not fits or own or f"{CLASSIFIER}/kernel" in tidied:
        _refuse_head(tidied, features)
    bias = kernel.new_zeros(kernel.shape[1]) if bias is None else bias
    body = {key: value for key, value in tidied.items() if _layer(key) in LAYERS}
    return body | {f"{CLASSIFIER}/kernel": kernel, f"{CLASSIFIER}/bias": bias}


def without_head(tensors: Mapping[str, Tensor]) -> Tensors:
    """Leaves out the classifier, and whatever layers of one's own there are.

    Args:
        tensors: Weights under Keras' keys.

    Returns:
        Those of the backbone under the layout's keys.

    Raises:
        ConversionError: If two tensors have the same place.
    """
    return {key: value for key, value in flat(tensors).items() if _layer(key) in LAYERS and _layer(key) != CLASSIFIER}


def _layer(key: str) -> str:
    return key.partition("/")[0]


def _refuse_head(tidied: Tensors, features: int) -> NoReturn:
    shown = [f"{key} {tuple(value.shape)}" for key, value in tidied.items() if _layer(key) not in LAYERS]
    raise ConversionError(
        "the network has no place for the model's own layers",
        expected=f"one dense layer with a kernel ({features}, classes) behind global average pooling, or none",
        found=", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if shown[4:] else ""),
        fix="Leave them out to have the backbone alone: `mnv2zoo weights convert FILE --backbone`, or "
        "`mnv2zoo.convert.layouts.keras.without_head(tensors)`.",
    )


def to_native(tensors: Tensors, config: Config) -> Tensors:
    """Turns kernels to PyTorch's order of axes and carries epsilon into the running variances.

    Args:
        tensors: State dict with native names and Keras' values.
        config: The network.

    Returns:
        The state dict with native values.
    """
    changed = dict(tensors)
    for key, value in tensors.items():
        if value.ndim == 4:
            # Height and width come first; a depthwise kernel has its channels before its one filter each.
            axes = (2, 3, 0, 1) if key.endswith("conv_dw.weight") else (3, 2, 0, 1)
            changed[key] = value.permute(axes).contiguous()
        elif value.ndim == 2:
            changed[key] = value.t().contiguous()
    return tensorflow.carry_epsilon(changed)


def from_native(tensors: Tensors, config: Config) -> Tensors:
    """Turns kernels to Keras' order of axes and takes the difference of the epsilons out.

    Args:
        tensors: State dict with native names and values.
        config: The network.

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
    notes="Keras' networks pad as TensorFlow does and take images from -1 to 1: create the zoo's with "
    "pad_type='same' for these weights, and normalise images by mean 0.5 and standard deviation 0.5.",
    pad_type=tensorflow.PAD_TYPE,
    preprocessing=tensorflow.PREPROCESSING,
)

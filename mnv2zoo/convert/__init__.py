"""Conversion between the zoo's native layout of a network's tensors and other libraries'.

| layout | whose |
| --- | --- |
| `timm` | timm's `mobilenetv2_*`, and the zoo's own: the native layout |
| `torchvision` | `torchvision.models.mobilenet_v2` |
| `transformers` | `MobileNetV2ForImageClassification`; read `convert/transformers.py` on padding and classes |
| `keras` | `keras.applications.MobileNetV2`; read `convert/keras.py` on names and heads |
| `seed` | the tutorial network that the 20-class architectures come from |

The checkpoint decides on the number of classes, the form of the classifier and the input channels, and
a backbone without classifier converts too. `read` gives the tensors of a file, of Keras' files too,
and `identify` tells whose they are. A further layout is one more module with a `LAYOUT`, and its
place in `LAYOUTS`.
"""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mnv2zoo import architecture
from mnv2zoo.architecture import Config
from mnv2zoo.convert import state_dict as state_dict_
from mnv2zoo.convert.files import Checkpoint, in_folder, read
from mnv2zoo.convert.layouts import keras, native, seed, timm, torchvision, transformers
from mnv2zoo.convert.layouts.base import Layout
from mnv2zoo.convert.layouts.native import Tensors
from mnv2zoo.errors import ConversionError

# Without it, a star import would put our modules in the place of timm and torchvision.
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

LAYOUTS: dict[str, Layout] = {
    layout.name: layout for layout in (timm.LAYOUT, torchvision.LAYOUT, transformers.LAYOUT, keras.LAYOUT, seed.LAYOUT)
}

OTHER_HEAD = (
    "The backbone fits, the head does not: leave it out with `mnv2zoo weights convert FILE --backbone`, or "
    "`mnv2zoo.convert.without_head(tensors)`."
)

logger = logging.getLogger(__name__)


def to_native(state_dict: Mapping[str, Any], model_name: str, layout: str | None = None) -> Tensors:
    """Converts a state dict to the native layout.

    Args:
        state_dict: A state dict, or a checkpoint that holds one as one of `state_dict.CHECKPOINT_KEYS`. It is not
            changed; the result may share its tensors. Values may be numpy's arrays, as Keras gives them.
        model_name: The architecture it is for, or `architecture.tag`.
        layout: A name in `LAYOUTS`; recognised by the keys when None.

    Returns:
        The state dict for the zoo's network, in the order the layers run. From `transformers` and
        `keras` it is for a network created with `pad_type="same"`.

    Raises:
        ConversionError: If there is no such layout, the library has no such network, or the tensors
            are not that network's.
        UnknownModelError: If there is no such architecture.

    Examples:
        >>> import timm, torchvision, mnv2zoo
        >>> theirs = torchvision.models.mobilenet_v2()
        >>> ours = timm.create_model("mnv2zoo_100")
        >>> ours.load_state_dict(mnv2zoo.convert.to_native(theirs.state_dict(), "mnv2zoo_100"))
        <All keys matched successfully>
    """
    tensors = _unwrap(state_dict)
    config = as_built(architecture.get(model_name), tensors)
    source = _layout_for(_nearest(tensors, config).name if layout is None else layout, config)
    converted = _read(tensors, config, source)
    if source.notes:
        logger.info(source.notes)
    return converted


def from_native(state_dict: Mapping[str, Any], model_name: str, layout: str) -> Tensors:
    """Converts a state dict from the native layout.

    Args:
        state_dict: A state dict or checkpoint as for `to_native`, in the native layout.
        model_name: The architecture it is of, or `architecture.tag`.
        layout: A name in `LAYOUTS`.

    Returns:
        The state dict for the other library's network.

    Raises:
        ConversionError: If there is no such layout, the library has no such network, the tensors are
            not that network's, or their values cannot be expressed there.
        UnknownModelError: If there is no such architecture.

    Examples:
        >>> import timm, mnv2zoo
        >>> ours = timm.create_model("mnv2zoo_100")
        >>> next(iter(mnv2zoo.convert.from_native(ours.state_dict(), "mnv2zoo_100", "torchvision")))
        'features.0.0.weight'
    """
    tensors = _unwrap(state_dict)
    config = as_built(architecture.get(model_name), tensors)
    target = _layout_for(layout, config)
    changed = target.from_native(_read(tensors, config, timm.LAYOUT), config)
    names = target.names(config)
    converted = {names[key]: value for key, value in changed.items()}
    if target.notes:
        logger.info(target.notes)
    return converted


def identify(state_dict: Mapping[str, Any]) -> tuple[str, str]:
    """Finds the architecture and the layout that a state dict is of.

    Args:
        state_dict: A state dict or checkpoint as for `to_native`.

    Returns:
        The architecture's name and the layout's.

    Raises:
        ConversionError: If no network of the zoo has such tensors.
    """
    tensors = _unwrap(state_dict)
    if found := _identify(tensors):
        return found
    config = _nearest_config(tensors)
    layout = _nearest(tensors, config)
    try:
        _fit(tensors, config, layout)
    except ConversionError as error:
        other = OTHER_HEAD if _has_other_head(tensors) else f"The nearest layout is {layout.name}."
        error.fix = error.fix or other
        raise
    raise AssertionError("what fits is found")


def without_head(state_dict: Mapping[str, Any]) -> Tensors:
    """Leaves out the classifier, or whatever other head there is, so that the backbone alone converts.

    Args:
        state_dict: A state dict or checkpoint as for `to_native`.

    Returns:
        The tensors of the backbone, under the keys that they have.

    Raises:
        ConversionError: If there is no backbone of the zoo in it.
    """
    tensors = state_dict_.unwrap(state_dict)
    if keras.recognises(tensors):
        return keras.without_head(tensors)
    for published in architecture.CONFIGS.values():
        for layout in _layouts_of(published):
            backbone = _backbone(tensors, published, layout)
            if backbone and _fits(backbone, published, layout):
                return backbone
    # Not even the backbone fits, and the error is to name the layout that comes nearest.
    config = _nearest_config(tensors)
    layout = _nearest(tensors, config)
    identify(_backbone(tensors, config, layout) or tensors)
    raise AssertionError("what fits is found")


def _backbone(tensors: Tensors, config: Config, layout: Layout) -> Tensors:
    """The tensors below the backbone's own top-level modules, other than the classifier."""
    names = _names(tensors, config, layout)
    head = {name.rpartition(".")[0].rpartition(".")[0] for key, name in names.items() if _of_classifier(key)} - {""}
    tops = {name.partition(".")[0] for key, name in names.items() if not _of_classifier(key)}
    return {
        key: value
        for key, value in tensors.items()
        if key.partition(".")[0] in tops and not any(key.startswith(f"{module}.") for module in head)
    }


def _of_classifier(key: str) -> bool:
    return key.startswith("classifier")


def _has_other_head(tensors: Tensors) -> bool:
    """Whether the backbone is one of the zoo's, and what follows it is not."""
    return any(
        _fits(backbone, config, layout)
        for config in architecture.CONFIGS.values()
        for layout in _layouts_of(config)
        if (backbone := _backbone(tensors, config, layout))
    )


def _fits(tensors: Tensors, config: Config, layout: Layout) -> bool:
    try:
        _fit(tensors, config, layout)
    except ConversionError:
        return False
    return True


def _unwrap(checkpoint: Mapping[str, Any]) -> Tensors:
    tensors = state_dict_.unwrap(checkpoint)
    return keras.tidy(tensors) if keras.recognises(tensors) else tensors


def as_built(config: Config, tensors: Tensors) -> Config:
    # A network may have been created with a `classifier` of another form than its config's.
    weight = tensors.get("classifier.weight")
    if weight is None:
        return config
    if weight.ndim == 2:
        return replace(config, classifier="linear")
    if not any(key.startswith("classifier_bn.") for key in tensors):
        return replace(config, classifier="conv")
    return config if config.classifier_norm else replace(config, classifier="conv_bn")


def _layout_for(name: str, config: Config) -> Layout:
    if name not in LAYOUTS:
        near = difflib.get_close_matches(str(name), LAYOUTS, n=1)
        raise ConversionError(
            "unknown layout",
            expected=", ".join(near or LAYOUTS),
            found=repr(name),
            fix=f"The layouts are {', '.join(LAYOUTS)}.",
        )
    layout = LAYOUTS[name]
    if lacks := layout.lacks(config):
        others = [other.name for other in architecture.CONFIGS.values() if not layout.lacks(other)]
        raise ConversionError(
            f"the layout {name} cannot express {config.name}",
            expected=f"one of {', '.join(others)}",
            found=f"a network with {', '.join(lacks)}",
            fix=f"Layouts of {config.name}: {', '.join(each.name for each in _layouts_of(config))}.",
        )
    return layout


def _layouts_of(config: Config) -> list[Layout]:
    return [layout for layout in LAYOUTS.values() if not layout.lacks(config)]


def _names(tensors: Tensors, config: Config, layout: Layout) -> dict[str, str]:
    names = layout.names(config)
    if any(key.startswith(layout.prefix) for key in tensors):
        return names
    return {key: name.removeprefix(layout.prefix) for key, name in names.items()}


def _nearest(tensors: Tensors, config: Config) -> Layout:
    """Finds the layout that shares most keys with the tensors or, failing that, most parts of keys."""
    if keras.recognises(tensors):
        return keras.LAYOUT

    def parts(keys: Iterable[str]) -> set[str]:
        return {part for key in keys for part in key.split(".")}

    def likeness(layout: Layout) -> tuple[int, int]:
        names = set(_names(tensors, config, layout).values())
        return len(names & tensors.keys()), len(parts(names) & parts(tensors))

    return max(_layouts_of(config), key=likeness)


def _nearest_config(tensors: Tensors) -> Config:
    """Finds the network that shares most keys with tensors of its sizes, or the usual one."""

    def likeness(published: Config) -> tuple[int, bool]:
        config = as_built(published, tensors)
        layout = _nearest(tensors, config)
        if layout.lacks(config):
            return -1, False
        names = _names(tensors, config, layout)
        sizes = {names[key]: math.prod(shape) for key, shape in native.shapes(config).items() if key in names}
        alike = sum(name in tensors and tensors[name].numel() == size for name, size in sizes.items())
        return alike, published.name == "mnv2zoo_100"

    return as_built(max(architecture.CONFIGS.values(), key=likeness), tensors)


def _read(tensors: Tensors, config: Config, layout: Layout) -> Tensors:
    """Fits tensors, or says what they would fit."""
    try:
        return _fit(tensors, config, layout)
    except ConversionError as error:
        if owner := _identify(tensors):
            error.fix = f"They are the tensors of {owner[0]} in the layout {owner[1]}."
        elif not error.fix and _has_other_head(tensors):
            error.fix = OTHER_HEAD
        else:
            error.fix = error.fix or f"The nearest layout is {_nearest(tensors, config).name}."
        raise


def _identify(tensors: Tensors) -> tuple[str, str] | None:
    for published in architecture.CONFIGS.values():
        config = as_built(published, tensors)
        for layout in _layouts_of(config):
            if _fits(tensors, config, layout):
                return config.name, layout.name
    return None


def _fit(tensors: Tensors, config: Config, layout: Layout) -> Tensors:
    """Takes tensors of a layout to the native one, whose keys and shapes they have to fit."""
    names = _names(tensors, config, layout)
    classifier = {key for key in names if _of_classifier(key)}
    if own := _own_classifier(tensors, names):
        names |= {key: f"{own}.{key.rpartition('.')[2]}" for key in ("classifier.weight", "classifier.bias")}
    if not any(names[key] in tensors for key in classifier):
        names = {key: name for key, name in names.items() if key not in classifier}
    # PyTorch before 0.4.1 kept no counters of batches, and batch norms load without them to this day.
    missing = [name for key, name in names.items() if name not in tensors and not key.endswith(native.COUNTER)]
    known = set(names.values())
    unexpected = [key for key in tensors if key not in known]
    if missing or unexpected:
        raise ConversionError(
            f"the keys are not those of {config.name} in the layout {layout.name}",
            expected=_first(missing) if missing else "no further keys",
            found=_first(unexpected) if unexpected else "no such keys",
            fix=_pruned(unexpected),
        )
    for key, name in names.items():
        if name in tensors and not (key.endswith(native.COUNTER) or tensors[name].is_floating_point()):
            raise ConversionError(
                f"a tensor is not one of {config.name}",
                expected="floating-point numbers",
                found=str(tensors[name].dtype),
                where=name,
                fix="Save the weights before they are quantized.",
            )
    changed = layout.to_native({key: tensors[name] for key, name in names.items() if name in tensors}, config)
    stem, bias = changed["conv_stem.weight"].shape, changed.get("classifier.bias")
    # Classes and channels are as many as there are, but at least one.
    shapes = native.shapes(
        config,
        num_classes=0 if bias is None else max(1, bias.numel()),
        in_chans=max(1, stem[1]) if len(stem) == 4 else 3,
    )
    for key, value in changed.items():
        if value.shape != shapes[key]:
            raise ConversionError(
                f"a shape is not that of {config.name}",
                expected=shapes[key],
                found=tuple(value.shape),
                where=names[key],
                fix=""
                if key in classifier
                else f"No network of the zoo fits: this one's stem has {_channels(stem)} channels "
                f"and its head {_channels(changed['conv_head.weight'].shape)}, and the zoo's widths are {_widths()}.",
            )
    return changed


def _own_classifier(tensors: Tensors, names: dict[str, str]) -> str:
    """The one linear layer in the classifier's place under another name, such as `classifier` for `classifier.1`."""
    if "classifier.weight" not in names or names["classifier.weight"] in tensors:
        return ""
    place = names["classifier.weight"].partition(".")[0]
    modules = {key.rpartition(".")[0] for key in tensors if key.partition(".")[0] == place}
    if place in {name.partition(".")[0] for key, name in names.items() if not _of_classifier(key)} or len(modules) != 1:
        return ""
    (module,) = modules
    weight = tensors.get(f"{module}.weight")
    return module if weight is not None and weight.ndim == 2 else ""


def _pruned(unexpected: list[str]) -> str:
    if any(key.endswith("_mask") for key in unexpected):
        return "Make the pruning permanent first: `torch.nn.utils.prune.remove(module, name)` for each layer."
    return ""


def _channels(shape: Sequence[int]) -> int:
    return shape[0] if shape else 0


def _widths() -> str:
    return ", ".join(f"{width:g}" for width in sorted({config.width for config in architecture.CONFIGS.values()}))


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")

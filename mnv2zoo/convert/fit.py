"""Checks whether tensors match an architecture in a layout, and converts them to the native layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mnv2zoo import architecture
from mnv2zoo.architecture import Config
from mnv2zoo.convert.layouts import native
from mnv2zoo.convert.layouts.base import Layout
from mnv2zoo.convert.layouts.native import Tensors
from mnv2zoo.errors import ConversionError


def as_built(config: Config, tensors: Tensors) -> Config:
    """Returns the config with the classifier form of the given tensors, which are in the native layout.

    A model may have been created with a different `classifier` than its config's.
    """
    weight = tensors.get("classifier.weight")
    if weight is None:
        return config
    if weight.ndim == 2:
        return replace(config, classifier="linear")
    if not any(key.startswith("classifier_bn.") for key in tensors):
        return replace(config, classifier="conv")
    return config if config.classifier_norm else replace(config, classifier="conv_bn")


def of_classifier(key: str) -> bool:
    """Checks whether a native key belongs to the classifier."""
    return key.startswith("classifier")


def names_in(tensors: Tensors, config: Config, layout: Layout) -> dict[str, str]:
    """Returns the layout's names by native key, without the layout's prefix if the tensors lack it."""
    names = layout.names(config)
    if any(key.startswith(layout.prefix) for key in tensors):
        return names
    return {key: name.removeprefix(layout.prefix) for key, name in names.items()}


def fits(tensors: Tensors, config: Config, layout: Layout) -> bool:
    """Checks whether `fit` succeeds."""
    try:
        fit(tensors, config, layout)
    except ConversionError:
        return False
    return True


def fit(tensors: Tensors, config: Config, layout: Layout) -> Tensors:
    """Converts tensors from a layout to the native one.

    Args:
        tensors: The tensors by the layout's names.
        config: The architecture.
        layout: The layout.

    Returns:
        The tensors by native key.

    Raises:
        ConversionError: If names, shapes or dtypes do not match the architecture in this layout.
    """
    names = names_in(tensors, config, layout)
    classifier = {key for key in names if of_classifier(key)}
    if own := _own_classifier(tensors, names):
        names |= {key: f"{own}.{key.rpartition('.')[2]}" for key in ("classifier.weight", "classifier.bias")}
    if not any(names[key] in tensors for key in classifier):
        names = {key: name for key, name in names.items() if key not in classifier}
    _check_names(tensors, names, config, layout)
    changed = layout.to_native({key: tensors[name] for key, name in names.items() if name in tensors}, config)
    _check_shapes(changed, names, config)
    return changed


def _check_names(tensors: Tensors, names: dict[str, str], config: Config, layout: Layout) -> None:
    # PyTorch before 0.4.1 had no batch counters, and batch norms still load without them.
    missing = [name for key, name in names.items() if name not in tensors and not key.endswith(native.COUNTER)]
    known = set(names.values())
    unexpected = [key for key in tensors if key not in known]
    if missing or unexpected:
        raise ConversionError(
            f"the keys do not match {config.name} in the layout {layout.name}",
            expected=_first(missing) if missing else "no further keys",
            found=_first(unexpected) if unexpected else "no such keys",
            fix=_pruned(unexpected),
        )
    for key, name in names.items():
        if name in tensors and not (key.endswith(native.COUNTER) or tensors[name].is_floating_point()):
            raise ConversionError(
                f"{name} does not contain floating-point numbers",
                expected="floating-point numbers",
                found=str(tensors[name].dtype),
                where=name,
                fix="Save the weights before you quantize them.",
            )


def _check_shapes(changed: Tensors, names: dict[str, str], config: Config) -> None:
    stem, bias = changed["conv_stem.weight"].shape, changed.get("classifier.bias")
    # Classes and channels may be any number, but at least one.
    shapes = native.shapes(
        config,
        num_classes=0 if bias is None else max(1, bias.numel()),
        in_chans=max(1, stem[1]) if len(stem) == 4 else 3,
    )
    for key, value in changed.items():
        if value.shape != shapes[key]:
            raise ConversionError(
                f"the shape of {names[key]} does not match {config.name}",
                expected=shapes[key],
                found=tuple(value.shape),
                where=names[key],
                fix=""
                if of_classifier(key)
                else f"This model has {_channels(stem)} channels in the stem and "
                f"{_channels(changed['conv_head.weight'].shape)} in the head. The widths in mnv2zoo are {_widths()}.",
            )


def _own_classifier(tensors: Tensors, names: dict[str, str]) -> str:
    """Returns the name of the only linear layer that can be the classifier, such as `classifier` for `classifier.1`."""
    if "classifier.weight" not in names or names["classifier.weight"] in tensors:
        return ""
    place = names["classifier.weight"].partition(".")[0]
    modules = {key.rpartition(".")[0] for key in tensors if key.partition(".")[0] == place}
    if place in {name.partition(".")[0] for key, name in names.items() if not of_classifier(key)} or len(modules) != 1:
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

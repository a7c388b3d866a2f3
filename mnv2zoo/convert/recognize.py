"""Detects the architecture and the layout of tensors."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any

from mnv2zoo import architecture
from mnv2zoo.architecture import Config
from mnv2zoo.convert import state_dict as state_dict_
from mnv2zoo.convert.fit import as_built, fit, fits, names_in, of_classifier
from mnv2zoo.convert.layouts import LAYOUTS, keras, native
from mnv2zoo.convert.layouts.base import Layout
from mnv2zoo.convert.layouts.native import Tensors
from mnv2zoo.convert.state_dict import Found
from mnv2zoo.errors import ConversionError, unknown

OTHER_HEAD = (
    "The backbone matches, but the head does not. Leave it out with `mnv2zoo weights convert FILE --backbone`, or "
    "`mnv2zoo.convert.without_head(tensors)`."
)


def identify(state_dict: Mapping[str, Any]) -> tuple[str, str]:
    """Detects the architecture and the layout of a state dict.

    Args:
        state_dict: A state dict or checkpoint as for `to_native`.

    Returns:
        The names of the architecture and of the layout.

    Raises:
        ConversionError: If the tensors match no model of this package.
    """
    tensors = unwrap(state_dict)
    if found := _identify(tensors):
        return found
    config = nearest_config(tensors)
    layout = nearest(tensors, config)
    try:
        fit(tensors, config, layout)
    except ConversionError as error:
        other = OTHER_HEAD if _has_other_head(tensors) else f"The closest layout is {layout.name}."
        error.fix = error.fix or other
        raise
    raise AssertionError("tensors that fit are identified")


def without_head(state_dict: Mapping[str, Any]) -> Tensors:
    """Drops the classifier or any other head, so that the backbone converts on its own.

    Args:
        state_dict: A state dict or checkpoint as for `to_native`.

    Returns:
        The tensors of the backbone, with their keys unchanged.

    Raises:
        ConversionError: If it contains no backbone of this package.
    """
    tensors = state_dict_.unwrap(state_dict)
    if keras.recognizes(tensors):
        return keras.without_head(tensors)
    for published in architecture.CONFIGS.values():
        for layout in layouts_of(published):
            backbone = _backbone(tensors, published, layout)
            if backbone and fits(backbone, published, layout):
                return backbone
    # Even the backbone does not match. The error names the closest layout.
    config = nearest_config(tensors)
    layout = nearest(tensors, config)
    identify(_backbone(tensors, config, layout) or tensors)
    raise AssertionError("tensors that fit are identified")


def unwrap(checkpoint: Mapping[str, Any]) -> Tensors:
    """Takes the tensors out of a checkpoint as `state_dict.unwrap` does, with Keras names in their layer form."""
    return tidy(state_dict_.unwrap(checkpoint))


def tidy(tensors: Tensors) -> Tensors:
    """Converts Keras' names to those of its layout."""
    return keras.tidy(tensors) if keras.recognizes(tensors) else tensors


def require_head(found: Found, converted: Tensors) -> None:
    """Raises an error rather than leaving out a head.

    Args:
        found: The state dict and where it was found.
        converted: The tensors in the native layout.

    Raises:
        ConversionError: If there is no classifier, and there are layers outside the prefix of the model.
    """
    if found.layers_left_out and not any(map(of_classifier, converted)):
        raise ConversionError(
            "the classifier is outside the model's prefix",
            expected=f"a classifier with the prefix {found.prefix!r}",
            found=", ".join(found.layers_left_out[:3]),
            fix=OTHER_HEAD,
        )


def layout_for(name: str, config: Config) -> Layout:
    """Looks up a layout by name.

    Raises:
        ConversionError: If the name is unknown, or the layout cannot express the architecture.
    """
    if name not in LAYOUTS:
        near = difflib.get_close_matches(str(name), LAYOUTS, n=1)
        raise ConversionError(
            unknown("layout", str(name), tuple(LAYOUTS))[:200],
            expected=", ".join(near or LAYOUTS),
            found=repr(name),
            fix=f"Choose from {', '.join(LAYOUTS)}.",
        )
    layout = LAYOUTS[name]
    if lacks := layout.lacks(config):
        others = [other.name for other in architecture.CONFIGS.values() if not layout.lacks(other)]
        raise ConversionError(
            f"the layout {name} cannot express {config.name}",
            expected=f"one of {', '.join(others)}",
            found=f"a model with {', '.join(lacks)}",
            fix=f"Layouts that can express {config.name}: {', '.join(each.name for each in layouts_of(config))}.",
        )
    return layout


def layouts_of(config: Config) -> list[Layout]:
    """Lists the layouts that can express an architecture."""
    return [layout for layout in LAYOUTS.values() if not layout.lacks(config)]


def fit_or_explain(tensors: Tensors, config: Config, layout: Layout) -> Tensors:
    """Converts tensors, or raises an error that says what they would match."""
    try:
        return fit(tensors, config, layout)
    except ConversionError as error:
        if owner := _identify(tensors):
            error.fix = f"The tensors match {owner[0]} in the layout {owner[1]}."
        elif not error.fix and _has_other_head(tensors):
            error.fix = OTHER_HEAD
        else:
            error.fix = error.fix or f"The closest layout is {nearest(tensors, config).name}."
        raise


def _identify(tensors: Tensors) -> tuple[str, str] | None:
    for published in architecture.CONFIGS.values():
        config = as_built(published, tensors)
        for layout in layouts_of(config):
            if fits(tensors, config, layout):
                return config.name, layout.name
    return None


def _backbone(tensors: Tensors, config: Config, layout: Layout) -> Tensors:
    """Returns the tensors of the backbone's top-level modules, without the classifier."""
    names = names_in(tensors, config, layout)
    head = {name.rpartition(".")[0].rpartition(".")[0] for key, name in names.items() if of_classifier(key)} - {""}
    tops = {name.partition(".")[0] for key, name in names.items() if not of_classifier(key)}
    return {
        key: value
        for key, value in tensors.items()
        if key.partition(".")[0] in tops and not any(key.startswith(f"{module}.") for module in head)
    }


def _has_other_head(tensors: Tensors) -> bool:
    """Checks whether the backbone matches this package's, but the layers after it do not."""
    return any(
        fits(backbone, config, layout)
        for config in architecture.CONFIGS.values()
        for layout in layouts_of(config)
        if (backbone := _backbone(tensors, config, layout))
    )


def nearest(tensors: Tensors, config: Config) -> Layout:
    """Finds the layout that shares the most keys with the tensors or, failing that, the most parts of keys."""
    if keras.recognizes(tensors):
        return keras.LAYOUT

    def parts(keys: Iterable[str]) -> set[str]:
        return {part for key in keys for part in key.split(".")}

    def likeness(layout: Layout) -> tuple[int, int]:
        names = set(names_in(tensors, config, layout).values())
        return len(names & tensors.keys()), len(parts(names) & parts(tensors))

    return max(layouts_of(config), key=likeness)


def nearest_config(tensors: Tensors) -> Config:
    """Finds the architecture that shares the most keys and shapes with the tensors, or the default one."""

    def likeness(published: Config) -> tuple[int, bool]:
        config = as_built(published, tensors)
        layout = nearest(tensors, config)
        if layout.lacks(config):
            return -1, False
        names = names_in(tensors, config, layout)
        sizes = {names[key]: math.prod(shape) for key, shape in native.shapes(config).items() if key in names}
        alike = sum(name in tensors and tensors[name].numel() == size for name, size in sizes.items())
        return alike, published.name == "mnv2zoo_100"

    return as_built(max(architecture.CONFIGS.values(), key=likeness), tensors)

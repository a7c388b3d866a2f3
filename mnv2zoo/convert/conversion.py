"""Converts state dicts to and from the native layout."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mnv2zoo import architecture
from mnv2zoo.convert.fit import as_built
from mnv2zoo.convert.layouts import timm
from mnv2zoo.convert.layouts.native import Tensors
from mnv2zoo.convert.recognize import fit_or_explain, layout_for, nearest, require_head, tidy, unwrap
from mnv2zoo.convert.state_dict import find

logger = logging.getLogger(__name__)


def to_native(state_dict: Mapping[str, Any], model_name: str, layout: str | None = None) -> Tensors:
    """Converts a state dict to the native layout.

    Args:
        state_dict: A state dict, or a checkpoint that contains one. Names may have a prefix, such as `module.`. It is
            not modified, and the result may share its tensors. Values may be NumPy arrays, as in Keras.
        model_name: The architecture, or `architecture.tag`.
        layout: A name in `LAYOUTS`. None detects it from the keys.

    Returns:
        The state dict for this package's model, in execution order. Weights from `transformers` and
        `keras` need a model created with `pad_type="same"`.

    Raises:
        ConversionError: If the layout is unknown or cannot express the architecture, or the tensors do not match
            it.
        UnknownModelError: If no architecture has that name.

    Examples:
        >>> import timm, torchvision, mnv2zoo
        >>> theirs = torchvision.models.mobilenet_v2()
        >>> ours = timm.create_model("mnv2zoo_100")
        >>> ours.load_state_dict(mnv2zoo.convert.to_native(theirs.state_dict(), "mnv2zoo_100"))
        <All keys matched successfully>
    """
    found = find(state_dict)
    tensors = tidy(found.tensors)
    config = as_built(architecture.get(model_name), tensors)
    source = layout_for(nearest(tensors, config).name if layout is None else layout, config)
    converted = fit_or_explain(tensors, config, source)
    require_head(found, converted)
    if found.prefix:
        logger.info(found)
    if source.notes:
        logger.info(source.notes)
    return converted


def from_native(state_dict: Mapping[str, Any], model_name: str, layout: str) -> Tensors:
    """Converts a state dict from the native layout.

    Args:
        state_dict: A state dict or checkpoint as for `to_native`, in the native layout.
        model_name: The architecture, or `architecture.tag`.
        layout: A name in `LAYOUTS`.

    Returns:
        The state dict for the other library's model.

    Raises:
        ConversionError: If the layout is unknown or cannot express the architecture or its values, or the tensors
            do not match it.
        UnknownModelError: If no architecture has that name.

    Examples:
        >>> import timm, mnv2zoo
        >>> ours = timm.create_model("mnv2zoo_100")
        >>> next(iter(mnv2zoo.convert.from_native(ours.state_dict(), "mnv2zoo_100", "torchvision")))
        'features.0.0.weight'
    """
    tensors = unwrap(state_dict)
    config = as_built(architecture.get(model_name), tensors)
    target = layout_for(layout, config)
    changed = target.from_native(fit_or_explain(tensors, config, timm.LAYOUT), config)
    names = target.names(config)
    converted = {names[key]: value for key, value in changed.items()}
    if target.notes:
        logger.info(target.notes)
    return converted

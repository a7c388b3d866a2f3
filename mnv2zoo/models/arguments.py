"""Checks the arguments that models are built with: valid values, and one spelling for each.

All code that builds a model checks its arguments here: `timm.create_model`, `MobileNetV2`, its `reset_classifier`,
the detectors and segmenters, and the readers of `config.json`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from mnv2zoo.architecture import CLASSIFIERS, OUTPUT_STRIDES
from mnv2zoo.errors import ArgumentError, nearest

PAD_TYPES = ("symmetric", "same")
POOLINGS = ("avg", "max", "avgmax", "catavgmax", "fast", "fastavg", "fastmax", "fastavgmax", "fastcatavgmax", "")
FEATURE_CLASSES = ("list", "dict", "hook", "fx", "getter")


def refused(name: str, value: object, expected: str, choices: tuple[str, ...] = ()) -> ArgumentError:
    """Builds the error for an argument with an invalid value.

    Args:
        name: The argument.
        value: Its value.
        expected: The valid values, closest first.
        choices: All valid values, if they are words.

    Returns:
        The error, a ValueError.
    """
    words = ", ".join(word or '""' for word in choices)
    return ArgumentError(
        f"{name} cannot be {value!r}"[:200],
        expected=expected,
        found=repr(value)[:200],
        where=name,
        fix=f"Choose from {words}." if choices else f"Pass another value for {name}.",
    )


def choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    """Checks an argument against a list of words, ignoring case.

    Args:
        name: The argument.
        value: Its value.
        choices: The valid words.

    Returns:
        The word in lower case.

    Raises:
        ArgumentError: If the value is invalid. The message suggests the closest words.
    """
    if isinstance(value, str) and value.lower() in choices:
        return value.lower()
    near = nearest(value.lower(), choices, 3) if isinstance(value, str) else "text"
    raise refused(name, value, near, choices)


def integer(name: str, value: Any, low: int) -> int:
    """Checks an argument that is an integer, from Python or NumPy.

    Args:
        name: The argument.
        value: Its value.
        low: The minimum.

    Returns:
        The number.

    Raises:
        ArgumentError: If the value is not an integer or too small.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < low:
        raise refused(name, value, f"a whole number, {low} or more")
    return number


def pad_type(value: object) -> str:
    """Checks the padding of convolutions.

    Args:
        value: `symmetric` or `same`. timm's `""` also means symmetric.

    Returns:
        `symmetric` or `same`.

    Raises:
        ArgumentError: If the value is invalid.
    """
    return "symmetric" if value == "" else choice("pad_type", value, PAD_TYPES)


def checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Checks arguments for `MobileNetV2` or `timm.create_model`.

    Args:
        values: The arguments by name. Unknown names are passed through.

    Returns:
        The same arguments, each in its standard spelling. None means the default.

    Raises:
        ArgumentError: If an argument has an invalid value; a ValueError. The message suggests the closest ones.

    Examples:
        >>> from mnv2zoo.models import arguments
        >>> arguments.checked({"pad_type": "", "num_classes": 5})
        {'pad_type': 'symmetric', 'num_classes': 5}
        >>> arguments.checked({"pad_type": "smae"})
        Traceback (most recent call last):
        mnv2zoo.errors.ArgumentError: pad_type cannot be 'smae'...
    """
    kept = {}
    for name, value in values.items():
        check = CHECKS.get(name)
        kept[name] = value if check is None or value is None else check(value)
    return kept


def _output_stride(value: Any) -> int:
    if isinstance(value, bool | float) or value not in OUTPUT_STRIDES:
        raise refused("output_stride", value, " or ".join(map(str, OUTPUT_STRIDES)))
    return int(value)


def _rate(name: str) -> Callable[[Any], float]:
    def check(value: Any) -> float:
        # NaN fails this comparison.
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
            raise refused(name, value, "a number from 0 to 1")
        return float(value)

    return check


def _act_layer(value: Any) -> Any:
    from timm.layers import get_act_layer

    from mnv2zoo.models.timm_compat import act_layer_names

    try:
        # An existing module is invalid: each layer needs its own.
        if value and (isinstance(value, str | type) or _makes_modules(value)) and get_act_layer(value) is not None:
            return value
    except KeyError:
        pass
    near = nearest(value, act_layer_names, 3) if isinstance(value, str) else "the name or class of an activation"
    raise refused("act_layer", value, near, act_layer_names)


def _norm_layer(value: Any) -> Any:
    from timm.layers import get_norm_act_layer

    from mnv2zoo.models.timm_compat import norm_layer_names

    try:
        if value and get_norm_act_layer(value) is not None:
            return value
    except (KeyError, AssertionError, AttributeError):
        pass
    near = nearest(value, norm_layer_names, 3) if isinstance(value, str) else "the name or class of a normalization"
    raise refused("norm_layer", value, near, norm_layer_names)


def _makes_modules(value: object) -> bool:
    from torch import nn

    return callable(value) and not isinstance(value, nn.Module)


def _feature_cls(value: Any) -> Any:
    if isinstance(value, str) and "hook" in value.lower():
        return value  # timm accepts all of these
    return choice("feature_cls", value, FEATURE_CLASSES) if not _makes_modules(value) else value


CHECKS: dict[str, Callable[[Any], Any]] = {
    "num_classes": lambda value: integer("num_classes", value, 0),
    "in_chans": lambda value: integer("in_chans", value, 1),
    "output_stride": _output_stride,
    "pad_type": pad_type,
    "act_layer": _act_layer,
    "norm_layer": _norm_layer,
    "bn_eps": _rate("bn_eps"),
    "bn_momentum": _rate("bn_momentum"),
    "classifier": lambda value: choice("classifier", value, CLASSIFIERS),
    "drop_rate": _rate("drop_rate"),
    "drop_path_rate": _rate("drop_path_rate"),
    "global_pool": lambda value: choice("global_pool", value, POOLINGS),
    "feature_cls": _feature_cls,
}

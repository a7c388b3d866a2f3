"""The description of a layout: a library's names for a model's tensors, and its changes of values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mnv2zoo.architecture import PAPER_STAGES, Config
from mnv2zoo.convert.layouts import native
from mnv2zoo.convert.layouts.native import Tensors


def _as_they_are(tensors: Tensors, config: Config) -> Tensors:
    return tensors


@dataclass(frozen=True)
class Layout:
    """How a library stores a model's tensors.

    Attributes:
        name: The layout's name for `to_native` and `from_native`.
        names: Function that returns the layout's key for every native key of an architecture, in execution order.
        lacks: Function that lists the properties of an architecture that the library cannot express.
        to_native: Conversion of values to the native layout. It takes and returns tensors under native names, and
            does not modify its arguments.
        from_native: Conversion of values from the native layout.
        prefix: Prefix that the keys of the full model have and those of a bare backbone lack.
        notes: What users must know about the conversion, as a sentence.
        pad_type: The padding that the library's models are trained with, as for `MobileNetV2`.
        preprocessing: Preprocessing of its models in timm's terms, if it differs from timm's default (ImageNet's
            mean and standard deviation, bicubic).
    """

    name: str
    names: Callable[[Config], dict[str, str]]
    lacks: Callable[[Config], list[str]]
    to_native: Callable[[Tensors, Config], Tensors] = _as_they_are
    from_native: Callable[[Tensors, Config], Tensors] = _as_they_are
    prefix: str = ""
    notes: str = ""
    pad_type: str = "symmetric"
    preprocessing: Mapping[str, Any] = field(default_factory=dict)


def by_module(modules: Callable[[Config], Iterable[str]]) -> Callable[[Config], dict[str, str]]:
    """Builds `names` for a layout that differs from the native one only in its module names.

    Args:
        modules: The library's module names in the order of `native.modules`.

    Returns:
        A function from an architecture to the layout's keys by native key.
    """

    def names(config: Config) -> dict[str, str]:
        renamed = dict(zip(native.modules(config), modules(config), strict=True))
        split = {key: key.rpartition(".") for key in native.shapes(config)}
        return {key: f"{renamed[module]}.{leaf}" for key, (module, _, leaf) in split.items()}

    return names


def beyond_the_paper(config: Config) -> list[str]:
    """Lists the properties of an architecture that differ from the paper's MobileNetV2.

    Args:
        config: The architecture.

    Returns:
        One phrase per property. Empty for the paper's architecture at any width and depth.
    """
    phrases = {
        "an expansion in the first bottleneck": config.expand_first,
        "biases in the stem and head": config.conv_bias,
        f"{config.activation} activations": config.activation != "relu6",
        f"a classifier of the form {config.classifier}": config.classifier != "linear",
        "a different stem or head": (config.stem, config.head) != (32, 1280),
    }
    return [phrase for phrase, present in phrases.items() if present]


def beyond_a_width(config: Config) -> list[str]:
    """Lists the properties of an architecture that a width multiplier of the paper's model cannot express.

    Args:
        config: The architecture.

    Returns:
        One phrase per property. Empty for the paper's architecture at any width.
    """
    other = ["stages other than the paper's"] * (config.stages != PAPER_STAGES)
    fixed = ["a stem and head of fixed width"] * config.fix_stem_head
    return other + fixed + beyond_the_paper(config)

"""What a layout is: another library's names for the tensors of a network, and its changes of value."""

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
    """One library's way of keeping a network's tensors.

    Attributes:
        name: What `to_native` and `from_native` call it.
        names: Its key for every native key of a network, in the order the layers run.
        lacks: What a network has that the library cannot express; nothing where it can.
        to_native: Changes of value on the way in. Takes and gives native names, and leaves its
            arguments alone.
        from_native: The same on the way out.
        prefix: What a bare backbone's keys lack of the full network's.
        notes: What someone who converts has to know, as a sentence.
        pad_type: The padding that the library's networks are trained with, as `MobileNetV2` names it.
        preprocessing: What its networks expect of images where that is not timm's default (ImageNet's
            mean and standard deviation, bicubic), as timm names it.
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
    """Makes the `names` of a layout that differs from the native one in its modules' names only.

    Args:
        modules: The library's module names in the order of `native.modules`.

    Returns:
        The function from a network to the layout's keys by native key.
    """

    def names(config: Config) -> dict[str, str]:
        renamed = dict(zip(native.modules(config), modules(config), strict=True))
        split = {key: key.rpartition(".") for key in native.shapes(config)}
        return {key: f"{renamed[module]}.{leaf}" for key, (module, _, leaf) in split.items()}

    return names


def beyond_the_paper(config: Config) -> list[str]:
    """Lists what a network has that the paper's form of MobileNetV2 has not.

    Args:
        config: The network.

    Returns:
        A phrase for each; none for the paper's own networks, whatever their width and depth.
    """
    phrases = {
        "an expansion in its first bottleneck": config.expand_first,
        "biases in stem and head": config.conv_bias,
        f"{config.activation} as activation": config.activation != "relu6",
        f"a classifier of form {config.classifier}": config.classifier != "linear",
        "a stem or head of its own": (config.stem, config.head) != (32, 1280),
    }
    return [phrase for phrase, present in phrases.items() if present]


def beyond_a_width(config: Config) -> list[str]:
    """Lists what a network has that a width multiplier of the paper's network cannot express.

    Args:
        config: The network.

    Returns:
        A phrase for each; none for the paper's own networks of any width.
    """
    other = ["stages that are not the paper's"] * (config.stages != PAPER_STAGES)
    fixed = ["a stem and head that keep their width"] * config.fix_stem_head
    return other + fixed + beyond_the_paper(config)

"""Finds the state dict of a network in what a training program saved, under the names that the network itself has.

The first convolution of the network, the stem, is looked for: the mapping that has it is the state dict, and what
comes before its name is the prefix of the network's names. So any container and any wrapper will do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from mnv2zoo import architecture
from mnv2zoo.convert.layouts import LAYOUTS, keras
from mnv2zoo.convert.layouts.native import Tensors
from mnv2zoo.errors import ConversionError

# Where checkpoint files keep the state dict, best first: averaged weights before the others, as in timm.
CHECKPOINT_KEYS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema"),
    *("state_dict", "model_state_dict", "model"),
)
# What DistributedDataParallel, torch.compile, Lightning and people put before each name, in any order.
WRAPPERS = ("_orig_mod.", "module.", "model.", "net.", "network.", "backbone.", "encoder.", "0.")
DEPTH = 4  # containers within containers; none are deeper


@dataclass(frozen=True)
class Found:
    """The state dict of a network, and where it was.

    Attributes:
        tensors: The tensors, under the names that the network itself has.
        taken: The checkpoint's entry that they are from, such as `state_dict_ema`; empty if it is the state dict.
        prefix: What came before each name, such as `module.`; empty for nothing.
        left_out: The names without that prefix, which are not the network's.
        layers_left_out: Those of them that are weights of layers, such as a head of its own.
    """

    tensors: Tensors
    taken: str = ""
    prefix: str = ""
    left_out: tuple[str, ...] = ()
    layers_left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        origin = [f"in {self.taken}"] * bool(self.taken) + [f"under {self.prefix!r}"] * bool(self.prefix)
        more = f" and {len(self.left_out) - 3} more" if len(self.left_out) > 3 else ""
        rest = [f"left out {', '.join(self.left_out[:3])}{more}"] * bool(self.left_out)
        return ", ".join([" ".join([f"took {len(self.tensors)} tensors", *origin]), *rest])


def find(checkpoint: Mapping[str, Any], whole: bool = False) -> Found:
    """Finds the state dict of a network.

    Args:
        checkpoint: A state dict, or a checkpoint that holds one. Values may be NumPy arrays. Names may have a prefix.
        whole: Take the state dict as it is, with all that it holds besides the network.

    Returns:
        The state dict, and where it was.

    Raises:
        ConversionError: If it holds anything but dense tensors with names, or more than one network.
    """
    if not isinstance(checkpoint, Mapping):
        raise _other("a mapping", checkpoint, None)
    taken, held = _held(checkpoint)
    if whole or keras.recognises(key for key in held if isinstance(key, str)):
        return Found({key: _tensor(key, value) for key, value in held.items()}, taken)
    prefix = _prefix(held)
    inside = {key: value for key, value in held.items() if isinstance(key, str) and key.startswith(prefix)}
    outside = {key: value for key, value in held.items() if key not in inside}
    if not prefix and outside:
        key = next(iter(outside))
        raise _other("a name", key, repr(key))
    tensors = {key.removeprefix(prefix): _tensor(key, value) for key, value in inside.items()}
    layers = tuple(str(key) for key, value in outside.items() if getattr(value, "ndim", 0) > 1)
    return Found(tensors, taken, prefix, tuple(map(str, outside)), layers)


def unwrap(checkpoint: Mapping[str, Any]) -> Tensors:
    """Takes the tensors of a network out of a checkpoint.

    Args:
        checkpoint: As for `find`.

    Returns:
        The tensors, under the names that the network itself has.

    Raises:
        ConversionError: As `find` does.
    """
    return find(checkpoint).tensors


def _held(checkpoint: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The state dict in a checkpoint and its place: the best one with a stem, else the best by its place's name."""

    def rank(path: tuple[str, ...]) -> tuple[int, int]:
        known = [CHECKPOINT_KEYS.index(key) for key in path if key in CHECKPOINT_KEYS]
        return min(known, default=len(CHECKPOINT_KEYS)), len(path)

    mappings = dict(_mappings(checkpoint))
    with_stem = [path for path, held in mappings.items() if any(_before_stem(key) is not None for key in held)]
    if () in with_stem:
        return "", checkpoint
    named = [path for path in mappings if path and path[-1] in CHECKPOINT_KEYS]
    path = min(with_stem or named or [()], key=rank)
    return ".".join(path), mappings[path]


def _mappings(
    held: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    yield path, held
    if len(path) < DEPTH:
        for key, value in held.items():
            if isinstance(value, Mapping) and isinstance(key, str):
                yield from _mappings(value, (*path, key))


@cache
def _stems() -> tuple[str, ...]:
    """Each layout's names of the stem's weight, the longest first."""
    stems = {
        name
        for layout in LAYOUTS.values()
        for config in architecture.CONFIGS.values()
        if layout is not keras.LAYOUT and not layout.lacks(config)
        for full in [layout.names(config)["conv_stem.weight"]]
        for name in (full, full.removeprefix(layout.prefix))
    }
    return tuple(sorted(stems, key=len, reverse=True))


def _before_stem(key: object) -> str | None:
    """What comes before the name of the stem's weight; None for the name of another tensor."""
    if not isinstance(key, str):
        return None
    return next((key.removesuffix(stem) for stem in _stems() if f".{key}".endswith(f".{stem}")), None)


def _prefix(held: Mapping[str, Any]) -> str:
    """The prefix of the network's names."""
    prefixes = sorted({prefix for key in held if (prefix := _before_stem(key)) is not None})
    averaged = [prefix for prefix in prefixes if "ema" in prefix.replace("_", ".").split(".")]
    if len(prefixes) > 1 and len(averaged) != 1:
        raise ConversionError(
            "the checkpoint holds more than one network",
            expected="the weights of one network",
            found=f"networks under {', '.join(repr(prefix) for prefix in prefixes)}",
            fix="Save the state dict of one of the networks alone.",
        )
    if prefixes:
        return (averaged if len(prefixes) > 1 else prefixes)[0]
    # No network of the zoo, and the error is to show its own names.
    common = ""
    while wrapper := next((w for w in WRAPPERS if held and all(str(key).startswith(common + w) for key in held)), ""):
        common += wrapper
    return common


def _tensor(key: object, value: Any) -> Any:
    import torch

    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        value = torch.tensor(value)
    if not isinstance(value, torch.Tensor):
        raise _other("a tensor", value, repr(key))
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        kind = "quantized" if value.is_quantized else "without values" if value.is_meta else str(value.layout)
        raise _other("a dense tensor of plain numbers", f"one that is {kind}", repr(key))
    return value.detach()


def _other(expected: str, value: object, where: str | None) -> ConversionError:
    return ConversionError(
        "a state dict holds something other than named tensors",
        expected=expected,
        found=value if isinstance(value, str) and value.startswith("one that is") else type(value).__name__,
        where=where,
        fix=f"Give the state dict, or a checkpoint that holds it as one of {', '.join(CHECKPOINT_KEYS)}.",
    )

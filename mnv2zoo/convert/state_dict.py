"""Finds a model's state dict in a checkpoint and strips prefixes from its names.

The search looks for the model's first convolution, the stem. The mapping that contains it is the state dict, and the
text before its name is the prefix of all names. Any container and any wrapper therefore work.
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

# Checkpoint keys of the state dict, best first: averaged weights before others, as in timm.
CHECKPOINT_KEYS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema"),
    *("state_dict", "model_state_dict", "model"),
)
# Prefixes that DistributedDataParallel, torch.compile, Lightning and users add to each name, in any order.
WRAPPERS = ("_orig_mod.", "module.", "model.", "net.", "network.", "backbone.", "encoder.", "0.")
DEPTH = 4  # maximum depth of nested containers


@dataclass(frozen=True)
class Found:
    """A model's state dict, and where it was found.

    Attributes:
        tensors: The tensors, by the model's own names.
        taken: The checkpoint entry that they come from, such as `state_dict_ema`. Empty if there was none.
        prefix: The prefix that was removed from each name, such as `module.`. Empty if there was none.
        left_out: Names without that prefix, which do not belong to the model.
        layers_left_out: Those of them that are weights of layers, for example of a custom head.
    """

    tensors: Tensors
    taken: str = ""
    prefix: str = ""
    left_out: tuple[str, ...] = ()
    layers_left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        origin = [f"in {self.taken}"] * bool(self.taken) + [f"with prefix {self.prefix!r}"] * bool(self.prefix)
        more = f" and {len(self.left_out) - 3} more" if len(self.left_out) > 3 else ""
        rest = [f"left out {', '.join(self.left_out[:3])}{more}"] * bool(self.left_out)
        return ", ".join([" ".join([f"took {len(self.tensors)} tensors", *origin]), *rest])


def find(checkpoint: Mapping[str, Any], whole: bool = False) -> Found:
    """Finds the state dict of a model.

    Args:
        checkpoint: A state dict or a checkpoint that contains one. Values may be NumPy arrays. Names may have a prefix.
        whole: Return the whole state dict unchanged, with everything that it contains.

    Returns:
        The state dict, and where it was found.

    Raises:
        ConversionError: If the state dict contains anything but dense, named tensors, or more than one model.
    """
    if not isinstance(checkpoint, Mapping):
        raise _other("a mapping", checkpoint, None)
    taken, held = _held(checkpoint)
    if whole or keras.recognizes(key for key in held if isinstance(key, str)):
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
    """Takes a model's tensors out of a checkpoint.

    Args:
        checkpoint: As for `find`.

    Returns:
        The tensors, by the model's own names.

    Raises:
        ConversionError: As for `find`.
    """
    return find(checkpoint).tensors


def _held(checkpoint: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Returns the path and the content of the best state dict: preferably one with a stem, then by its key."""

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
    """Lists each layout's name of the stem's weight, longest first."""
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
    """Returns the text before the name of the stem's weight, or None for any other tensor."""
    if not isinstance(key, str):
        return None
    return next((key.removesuffix(stem) for stem in _stems() if f".{key}".endswith(f".{stem}")), None)


def _prefix(held: Mapping[str, Any]) -> str:
    """Returns the prefix of the model's names."""
    prefixes = sorted({prefix for key in held if (prefix := _before_stem(key)) is not None})
    averaged = [prefix for prefix in prefixes if "ema" in prefix.replace("_", ".").split(".")]
    if len(prefixes) > 1 and len(averaged) != 1:
        raise ConversionError(
            "the checkpoint contains more than one model",
            expected="the weights of one model",
            found=f"models with the prefixes {', '.join(repr(prefix) for prefix in prefixes)}",
            fix="Save the state dict of one model only.",
        )
    if prefixes:
        return (averaged if len(prefixes) > 1 else prefixes)[0]
    # Not a model of this package. Keep its own names for the error message.
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
        raise _other("a dense tensor of plain numbers", f"a tensor that is {kind}", repr(key))
    return value.detach()


def _other(expected: str, value: object, where: str | None) -> ConversionError:
    return ConversionError(
        "the state dict contains something other than named tensors",
        expected=expected,
        found=value if isinstance(value, str) and value.startswith("a tensor that is") else type(value).__name__,
        where=where,
        fix=f"Pass a state dict, or a checkpoint that has one under {', '.join(CHECKPOINT_KEYS)}.",
    )

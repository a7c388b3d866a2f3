"""Finds the state dict in what a training program saved, under the keys that the network itself has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mnv2zoo.convert.layouts.native import Tensors
from mnv2zoo.errors import ConversionError

# Where checkpoint files keep the state dict, best first: averaged weights before the others, as in timm.
CHECKPOINT_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")
# DistributedDataParallel, torch.compile and Lightning put these before each key, in more than one order.
WRAPPERS = ("_orig_mod.", "module.", "model.", "_orig_mod.")


def place(checkpoint: Mapping[str, Any]) -> str:
    """Finds where a checkpoint keeps its state dict.

    Args:
        checkpoint: A state dict, or a checkpoint that holds one.

    Returns:
        The first of `CHECKPOINT_KEYS` that is there; nothing for a state dict.
    """
    return next((key for key in CHECKPOINT_KEYS if isinstance(checkpoint.get(key), Mapping)), "")


def unwrap(checkpoint: Mapping[str, Any]) -> Tensors:
    """Takes the tensors out of a checkpoint.

    Args:
        checkpoint: A state dict, or a checkpoint that holds one. Values may be numpy's arrays.

    Returns:
        The tensors, under keys without `WRAPPERS`.

    Raises:
        ConversionError: If it holds anything but dense tensors with names, or two of one name.
    """
    import torch

    if not isinstance(checkpoint, Mapping):
        raise _other("a mapping", checkpoint, None)
    held = place(checkpoint)
    tensors: Tensors = {}
    for key, value in (checkpoint[held] if held else checkpoint).items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            value = torch.tensor(value)
        if not (isinstance(key, str) and isinstance(value, torch.Tensor)):
            raise _other("a tensor", value, repr(key)) if isinstance(key, str) else _other("a name", key, repr(key))
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            kind = "quantized" if value.is_quantized else "without values" if value.is_meta else str(value.layout)
            raise _other("a dense tensor of plain numbers", f"one that is {kind}", repr(key))
        name = key
        for wrapper in WRAPPERS:
            name = name.removeprefix(wrapper)
        if name in tensors:
            raise ConversionError(
                "two tensors have the same name",
                expected="the weights of one network",
                found=f"{name} with and without {key.removesuffix(name)!r}, or with two such prefixes",
                where=repr(key),
                fix="Save the state dict of one of the networks alone.",
            )
        tensors[name] = value.detach()
    return tensors


def _other(expected: str, value: object, where: str | None) -> ConversionError:
    return ConversionError(
        "a state dict holds something other than named tensors",
        expected=expected,
        found=value if isinstance(value, str) and value.startswith("one that is") else type(value).__name__,
        where=where,
        fix=f"Give the state dict, or a checkpoint that holds it as one of {', '.join(CHECKPOINT_KEYS)}.",
    )

"""Batches of any structure: tensors, and dicts, lists and tuples of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Applies a function to every tensor of a structure.

    Args:
        function: The function.
        value: A tensor, or dicts, lists and tuples of tensors and anything else.

    Returns:
        The same structure with the results.
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(function, own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        mapped = [map_tensors(function, own) for own in value]
        return type(value)(*mapped) if hasattr(value, "_fields") else type(value)(mapped)
    return value


def to_device(value: Any, device: torch.device) -> Any:
    """The same structure with its tensors on a device."""
    return map_tensors(lambda tensor: tensor.to(device), value)


def to_cpu(value: Any) -> Any:
    """The same structure with its tensors on the CPU."""
    return map_tensors(lambda tensor: tensor.detach().cpu(), value)


def in_single_precision(value: Any) -> Any:
    """The same structure with its floating-point tensors in single precision."""
    return map_tensors(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor, value)


def channels_last(inputs: Any) -> Any:
    """Converts a batch of images (N, C, H, W) to channels-last memory format; other values are unchanged."""
    if isinstance(inputs, Tensor) and inputs.ndim == 4:
        return inputs.contiguous(memory_format=torch.channels_last)
    return inputs

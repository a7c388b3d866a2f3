"""Keeps convolutions in single precision whose gradients in bfloat16 are slow on CPUs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mnv2zoo.models.mobilenetv2 import Conv2dSame


class _Conv2dInSingle(nn.Conv2d):
    """Computes in single precision within autocast."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


class _Conv2dSameInSingle(_Conv2dInSingle, Conv2dSame):
    pass


IN_SINGLE: dict[type[nn.Module], type[nn.Module]] = {nn.Conv2d: _Conv2dInSingle, Conv2dSame: _Conv2dSameInSingle}


@contextlib.contextmanager
def single_where_faster(model: nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """Within the `with` statement, computes strided depthwise convolutions in single precision, in bf16 on a CPU.

    PyTorch has no fast kernel for the gradient of their input in bfloat16. It takes many times as long as in single
    precision, and a large part of a training step (benchmarks/training_step.py).

    Args:
        model: The model, which is trained in place.
        accelerator: The device and the precision.
    """
    is_slow = accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16"
    slow = {module: type(module) for module in model.modules() if is_slow and _is_strided_depthwise(module)}
    for module, kind in slow.items():
        module.__class__ = IN_SINGLE[kind]
    try:
        yield
    finally:
        for module, kind in slow.items():
            module.__class__ = kind


def _is_strided_depthwise(module: nn.Module) -> bool:
    if type(module) not in IN_SINGLE or not isinstance(module, nn.Conv2d):
        return False
    return module.groups == module.in_channels > 1 and max(module.stride) > 1

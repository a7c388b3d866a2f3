"""Loads a model by name, with its weights, labels and preprocessing.

A name is one of this package's, or a folder or Hub repository with timm's `config.json`, such as a run folder.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mnv2zoo.data import labels, preprocessing
from mnv2zoo.data.preprocessing import Fast, Whole
from mnv2zoo.data.transforms import check_channels, image_config, image_transform
from mnv2zoo.errors import DeviceError, WeightsUnavailableError, ZooError, first_line
from mnv2zoo.models.names import describe
from mnv2zoo.weights import index


@dataclass(frozen=True)
class Network:
    """A trained model with its labels and preprocessing.

    Attributes:
        name: As in `Description`.
        model: The model in evaluation mode.
        device: Its device.
        transform: Its preprocessing, from an image to a tensor (channels, height, width).
        fast: A faster equivalent of `transform`. None if only timm's transform can do it.
        label_names: Class names in class order.
        config: Its preprocessing in timm's terms: `input_size`, `mean`, `std` and so on.
        temperature: Softmax temperature of a classifier; None if it was not calibrated.
    """

    name: str
    model: torch.nn.Module
    device: torch.device
    transform: Callable[[Any], torch.Tensor]
    fast: Fast | Whole | None
    label_names: Sequence[str]
    config: Mapping[str, Any]
    temperature: float | None = None


def label_names(model: torch.nn.Module) -> tuple[str, ...]:
    """Finds the class names of a model that is already built.

    Args:
        model: The model.

    Returns:
        The names in class order. Empty if they are unknown: for a model from elsewhere, or one with a different
        number of classes than its weights.
    """
    cfg: Any = getattr(model, "pretrained_cfg", None) or {}
    names = labels.names_in(cfg)
    name = f"{cfg.get('architecture')}.{cfg.get('tag')}"
    if not names and name in index.entries():
        names = tuple(index.entry(name).label_names)
    return names if len(names) == getattr(model, "num_classes", None) else ()


def load(name: str, device: str | None = None) -> Network:
    """Builds a classifier with its weights.

    Args:
        name: As for `describe`.
        device: The device. Default: the accelerator if there is one, otherwise the CPU.

    Returns:
        The model with its labels and preprocessing.

    Raises:
        UnknownModelError: If no model has that name.
        WeightsError: If the weights cannot be found, downloaded or verified, or have no classifier.
        ConversionError: If the weights do not fit.
        DataError: If the model takes images with more than 8 channels.
        DeviceError: If the device cannot be used.
    """
    where = find_device(device)
    description = describe(name)
    check_channels(description.in_chans, name)
    model = description.build()
    if not model.num_classes:
        raise WeightsUnavailableError(
            f"{name} has no classifier",
            expected="weights with a classifier",
            found="a backbone",
            where=name,
            fix=f"Train a classifier on your images: `mnv2zoo finetune IMAGES --model {name}`.",
        )
    data = image_config(model.pretrained_cfg, model.in_chans)
    fast = preprocessing.from_cfg(data)
    return Network(
        description.name,
        model.eval().to(where),
        where,
        image_transform(data),
        fast,
        description.label_names,
        data,
        description.temperature,
    )


def accelerator() -> torch.device | None:
    """Returns the accelerator that PyTorch can use, such as `cuda`, `mps` or `xpu`, or None."""
    if hasattr(torch, "accelerator"):
        return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return torch.device("cuda") if torch.cuda.is_available() else None  # PyTorch before 2.6


def device_names() -> list[str]:
    """Lists the devices of this machine: `cpu` and each accelerator."""
    kind = accelerator()
    if kind is None:
        return ["cpu"]
    return ["cpu", *(f"{kind.type}:{number}" for number in range(torch.get_device_module(kind).device_count()))]


# PyTorch's errors when a device runs out of memory, and the message of its CPU allocator.
_OUT_OF_MEMORY = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)
_ON_CPU = re.compile(r"DefaultCPUAllocator: (not enough|can't allocate) memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Checks whether an error means that memory ran out."""
    if isinstance(error, ZooError):  # it may quote such an error
        return False
    return isinstance(error, _OUT_OF_MEMORY | MemoryError) or bool(_ON_CPU.search(str(error)))


@contextlib.contextmanager
def enough_memory(device: torch.device, images: int) -> Iterator[None]:
    """Explains the error when a batch does not fit in memory.

    Args:
        device: The device.
        images: Number of images in the batch.

    Raises:
        DeviceError: If memory runs out. The message suggests a smaller batch.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        smaller = f"Pass --batch-size {images // 2}" if images > 1 else "Choose a smaller model"
        raise DeviceError(
            "out of memory",
            expected=f"memory for a batch of {images} images",
            found=first_line(error),
            where=device,
            fix=f"{smaller}, or another --device.",
        ) from error


def find_device(name: str | None) -> torch.device:
    """Finds a device and checks that it works.

    Args:
        name: Such as `cpu` or `cuda:1`. Default: the accelerator if there is one, otherwise the CPU.

    Returns:
        The device.

    Raises:
        DeviceError: If the device cannot be used.
    """
    if name is None:
        return accelerator() or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except Exception as error:  # of many classes: unknown type, not compiled in, no driver, no such number
        raise DeviceError(
            f"cannot use the device {name!r}",
            expected=" or ".join(device_names()),
            found=first_line(error),
            where="device",
            fix="Choose another --device, or leave it out.",
        ) from error
    return device

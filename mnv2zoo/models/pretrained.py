"""The network that a user names, with all that belongs to its weights.

A name is one of the zoo's, or a folder or Hub repository with timm's `config.json`, such as a run folder.
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
    """A trained network with what belongs to its weights.

    Attributes:
        name: As in `Description`.
        model: The network in evaluation mode.
        device: Where it is.
        transform: Its preprocessing, from an image to a tensor (channels, height, width).
        fast: The same for less work; None where only timm's own will do.
        label_names: Names of its classes in class order.
        config: Its preprocessing as timm names it: `input_size`, `mean`, `std` and so on.
        temperature: Number that divides a classifier's logits before the softmax; None for none.
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
    """Finds the names of a built network's classes.

    Args:
        model: The network.

    Returns:
        The names in class order; none where they are not known: for a network that is not of the zoo, or one that
        was given another number of classes than its weights have.
    """
    cfg: Any = getattr(model, "pretrained_cfg", None) or {}
    names = labels.names_in(cfg)
    name = f"{cfg.get('architecture')}.{cfg.get('tag')}"
    if not names and name in index.entries():
        names = tuple(index.entry(name).label_names)
    return names if len(names) == getattr(model, "num_classes", None) else ()


def load(name: str, device: str | None = None) -> Network:
    """Builds a network with its weights, to classify images.

    Args:
        name: As in `describe`.
        device: Where to put it; by default the accelerator if there is one.

    Returns:
        The network.

    Raises:
        UnknownModelError: If there is none of that name.
        WeightsError: If its weights cannot be found, fetched or verified.
        ConversionError: If they do not fit.
        DataError: If it takes images with more than 8 channels.
        DeviceError: If the device cannot be used.
    """
    where = find_device(device)
    description = describe(name)
    check_channels(description.in_chans, name)
    model = description.build()
    if not model.num_classes:
        raise WeightsUnavailableError(
            "the network has no classifier",
            expected="weights with one",
            found="a backbone",
            where=name,
            fix=f"Train one on your photos: `mnv2zoo finetune PHOTOS --model {name}`.",
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
    """The kind of accelerator that PyTorch can use here, such as `cuda`, `mps` or `xpu`; None for none."""
    if hasattr(torch, "accelerator"):
        return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return torch.device("cuda") if torch.cuda.is_available() else None  # PyTorch before 2.6


def device_names() -> list[str]:
    """Names of the devices of this machine: `cpu`, and those of the accelerator."""
    kind = accelerator()
    if kind is None:
        return ["cpu"]
    return ["cpu", *(f"{kind.type}:{number}" for number in range(torch.get_device_module(kind).device_count()))]


# What PyTorch raises on a device that ran out of memory, and what its allocator on the CPU says.
_OUT_OF_MEMORY = getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)
_ON_CPU = re.compile(r"DefaultCPUAllocator: (not enough|can't allocate) memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice."""
    if isinstance(error, ZooError):  # which quotes what it explains
        return False
    return isinstance(error, _OUT_OF_MEMORY | MemoryError) or bool(_ON_CPU.search(str(error)))


@contextlib.contextmanager
def enough_memory(device: torch.device, images: int) -> Iterator[None]:
    """Explains the error of a batch that does not fit in memory.

    Args:
        device: The device.
        images: Images of the batch.

    Raises:
        DeviceError: If memory does not suffice; the message names a smaller batch.
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
    """Finds a device that works.

    Args:
        name: Such as `cpu` or `cuda:1`; by default the accelerator if there is one, else the CPU.

    Returns:
        The device.

    Raises:
        DeviceError: If it cannot be used.
    """
    if name is None:
        return accelerator() or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except Exception as error:  # of many classes: no such type, not built in, no driver, no such number
        raise DeviceError(
            f"Cannot use the device {name!r}",
            expected=" or ".join(device_names()),
            found=first_line(error),
            where="device",
            fix="Choose another --device, or leave it out.",
        ) from error
    return device

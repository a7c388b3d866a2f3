"""The network that a user names, with all that belongs to its weights.

A name is one of the zoo's, or a folder or Hub repository with timm's `config.json`, such as a run folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from mnv2zoo.data import decode, labels, preprocessing
from mnv2zoo.data.preprocessing import Fast
from mnv2zoo.errors import DataError, DeviceError, WeightsUnavailableError
from mnv2zoo.models.names import describe
from mnv2zoo.weights import index


@dataclass(frozen=True)
class Network:
    """A classifier with what belongs to its weights.

    Attributes:
        name: As in `Description`.
        model: The network in evaluation mode.
        device: Where it is.
        transform: Its preprocessing, from an RGB image to a tensor (3, height, width).
        fast: The same for less work; None where only timm's own will do.
        label_names: Names of its classes in class order.
    """

    name: str
    model: torch.nn.Module
    device: torch.device
    transform: Callable[[Image.Image], torch.Tensor]
    fast: Fast | None
    label_names: Sequence[str]


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
        device: Where to put it; by default the first GPU if there is one.

    Returns:
        The network.

    Raises:
        UnknownModelError: If there is none of that name.
        WeightsError: If its weights cannot be found, fetched or verified.
        ConversionError: If they do not fit.
        DataError: If it takes images that are neither gray nor RGB.
        DeviceError: If the device cannot be used.
    """
    where = find_device(device)
    description = describe(name)
    _check_channels(description.in_chans, name)
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
        description.name, model.eval().to(where), where, image_transform(data), fast, description.label_names
    )


def _check_channels(channels: int, name: str | None = None) -> None:
    if channels not in (1, 3):
        raise DataError(
            f"the network takes images with {channels} channels, which photos do not have",
            expected="a network for 1 channel (gray) or 3 (RGB)",
            found=f"in_chans={channels}",
            where=name,
            fix="Build it with timm.create_model(..., pretrained=True), and call it with your own tensors.",
        )


def image_config(cfg: Mapping[str, Any], in_chans: int | None = None, test: bool = True) -> dict[str, Any]:
    """Finds the preprocessing of images for a network.

    Args:
        cfg: timm's description of its weights.
        in_chans: Channels of the images that the network takes; those of its weights if None.
        test: At the size for evaluation instead of that for training.

    Returns:
        `input_size`, `mean`, `std`, `interpolation`, `crop_pct` and `crop_mode`, as timm names them. Mean and
        standard deviation have one number per channel; see `preprocessing.per_channel`.
    """
    data: dict[str, Any] = resolve_data_config(pretrained_cfg=cfg, use_test_size=test)
    channels = in_chans or data["input_size"][0]
    fitted = {key: preprocessing.per_channel(data[key], channels) for key in ("mean", "std")}
    return {**data, **fitted, "input_size": (channels, *data["input_size"][1:])}


def image_transform(data: Mapping[str, Any], **options: Any) -> Callable[[Image.Image], torch.Tensor]:
    """Makes timm's transform for a network, also for one that takes gray images.

    Args:
        data: The preprocessing, as `image_config` gives it.
        **options: Further arguments of `timm.data.create_transform`, which come before the preprocessing.

    Returns:
        A function from an RGB image to a tensor (channels, height, width).

    Raises:
        DataError: If the network takes images that are neither gray nor RGB.
    """
    channels, *size = data["input_size"]
    _check_channels(channels)
    colors = {key: preprocessing.per_channel(data[key], 3) for key in ("mean", "std")} if channels == 1 else {}
    own = {**data, **colors, "input_size": (3, *size)} if channels == 1 else data
    made = create_transform(**{**own, **options})
    return Gray(made) if channels == 1 else made


@dataclass(frozen=True)
class Gray:
    """A transform for networks that take one channel: the luminance.

    Attributes:
        transform: The same transform for RGB images, with equal values for the three channels.
    """

    transform: Callable[[Image.Image], torch.Tensor]

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Transforms an image of any mode to a tensor (1, height, width)."""
        return self.transform(decode.to_rgb(image).convert("L").convert("RGB"))[:1]


def find_device(name: str | None) -> torch.device:
    """Finds a device that works.

    Args:
        name: Such as `cpu` or `cuda:1`; by default the first GPU if there is one, else the CPU.

    Returns:
        The device.

    Raises:
        DeviceError: If it cannot be used.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except Exception as error:  # of many classes: no such type, not built in, no driver, no such number
        raise DeviceError(f"Cannot use the device {name!r}", found=str(error).splitlines()[0]) from error
    return device

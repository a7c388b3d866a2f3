"""The network that a user names, with all that belongs to its weights.

A name is one of the zoo's, or a folder or Hub repository with timm's `config.json`, such as a run folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import load_model_config_from_hf
from timm.models._hub import load_model_config_from_path, save_config_for_hf

from mnv2zoo import architecture, preprocessing, registry
from mnv2zoo.architecture import Config
from mnv2zoo.errors import DeviceError, WeightsUnavailableError
from mnv2zoo.model import MobileNetV2
from mnv2zoo.preprocessing import Fast
from mnv2zoo.weights import index


@dataclass(frozen=True)
class Description:
    """What a network is, before it is built.

    Attributes:
        name: The weights' name in the index; where they are in none, what was asked for.
        config: Its architecture.
        cfg: timm's description of its weights and their preprocessing.
        arguments: Arguments that it is built with, such as `pad_type`.
        label_names: Names of its weights' classes in class order.
    """

    name: str
    config: Config
    cfg: dict[str, Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    label_names: Sequence[str] = ()

    def build(self, pretrained: bool = True, **arguments: Any) -> Any:
        """Builds the network.

        Args:
            pretrained: With its weights, not random ones.
            **arguments: Arguments of `timm.create_model` that come before its own.

        Returns:
            The network, in training mode as timm leaves it.

        Raises:
            WeightsError: If its weights cannot be found, fetched or verified.
            ConversionError: If they do not fit.
        """
        own = {name: value for name, value in self.arguments.items() if name != "pretrained_cfg"}
        return timm.create_model(
            self.config.name, pretrained=pretrained, pretrained_cfg=self.cfg, **{**own, **arguments}
        )


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


def describe(name: str) -> Description:
    """Finds out what a network is.

    Args:
        name: An architecture, `architecture.tag`, a folder with timm's `config.json` and
            `model.safetensors`, or such a repository as `hf-hub:owner/name`.

    Returns:
        Its description.

    Raises:
        UnknownModelError: If there is none of that name.
        WeightsUnavailableError: If its `config.json` cannot be read.
    """
    source, _, place = name.partition(":")
    if source in ("hf-hub", "local-dir"):
        return _from_config_file(name, source, place)
    if name.partition(".")[0] not in architecture.CONFIGS and Path(name).is_dir():
        return _from_config_file(name, "local-dir", name)
    config = architecture.get(name)
    if "." not in name and not index.entries_of(config.name):
        return Description(name, config, registry.pretrained_cfg(config).to_dict())
    entry = index.entry(name)
    return Description(
        entry.name, config, registry.pretrained_cfg(config, entry).to_dict(), label_names=entry.label_names
    )


def _from_config_file(name: str, source: str, place: str) -> Description:
    try:
        read = load_model_config_from_hf if source == "hf-hub" else load_model_config_from_path
        cfg, architecture_name, arguments = read(place)
    except Exception as error:  # the client's errors, and whatever a broken file causes
        raise WeightsUnavailableError(
            "cannot tell what the model is",
            expected="a config.json as timm writes it",
            found=f"{type(error).__name__}: {error}",
            where=name,
        ) from error
    config = architecture.get(architecture_name)  # nothing here would verify the weights of others
    count = cfg.get("num_classes") or config.num_classes
    descriptions = cfg.get("label_descriptions") or {}
    label_names = cfg.get("label_names") or [str(index) for index in range(count)]
    return Description(
        name, config, cfg, dict(arguments or {}), [descriptions.get(label, label) for label in label_names]
    )


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
        DeviceError: If the device cannot be used.
    """
    where = find_device(device)
    description = describe(name)
    model = description.build()
    if not model.num_classes:
        raise WeightsUnavailableError(
            "the network has no classifier",
            expected="weights with one",
            found="a backbone",
            where=name,
            fix=f"Train one on your photos: `mnv2zoo finetune PHOTOS --model {name}`.",
        )
    data = resolve_data_config(pretrained_cfg=model.pretrained_cfg, use_test_size=True)
    fast = preprocessing.from_cfg(data)
    return Network(
        description.name, model.eval().to(where), where, create_transform(**data), fast, description.label_names
    )


def files(model: MobileNetV2, data_config: Mapping[str, Any], label_names: Sequence[str] = ()) -> dict[str, bytes]:
    """Makes the files of a folder that `describe` and timm's `local-dir:` read.

    Args:
        model: A network as timm builds it.
        data_config: Its preprocessing as timm names it: `input_size`, `mean`, `std` and so on.
        label_names: Names of its classes in class order, if they are known.

    Returns:
        The content of `model.safetensors`, `config.json` and, with names, `labels.txt`, by these names.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    # What the weights' origin says of its licence, labels and tag is not said of these.
    cfg: dict[str, Any] = dict.fromkeys(("tag", "license", "origin_url", "description"), "")
    cfg |= {"num_classes": model.num_classes, "label_names": list(label_names) or None, "label_descriptions": None}
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch) / "config.json"
        save_config_for_hf(model, str(config), model_config={"pretrained_cfg": cfg}, data_config=dict(data_config))
        made = {
            "model.safetensors": safetensors.torch.save(tensors, {"format": "pt"}),
            "config.json": config.read_bytes(),
        }
    if label_names:
        made["labels.txt"] = "".join(f"{name}\n" for name in label_names).encode()
    return made


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

"""The network that `--model` names, ready for images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2zoo import architecture
from mnv2zoo.cli import errors
from mnv2zoo.errors import WeightsUnavailableError

if TYPE_CHECKING:
    import torch
    from PIL import Image


@dataclass(frozen=True)
class Network:
    """A classifier with what belongs to its weights.

    Attributes:
        name: The weights' name in the index; where they are in none, what was asked for.
        model: The network in evaluation mode.
        device: Where it is.
        transform: Its preprocessing, from an RGB image to a tensor (3, height, width).
        label_names: Names of its classes in class order.
    """

    name: str
    model: torch.nn.Module
    device: torch.device
    transform: Callable[[Image.Image], torch.Tensor]
    label_names: Sequence[str]


def load(name: str, device: str | None = None) -> Network:
    """Builds a network with its weights.

    Args:
        name: An architecture, `architecture.tag`, a folder with timm's `config.json` and
            `model.safetensors`, or such a repository as `hf-hub:owner/name`.
        device: Where to put it; by default the first GPU if there is one.

    Returns:
        The network.

    Raises:
        UnknownModelError: If there is none of that name.
        WeightsError: If its weights cannot be found, fetched or verified.
        ConversionError: If they do not fit.
        UsageError: If the device cannot be used.
    """
    where = _device(device)
    source, _, place = name.partition(":")
    if source in ("hf-hub", "local-dir"):
        return _from_source(name, source, place, where)
    if name.partition(".")[0] not in architecture.CONFIGS and Path(name).is_dir():
        return _from_source(name, "local-dir", name, where)
    return _from_zoo(name, where)


def _from_zoo(name: str, device: torch.device) -> Network:
    import timm

    from mnv2zoo import info, weights

    transform = info.transforms(name)  # comes first because it tells best that there is no such name
    model = timm.create_model(name, pretrained=True)
    entry = weights.entry(name)
    return Network(entry.name, model.eval().to(device), device, transform, entry.label_names)


def _from_source(name: str, source: str, place: str, device: torch.device) -> Network:
    """A network whose `config.json`, in a folder or on the Hub, tells what it is."""
    import timm
    from timm.data import create_transform, resolve_data_config
    from timm.models import load_model_config_from_hf
    from timm.models._hub import load_model_config_from_path

    from mnv2zoo import registry  # noqa: F401  # timm has to know our architectures

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
    architecture.get(architecture_name)  # nothing here would verify the weights of others
    model: Any = timm.create_model(architecture_name, pretrained=True, pretrained_cfg=cfg, **(arguments or {}))
    transform = create_transform(**resolve_data_config(pretrained_cfg=model.pretrained_cfg, use_test_size=True))
    descriptions = cfg.get("label_descriptions") or {}
    label_names = cfg.get("label_names") or [str(index) for index in range(model.num_classes)]
    label_names = [descriptions.get(label, label) for label in label_names]
    return Network(name, model.eval().to(device), device, transform, label_names)


def _device(name: str | None) -> torch.device:
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except Exception as error:  # of many classes: no such type, not built in, no driver, no such number
        raise errors.UsageError(f"Cannot use the device {name!r}: {str(error).splitlines()[0]}") from error
    return device

"""The network that a user names, with all that belongs to its weights.

A name is one of the zoo's, or a folder or Hub repository with timm's `config.json`, such as a run folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.layers import get_act_layer, get_norm_layer
from timm.models import PretrainedCfg

from mnv2zoo import architecture, labels, preprocessing, registry
from mnv2zoo.architecture import Config
from mnv2zoo.errors import DeviceError, UnknownModelError, WeightsUnavailableError
from mnv2zoo.model import MobileNetV2
from mnv2zoo.preprocessing import Fast
from mnv2zoo.timm_private import load_model_config_from_path, save_config_for_hf
from mnv2zoo.weights import index
from mnv2zoo.weights.hub import Hub, HubFile


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
    if source == "hf-hub":
        file = HubFile.of_hub_id(place, filename="config.json")
        folder = Hub().download(file, file.revision).parent
    else:
        folder = Path(place)
    try:
        size = (folder / "config.json").stat().st_size
        if size > index.MAX_BYTES:
            raise ValueError(f"{size} bytes, where {index.MAX_BYTES} are the most")
        cfg, architecture_name, arguments = load_model_config_from_path(folder)
        config = architecture.get(str(architecture_name))  # nothing here would verify the weights of others
        _check_config_file(cfg, arguments)
        # What is null has timm's default, but for the classes: of how many the weights are must be one number.
        cfg, arguments = ({k: v for k, v in values.items() if v is not None} for values in (cfg, arguments))
        classes = cfg.setdefault("num_classes", arguments.get("num_classes", config.num_classes))
        if arguments.get("num_classes", classes) != classes:
            raise ValueError(f"model_args with num_classes = {arguments['num_classes']} for weights with {classes}")
        label_names = _label_names(cfg, classes)
    except UnknownModelError:
        raise
    except Exception as error:  # whatever a broken file causes
        raise WeightsUnavailableError(
            "cannot tell what the model is",
            expected="a config.json as timm writes it",
            found=f"{type(error).__name__}: {error}"[:400],
            where=name,
        ) from error
    # Where its weights are is not for the file to say.
    cfg |= {"url": None, "state_dict": None, "hf_hub_id": None, "custom_load": False}
    if source == "hf-hub":
        cfg |= {"file": None, "source": "hf-hub", "hf_hub_id": place}
    return Description(name, config, cfg, arguments, label_names)


def _number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high  # no NaN is


def _integer(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and _number(value, low, high)


def _size(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(_integer(side, 1, MAX_SIDE) for side in value)


def _numbers(value: object, low: float) -> bool:
    return isinstance(value, list | tuple) and 0 < len(value) <= MAX_SIDE and all(_number(v, low, 1e6) for v in value)


def _texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)


# What a config.json may say, so that nothing is built, allocated or asked for by the word of a stranger.
MAX_SIDE = 4096
CFG_RULES: dict[str, Callable[[Any], bool]] = {
    "architecture": lambda value: isinstance(value, str),
    "tag": lambda value: isinstance(value, str),
    "input_size": _size,
    "test_input_size": _size,
    "min_input_size": _size,
    "fixed_input_size": lambda value: value is False,  # the network takes images of any size
    "crop_pct": lambda value: _number(value, 0.01, 10),
    "test_crop_pct": lambda value: _number(value, 0.01, 10),
    "crop_mode": lambda value: value in ("center", "squash", "border"),
    "interpolation": lambda value: value in index.INTERPOLATIONS,
    "mean": lambda value: _numbers(value, -1e6),
    "std": lambda value: _numbers(value, 1e-9),
    "num_classes": lambda value: _integer(value, 0, 10**6),
    "label_offset": lambda value: _integer(value, 0, 1000),
    "label_names": _texts,
    "label_descriptions": lambda value: isinstance(value, dict) and _texts([*value, *value.values()]),
    "hf_hub_filename": lambda value: not [*index.location_is_one_file("", {"repo_id": "a/b", "filename": value})],
}
ARGUMENT_RULES: dict[str, Callable[[Any], bool]] = {
    "num_classes": lambda value: _integer(value, 0, 10**6),
    "in_chans": lambda value: _integer(value, 1, MAX_SIDE),
    "output_stride": lambda value: value in (8, 16, 32),
    "pad_type": lambda value: value in ("", "same"),
    "bn_eps": lambda value: _number(value, 0, 1),
    "bn_momentum": lambda value: _number(value, 0, 1),
    "classifier": lambda value: value in architecture.CLASSIFIERS,
    "drop_rate": lambda value: _number(value, 0, 1),
    "drop_path_rate": lambda value: _number(value, 0, 1),
    "global_pool": lambda value: value in ("avg", "max", "avgmax", "catavgmax", ""),
    "act_layer": lambda value: isinstance(value, str) and get_act_layer(value) is not None,
    "norm_layer": lambda value: isinstance(value, str) and get_norm_layer(value) is not None,
}


def _check_config_file(cfg: dict[str, Any], arguments: dict[str, Any]) -> None:
    known = {field.name: CFG_RULES.get(field.name, lambda value: True) for field in fields(PretrainedCfg)}
    for what, values, rules in (("pretrained_cfg", cfg, known), ("model_args", arguments, ARGUMENT_RULES)):
        for name, value in values.items():
            if name not in rules or (value is not None and not rules[name](value)):
                raise ValueError(f"{what} with {name} = {value!r}"[:200])


def _label_names(cfg: dict[str, Any], count: int) -> list[str]:
    names = list(labels.names_in(cfg)) or [str(index) for index in range(count)]
    if len(names) != count:
        raise ValueError(f"{len(names)} label_names for {count} classes")
    return names


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

"""The network that a user names, with all that belongs to its weights.

A name is one of the zoo's, or a folder or Hub repository with timm's `config.json`, such as a run folder.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import PretrainedCfg

from mnv2zoo import architecture, arguments, labels, preprocessing, registry
from mnv2zoo.architecture import Config
from mnv2zoo.data import decode
from mnv2zoo.errors import ArgumentError, DataError, DeviceError, UnknownModelError, WeightsUnavailableError
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

    @property
    def in_chans(self) -> int:
        """Channels of the images that it takes."""
        return self.arguments.get("in_chans") or self.cfg.get("input_size", (3,))[0]

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
        _check_origin(json.loads((folder / "config.json").read_text(encoding="utf-8")), name, place, source, folder)
        cfg, architecture_name, built_with = load_model_config_from_path(folder)
        config = architecture.get(architecture_name)  # nothing here would verify the weights of others
        _check_config_file(cfg, built_with)
        built_with = arguments.checked(built_with)
        # What is null has timm's default, but for the classes: of how many the weights are must be one number.
        cfg, built_with = ({k: v for k, v in values.items() if v is not None} for values in (cfg, built_with))
        classes = cfg.setdefault("num_classes", built_with.get("num_classes", config.num_classes))
        if built_with.get("num_classes", classes) != classes:
            raise ValueError(f"model_args with num_classes = {built_with['num_classes']} for weights with {classes}")
        label_names = _label_names(cfg, classes)
    except (UnknownModelError, WeightsUnavailableError):
        raise
    except Exception as error:  # whatever a broken file causes
        raise WeightsUnavailableError(
            "cannot tell what the model is",
            expected="a config.json as timm writes it",
            found=f"{type(error).__name__}: {error}"[:400],
            where=name,
            fix="Restore the config.json, or name another network.",
        ) from error
    # Where its weights are is not for the file to say.
    cfg |= {"url": None, "state_dict": None, "hf_hub_id": None, "custom_load": False}
    if source == "hf-hub":
        cfg |= {"file": None, "source": "hf-hub", "hf_hub_id": place}
    return Description(name, config, cfg, built_with, label_names)


def _number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high  # no NaN is


def _integer(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and _number(value, low, high)


def _size(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(_integer(side, 1, MAX_SIDE) for side in value)


def _numbers(value: object, low: float) -> bool:
    return isinstance(value, list | tuple) and 0 < len(value) <= MAX_SIDE and all(_number(v, low, 1e6) for v in value)


def check_labels(names: Sequence[str], where: object = None) -> None:
    """Refuses names of classes that `labels.txt`, with its one name per line, could not hold.

    Args:
        names: The names.
        where: Where they come from, for the error.

    Raises:
        DataError: If one has a line end in it.
    """
    for number, name in enumerate(names):
        if not _one_line(name):
            raise DataError(
                f"the name of class {number} has a line end in it",
                expected="names of one line",
                found=repr(name),
                where=where,
                fix="Rename the class.",
            )


def _one_line(name: str) -> bool:
    return len(f"{name}.".splitlines()) == 1  # line feeds, and all else that ends a line when a text is split


def _texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)


def _check_origin(document: Any, name: str, place: str, source: str, folder: Path) -> None:
    """Refuses a `config.json` that another library wrote, or that is not built as timm's are."""
    if not isinstance(document, dict):
        raise ValueError(f"a JSON {type(document).__name__} at its top")
    for key in ("pretrained_cfg", "model_args"):
        if not isinstance(document.get(key, {}), dict):
            raise ValueError(f"{key} = {document[key]!r}"[:200])
    kind = document.get("model_type", document.get("architectures"))
    if "architecture" not in document and kind is not None:
        files = [file.name for file in folder.glob("*") if file.name in ("model.safetensors", "pytorch_model.bin")]
        file = max(files, default="model.safetensors") if source != "hf-hub" else "model.safetensors"
        fetch = f"Run `hf download {place} {file} --local-dir .`, then" if source == "hf-hub" else "Run"
        path = file if source == "hf-hub" else folder / file
        raise WeightsUnavailableError(
            f"{name} is a transformers checkpoint, which has to be converted first",
            expected="a config.json as timm writes it",
            found=f"one for model_type {kind!r}"[:200],
            where=name,
            fix=f"{fetch} `mnv2zoo weights convert {path} --out converted`, and use --model converted.",
        )
    if not isinstance(document.get("architecture"), str):
        raise ValueError(f"architecture = {document.get('architecture')!r}"[:200])


def _buildable(name: str, value: object) -> bool:
    try:
        arguments.checked({name: value})
    except ArgumentError:
        return False
    return True


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
    **{name: partial(_buildable, name) for name in arguments.CHECKS if name != "feature_cls"},
    "num_classes": lambda value: _integer(value, 0, 10**6),
    "in_chans": lambda value: _integer(value, 1, MAX_SIDE),
}


def _check_config_file(cfg: dict[str, Any], built_with: dict[str, Any]) -> None:
    known = {field.name: CFG_RULES.get(field.name, lambda value: True) for field in fields(PretrainedCfg)}
    for what, values, rules in (("pretrained_cfg", cfg, known), ("model_args", built_with, ARGUMENT_RULES)):
        for name, value in values.items():
            if name not in rules or (value is not None and not rules[name](value)):
                raise ValueError(f"{what} with {name} = {value!r}"[:200])
    # One number counts for all channels, those of the weights or those of the network.
    counts = {1, (cfg.get("input_size") or (3,))[0], built_with.get("in_chans") or 1}
    for name in ("mean", "std"):
        if cfg.get(name) and len(cfg[name]) not in counts:
            raise ValueError(f"pretrained_cfg with {len(cfg[name])} numbers as {name} for {max(counts)} channels")
    for size, crop in (("input_size", "crop_pct"), ("test_input_size", "test_crop_pct")):
        # Images are enlarged to that side before they are cropped.
        if (side := max(cfg.get(size) or (1,)) / (cfg.get(crop) or cfg.get("crop_pct") or 1)) > 2 * MAX_SIDE:
            raise ValueError(f"pretrained_cfg with {size} and {crop} for images of {side:.0f} pixels a side")


def _label_names(cfg: dict[str, Any], count: int) -> list[str]:
    names = list(labels.names_in(cfg)) or [str(index) for index in range(count)]
    if len(names) != count:
        raise ValueError(f"{len(names)} label_names for {count} classes")
    for label in names:
        if not _one_line(label):
            raise ValueError(f"label_names with a line end in {label!r}"[:200])
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


def files(model: MobileNetV2, data_config: Mapping[str, Any], label_names: Sequence[str] = ()) -> dict[str, bytes]:
    """Makes the files of a folder that `describe` and timm's `local-dir:` read.

    Args:
        model: A network as timm builds it.
        data_config: Its preprocessing as timm names it: `input_size`, `mean`, `std` and so on.
        label_names: Names of its classes in class order, if they are known.

    Returns:
        The content of `model.safetensors`, `config.json` and, with names, `labels.txt`, by these names.

    Raises:
        DataError: If the name of a class has a line end in it.
    """
    check_labels(label_names)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    # What the weights' origin says of its licence, labels and tag is not said of these.
    cfg: dict[str, Any] = dict.fromkeys(("tag", "license", "origin_url", "description"), "")
    cfg |= {"num_classes": model.num_classes, "label_names": list(label_names) or None, "label_descriptions": None}
    data_config = dict(data_config)
    for key in {"mean", "std"} & data_config.keys():
        data_config[key] = preprocessing.per_channel(data_config[key], model.in_chans)
    for key in {"input_size", "test_input_size"} & data_config.keys():
        data_config[key] = (model.in_chans, *data_config[key][1:])
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch) / "config.json"
        save_config_for_hf(model, str(config), model_config={"pretrained_cfg": cfg}, data_config=data_config)
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

"""What a config.json, as timm writes it, may say of a network and its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from timm.models import PretrainedCfg

from mnv2zoo.data import labels
from mnv2zoo.errors import ArgumentError, DataError, WeightsUnavailableError
from mnv2zoo.models import arguments
from mnv2zoo.weights import schema


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


def check_origin(document: Any, name: str, place: str, source: str, folder: Path) -> None:
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
    "interpolation": lambda value: value in schema.INTERPOLATIONS,
    "mean": lambda value: _numbers(value, -1e6),
    "std": lambda value: _numbers(value, 1e-9),
    "num_classes": lambda value: _integer(value, 0, 10**6),
    "label_offset": lambda value: _integer(value, 0, 1000),
    "label_names": _texts,
    "label_descriptions": lambda value: isinstance(value, dict) and _texts([*value, *value.values()]),
    "hf_hub_filename": lambda value: not [*schema.location_is_one_file("", {"repo_id": "a/b", "filename": value})],
}
ARGUMENT_RULES: dict[str, Callable[[Any], bool]] = {
    **{name: partial(_buildable, name) for name in arguments.CHECKS if name != "feature_cls"},
    "num_classes": lambda value: _integer(value, 0, 10**6),
    "in_chans": lambda value: _integer(value, 1, MAX_SIDE),
}


def check_config(cfg: dict[str, Any], built_with: dict[str, Any]) -> None:
    """Refuses values that a `config.json` may not hold.

    Args:
        cfg: Its `pretrained_cfg`.
        built_with: Its `model_args`.

    Raises:
        ValueError: If a value breaks a rule; the message names it.
    """
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


def check_label_names(cfg: dict[str, Any], count: int) -> list[str]:
    """Takes the names of the classes from a `config.json`.

    Args:
        cfg: Its `pretrained_cfg`.
        count: How many classes there are.

    Returns:
        The names in class order; the classes' numbers where it has no names.

    Raises:
        ValueError: If there are more or fewer names, or a name has a line end in it.
    """
    names = list(labels.names_in(cfg)) or [str(index) for index in range(count)]
    if len(names) != count:
        raise ValueError(f"{len(names)} label_names for {count} classes")
    for label in names:
        if not _one_line(label):
            raise ValueError(f"label_names with a line end in {label!r}"[:200])
    return names

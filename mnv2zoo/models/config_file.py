"""Reads and writes `config.json` files as timm and transformers do, with bounds on every value.

`portable` rewrites the content so that other libraries can open the folder. `read` checks it and returns the same
model under this package's names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnv2zoo import architecture
from mnv2zoo.data import labels
from mnv2zoo.errors import ArgumentError, DataError, UnknownModelError, WeightsUnavailableError
from mnv2zoo.models import arguments, transformers_config
from mnv2zoo.system.validation import bounded, fits, list_of, one_of
from mnv2zoo.weights import schema

# The bounds prevent untrusted files from allocating huge objects. Any field may also be null.
MAX_SIDE = 4096
CONFIG = "config.json"
_SIZE = list_of(bounded(int, 1, MAX_SIDE), 3, 3)
CFG_RULES: dict[str, Any] = {
    "architecture": str,
    "tag": str,
    "input_size": _SIZE,
    "test_input_size": _SIZE,
    "min_input_size": _SIZE,
    "fixed_input_size": bool,
    "crop_pct": bounded(float, 0.01, 10),
    "test_crop_pct": bounded(float, 0.01, 10),
    "crop_mode": one_of(("center", "squash", "border")),
    "interpolation": one_of(schema.INTERPOLATIONS),
    "mean": list_of(bounded(float, -1e6, 1e6), 1, MAX_SIDE),
    "std": list_of(bounded(float, 1e-9, 1e6), 1, MAX_SIDE),
    "num_classes": bounded(int, 0, 10**6),
    "label_offset": bounded(int, 0, 1000),
    "label_names": list[str],
    "label_descriptions": dict[str, str],
    "hf_hub_filename": schema.KINDS["filename"],
}
# timm's other fields, which do not affect what is built. Later timm versions may have more; see `_timm_knows`.
_FREE = (
    *("url", "file", "state_dict", "hf_hub_id", "source", "custom_load"),
    *("pool_size", "test_pool_size", "first_conv", "classifier"),
    *("license", "description", "origin_url", "paper_name", "paper_ids", "notes"),
)
# Other arguments have only the bounds of `mnv2zoo.models.arguments`.
ARGUMENT_RULES: dict[str, Any] = {
    **{name: Any for name in arguments.CHECKS if name != "feature_cls"},
    "num_classes": bounded(int, 0, 10**6),
    "in_chans": bounded(int, 1, MAX_SIDE),
}
THRESHOLDS = list_of(bounded(float, 0, 1), 0, 10**6)
# An entry in timm's `notes`, which timm stores and ignores. It marks folders of this package that have a timm name.
MARK = "mnv2zoo"


@dataclass(frozen=True)
class ConfigFile:
    """The checked content of a `config.json`.

    Attributes:
        architecture: Name of the architecture.
        cfg: timm's description of the weights and their preprocessing.
        arguments: Arguments that the model is built with.
        label_names: Class names in class order.
        task: The task that the model was trained for; None if the file does not record it, as timm's do not.
        head: The head of a detector or a segmenter: its `name` and arguments.
        temperature: Softmax temperature of a classifier; None if it was not calibrated.
        thresholds: Score threshold per label, for a multi-label model.
    """

    architecture: str
    cfg: dict[str, Any]
    arguments: dict[str, Any]
    label_names: list[str]
    task: str | None = None
    head: dict[str, Any] = field(default_factory=dict)
    temperature: float | None = None
    thresholds: tuple[float, ...] = ()


def portable(document: Mapping[str, Any]) -> dict[str, Any]:
    """Rewrites a `config.json` so that as many libraries as possible can open the folder.

    If timm has the model, the file uses timm's name, and plain timm can build it. As transformers requires, the class
    names are also at the top level, and their number is not among the arguments. `read` returns the same model.

    Args:
        document: The content in timm's format, under this package's or timm's name of the model.

    Returns:
        The content to write.
    """
    document = {**document, "architecture": architecture.native_name(document["architecture"])}
    cfg = document["pretrained_cfg"] = dict(document["pretrained_cfg"])
    if document.get("head"):
        return document  # no other library has these detectors and segmenters
    given = dict(document.get("model_args") or {})
    given.pop("num_classes", None)
    if given.get("pad_type") == "symmetric":
        given["pad_type"] = ""  # timm's spelling
    if given.get("norm_layer"):  # then these have no effect, and timm rejects them
        given = {key: value for key, value in given.items() if key not in ("bn_eps", "bn_momentum")}
    if not obstacle(document):
        document["architecture"] = _timm_name(document["architecture"])
        given.pop("classifier", None)
        notes = cfg.get("notes")
        cfg["notes"] = list(dict.fromkeys([*(notes if isinstance(notes, list | tuple) else ()), MARK]))
    if label_names := cfg.get("label_names"):
        document.setdefault("label_names", label_names)
    if document.get("task") == "multilabel":
        document["problem_type"] = "multi_label_classification"  # transformers: a sigmoid per label
    return document | {"model_args": given}


def obstacle(document: Mapping[str, Any]) -> str:
    """Explains why plain timm cannot build a model.

    Args:
        document: The content of its `config.json`.

    Returns:
        The reason as a clause. Empty if timm can build it.
    """
    config = architecture.get(architecture.native_name(document["architecture"]))
    classifier = (document.get("model_args") or {}).get("classifier") or config.classifier
    if document.get("head"):
        return "timm has no detectors or segmenters"
    if _timm_name(config.name) is None:
        return f"timm does not have the model {config.name}"
    if classifier != config.classifier:
        return f"timm does not support classifiers of the form {classifier!r}"
    return ""


def _timm_name(name: str) -> str | None:
    return next((theirs for theirs, ours in architecture.TIMM_NAMES.items() if ours == name), None)


def is_marked(cfg: object) -> bool:
    """Checks whether a pretrained cfg comes from a `config.json` to which `portable` gave timm's name.

    Args:
        cfg: A `pretrained_cfg` as timm passes it to model functions.
    """
    notes = cfg.get("notes") if isinstance(cfg, dict) else getattr(cfg, "notes", None)
    return isinstance(notes, list | tuple) and MARK in notes


def read(folder: Path, name: str) -> ConfigFile:
    """Reads and checks a folder's `config.json`.

    Args:
        folder: The folder.
        name: The model's name, for errors.

    Returns:
        The content. Null fields are left out and so take their defaults.

    Raises:
        UnknownModelError: If the architecture is not in the zoo.
        WeightsUnavailableError: If the file cannot be read or breaks a rule.
    """
    try:
        document = _json(folder / CONFIG)
        if transformers_config.wrote(document):
            preprocessor = folder / transformers_config.PREPROCESSOR
            found = _json(preprocessor) if preprocessor.exists() else None
            document = transformers_config.as_timm(document, found, name)
        check_parts(document)
        cfg, given = _parts(document)
        config = architecture.get(
            architecture.native_name(document["architecture"])
        )  # other weights would not be verified
        check_config(cfg, given)
        given = arguments.checked(given)
        cfg, given = ({k: v for k, v in values.items() if v is not None} for values in (cfg, given))
        # All sources must agree on the number of classes.
        classes = cfg.setdefault("num_classes", given.get("num_classes", config.num_classes))
        if given.get("num_classes", classes) != classes:
            raise ValueError(f"model_args with num_classes = {given['num_classes']} for weights with {classes}")
        task, head = document.get("task"), document.get("head") or {}
        if not isinstance(task, str | None) or not isinstance(head, dict):
            raise ValueError(f"task = {task!r} and head = {head!r}"[:200])
        temperature = document.get("temperature")
        if not fits(temperature, schema.KINDS["temperature"]):
            raise ValueError(f"temperature = {temperature!r}"[:200])
        label_names = check_label_names(cfg, classes)
        thresholds = document.get("thresholds") or []
        if not fits(thresholds, THRESHOLDS) or len(thresholds) not in (0, classes):
            raise ValueError(f"thresholds = {thresholds!r} for {classes} classes"[:200])
        own = (task, head, temperature, tuple(thresholds))
        return ConfigFile(config.name, cfg, given, label_names, *own)
    except (UnknownModelError, WeightsUnavailableError):
        raise
    except Exception as error:  # malformed files can raise anything
        raise WeightsUnavailableError(
            "cannot read the model's config.json",
            expected="a config.json as timm or transformers writes it",
            found=f"{type(error).__name__}: {error}"[:400],
            where=name,
            fix="Restore config.json, or name another model.",
        ) from error


def _json(file: Path) -> Any:
    if (size := file.stat().st_size) > schema.MAX_BYTES:
        raise ValueError(f"{size} bytes, more than the limit of {schema.MAX_BYTES}")
    return json.loads(file.read_text(encoding="utf-8"))


def further_files(folder: Path) -> tuple[str, ...]:
    """Lists the files besides `config.json` that describe a model. timm's folders have none.

    Args:
        folder: The folder of the `config.json`.

    Returns:
        The file names.
    """
    try:
        return (transformers_config.PREPROCESSOR,) * transformers_config.wrote(_json(folder / CONFIG))
    except (OSError, ValueError, RecursionError):
        return ()  # `read` reports the error


def _parts(document: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Takes `pretrained_cfg` and `model_args` from a document, as timm does."""
    if "pretrained_cfg" in document:
        cfg = dict(document["pretrained_cfg"])
        cfg |= {key: document[key] for key in ("num_classes", "label_names", "label_descriptions") if key in document}
    else:  # old files hold the cfg at the top level
        cfg = {key: value for key, value in document.items() if key not in ("architecture", "num_features")}
        if "labels" in cfg:
            cfg["label_names"] = cfg.pop("labels")
    given = dict(document.get("model_args", {})) if "pretrained_cfg" in document else {}
    if given.get("in_chans") is not None:
        cfg["input_size"] = (given["in_chans"], *cfg.get("input_size", (3, 224, 224))[1:])
        for key in ("test_input_size", "min_input_size"):
            if cfg.get(key):
                cfg[key] = (given["in_chans"], *cfg[key][1:])
    return cfg, given


def check_parts(document: Any) -> None:
    """Rejects a `config.json` whose parts have other types than timm's.

    Args:
        document: Its content.

    Raises:
        ValueError: If a part has the wrong type.
    """
    if not isinstance(document, dict):
        raise ValueError(f"a JSON {type(document).__name__} at the top level")
    for key in ("pretrained_cfg", "model_args"):
        if not isinstance(document.get(key, {}), dict):
            raise ValueError(f"{key} = {document[key]!r}"[:200])
    if not isinstance(document.get("architecture"), str):
        raise ValueError(f"architecture = {document.get('architecture')!r}"[:200])


def check_config(cfg: dict[str, Any], built_with: dict[str, Any]) -> None:
    """Rejects invalid values in a `config.json`.

    Args:
        cfg: Its `pretrained_cfg`.
        built_with: Its `model_args`.

    Raises:
        ValueError: If a value breaks a rule. The message names it.
    """
    for name, value in cfg.items():
        known = name in CFG_RULES or name in _FREE or _timm_knows(name)
        if not known or (value is not None and not fits(value, CFG_RULES.get(name, Any))) or _is_fixed(name, value):
            raise ValueError(f"pretrained_cfg with {name} = {value!r}"[:200])
    for name, value in built_with.items():
        if name not in ARGUMENT_RULES or (value is not None and not _buildable(name, value)):
            raise ValueError(f"model_args with {name} = {value!r}"[:200])
    # One number can apply to all channels, of the weights or of the model.
    counts = {1, (cfg.get("input_size") or (3,))[0], built_with.get("in_chans") or 1}
    for name in ("mean", "std"):
        if cfg.get(name) and len(cfg[name]) not in counts:
            raise ValueError(f"pretrained_cfg with {len(cfg[name])} numbers as {name} for {max(counts)} channels")
    for size, crop in (("input_size", "crop_pct"), ("test_input_size", "test_crop_pct")):
        # Images are resized to that side before they are cropped.
        if (side := max(cfg.get(size) or (1,)) / (cfg.get(crop) or cfg.get("crop_pct") or 1)) > 2 * MAX_SIDE:
            raise ValueError(f"pretrained_cfg with {size} and {crop} that resize images to {side:.0f} pixels per side")


def _timm_knows(name: str) -> bool:
    from timm.models import PretrainedCfg  # takes seconds to import

    return name in PretrainedCfg.__dataclass_fields__


def _is_fixed(name: str, value: object) -> bool:
    return name == "fixed_input_size" and value is True  # the model accepts any image size


def _buildable(name: str, value: object) -> bool:
    try:
        arguments.checked({name: value})
    except ArgumentError:
        return False
    return fits(value, ARGUMENT_RULES[name])


def check_label_names(cfg: dict[str, Any], count: int) -> list[str]:
    """Takes the class names from a `config.json`.

    Args:
        cfg: Its `pretrained_cfg`.
        count: Number of classes.

    Returns:
        The names in class order, or the class numbers if the file has no names.

    Raises:
        ValueError: If the number of names differs, or a name contains a line break.
    """
    names = list(labels.names_in(cfg)) or [str(index) for index in range(count)]
    if len(names) != count:
        raise ValueError(f"{len(names)} label_names for {count} classes")
    for label in names:
        if not _one_line(label):
            raise ValueError(f"label_names with a line break in {label!r}"[:200])
    return names


def check_labels(names: Sequence[str], where: object = None) -> None:
    """Rejects class names that do not fit on one line of `labels.txt`.

    Args:
        names: The names.
        where: Their source, for the error.

    Raises:
        DataError: If a name contains a line break.
    """
    for number, name in enumerate(names):
        if not _one_line(name):
            raise DataError(
                f"the name of class {number} contains a line break",
                expected="a class name on one line",
                found=repr(name),
                where=where,
                fix="Rename the class.",
            )


def _one_line(name: str) -> bool:
    return len(f"{name}.".splitlines()) == 1  # line feeds and all other line breaks that `splitlines` knows

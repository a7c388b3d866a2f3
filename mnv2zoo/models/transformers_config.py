"""Translates the transformers config of a MobileNetV2 to timm's terms.

transformers stores the model and the class names in `config.json`, and the preprocessing in
`preprocessor_config.json`. Both are merged into one document in timm's format, so the rules of `config_file` apply.
Missing fields take the defaults of `MobileNetV2Config` and `MobileNetV2ImageProcessor`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mnv2zoo import architecture
from mnv2zoo.architecture import PAPER_STAGES, Config
from mnv2zoo.convert.layouts.tensorflow import EPSILON
from mnv2zoo.errors import WeightsUnavailableError
from mnv2zoo.system.validation import bounded, fits

MODEL_TYPE = "mobilenet_v2"
CLASSIFIER, BACKBONE = "MobileNetV2ForImageClassification", "MobileNetV2Model"
PREPROCESSOR = "preprocessor_config.json"
# Pillow's numbers for its filters, as transformers stores them.
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
# Fields that change the model, other than its width, must have these values.
FIXED = {
    "depth_divisible_by": 8,
    "min_depth": 8,
    "expand_ratio": 6,
    "first_layer_is_expansion": True,
    "finegrained_output": True,
    "hidden_act": "relu6",
    "layer_norm_eps": EPSILON,
}
MAX_COUNT = 10**6
BACKGROUND, IMAGENET_CLASSES = "background", 1000


def wrote(document: Any) -> bool:
    """Checks whether a `config.json` is in transformers' format rather than timm's."""
    return (
        isinstance(document, dict)
        and "architecture" not in document
        and ("model_type" in document or "architectures" in document)
    )


def as_timm(document: Mapping[str, Any], preprocessor: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    """Translates transformers' config to timm's format.

    If there are 1001 classes, ImageNet's background (class 0) is dropped, as in weight conversion. Class 0 is then
    the tench, as in other libraries.

    Args:
        document: The content of `config.json`.
        preprocessor: The content of `preprocessor_config.json`; None if there is none.
        name: The model's name, for errors.

    Returns:
        A document in the format of timm's `config.json`.

    Raises:
        WeightsUnavailableError: If the model is not a MobileNetV2 classifier or backbone, or its preprocessing is
            not supported.
    """
    _check_family(document, name)
    config = _config(document, name)
    for field, value in FIXED.items():
        if document.get(field, value) != value:
            problem = f"{name} differs from this package's models in {field}"
            raise _refused(problem, name, f"{field} = {value!r}", repr(document[field]))
    channels = _count(document, "num_channels", 3, name)
    given: dict[str, Any] = {"pad_type": "same" if document.get("tf_padding", True) else "symmetric"}
    given |= {"in_chans": channels} if channels != 3 else {}
    given |= {"output_stride": document["output_stride"]} if document.get("output_stride", 32) != 32 else {}
    if preprocessor is None:
        raise WeightsUnavailableError(
            f"{name} has no preprocessing config",
            expected=f"{PREPROCESSOR} next to config.json",
            found="no such file",
            where=name,
            fix="Save the image processor to the same folder: `image_processor.save_pretrained(FOLDER)`.",
        )
    classes, label_names = _classes(document, name)
    cfg = {"num_classes": classes, **_preprocessing(preprocessor, channels, name)}
    cfg |= {"label_names": label_names} if label_names else {}
    return {"architecture": config.name, "num_classes": classes, "pretrained_cfg": cfg, "model_args": given}


def _refused(problem: str, name: str, expected: str, found: str, fix: str = "") -> WeightsUnavailableError:
    fix = fix or "Use it with transformers, or train a model from `mnv2zoo list` on your data."
    return WeightsUnavailableError(problem, expected=expected, found=found[:200], where=name, fix=fix)


def _count(document: Mapping[str, Any], field: str, default: int, name: str) -> int:
    """Reads a number and checks its bounds before it is used."""
    value = document.get(field, default)
    if not fits(value, bounded(int, 1, MAX_COUNT)):
        problem = f"invalid {field} in {name}"
        raise _refused(problem, name, f"1 to {MAX_COUNT}", repr(value), fix="Restore config.json.")
    return int(value)


def _check_family(document: Mapping[str, Any], name: str) -> None:
    kind, classes = document.get("model_type", MODEL_TYPE), document.get("architectures") or [CLASSIFIER]
    if kind != MODEL_TYPE:
        raise _refused(
            f"{name} is a transformers model of another family", name, f"model_type {MODEL_TYPE!r}", repr(kind)
        )
    if classes not in ([CLASSIFIER], [BACKBONE]):
        raise _refused(
            f"{name} is not a classifier",
            name,
            f"{CLASSIFIER} or {BACKBONE}",
            ", ".join(map(str, classes)),
            fix="Convert only its backbone: `mnv2zoo weights convert FILE --backbone`.",
        )


def _config(document: Mapping[str, Any], name: str) -> Config:
    """Returns the paper's architecture of the given width."""
    width = document.get("depth_multiplier", 1.0)
    paper = [c for c in architecture.CONFIGS.values() if c.stages == PAPER_STAGES and not c.fix_stem_head]
    found = next((config for config in paper if config.width == width), None)
    if found is None:
        widths = ", ".join(f"{config.width:g}" for config in paper)
        raise _refused(f"{name} has the width {width!r}, which is not supported", name, widths, repr(width))
    return found


def _classes(document: Mapping[str, Any], name: str) -> tuple[int, list[str]]:
    """Returns the number of classes without ImageNet's background, and their names if known."""
    if document.get("architectures") == [BACKBONE]:
        return 0, []
    by_index = document.get("id2label") or {
        str(n): f"LABEL_{n}" for n in range(_count(document, "num_labels", 2, name))
    }
    if not isinstance(by_index, dict) or set(by_index) != {str(index) for index in range(len(by_index))}:
        raise _refused(
            f"invalid class names in {name}",
            name,
            'id2label with the keys "0", "1", ...',
            repr(by_index),
            fix="Restore config.json.",
        )
    names = [by_index[str(index)] for index in range(len(by_index))]
    unnamed = names == [f"LABEL_{index}" for index in range(len(names))]
    if len(names) == IMAGENET_CLASSES + 1:
        if not unnamed and str(names[0]).lower() != BACKGROUND:
            raise _refused(
                f"{name} has 1001 classes that are not ImageNet's", name, f"{BACKGROUND!r} as class 0", repr(names[0])
            )
        names = names[1:]
    return len(names), [] if unnamed else names


def _preprocessing(stored: Mapping[str, Any], channels: int, name: str) -> dict[str, Any]:
    """Returns the preprocessing in timm's terms."""

    def refused(field: str, expected: str) -> WeightsUnavailableError:
        found = f"{field} = {stored.get(field)!r}"
        return _refused(f"{name} has unsupported preprocessing", name, f"{field} = {expected}", found)

    for step in ("do_resize", "do_rescale", "do_normalize"):
        if stored.get(step, True) is not True:
            raise refused(step, "True")
    if not math.isclose(stored.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-3):
        raise refused("rescale_factor", "1 / 255")
    if stored.get("resample", 2) not in range(len(FILTERS)):
        raise refused("resample", f"a number below {len(FILTERS)}")
    half = [0.5] * channels
    return {
        **_size(stored, channels, refused),
        "interpolation": FILTERS[stored.get("resample", 2)],
        "mean": stored.get("image_mean", half),
        "std": stored.get("image_std", half),
    }


def _size(stored: Mapping[str, Any], channels: int, refused: Any) -> dict[str, Any]:
    """Returns the input size, and how images are fitted to it."""
    size, crop = stored.get("size", {"shortest_edge": 256}), stored.get("crop_size", {"height": 224, "width": 224})
    size = {"shortest_edge": size} if isinstance(size, int) else size  # as older versions stored it
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    cropped = stored.get("do_center_crop", True) is True
    if set(size) == {"height", "width"} and (not cropped or size == crop):  # stretched to this size
        return {"input_size": [channels, size["height"], size["width"]], "crop_pct": 1.0, "crop_mode": "squash"}
    if not cropped:
        raise refused("do_center_crop", "True, or a size with one height and width")
    if set(crop) != {"height", "width"} or crop["height"] != crop["width"]:
        raise refused("crop_size", "a square")
    side, short = crop["height"], size.get("shortest_edge")
    if set(size) != {"shortest_edge"} or not isinstance(short, int) or short < side:
        raise refused("size", f"a shortest_edge of {side} or more")
    share = side / short
    while math.floor(side / share) < short:  # the formula that turns the ratio back into pixels
        share = math.nextafter(share, 0)
    return {"input_size": [channels, side, side], "crop_pct": share}

"""Builds and loads detectors, and creates their batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mnv2zoo import detection
from mnv2zoo.data import transforms
from mnv2zoo.data.datasets import Data
from mnv2zoo.data.labels import composed
from mnv2zoo.data.preprocessing import per_channel
from mnv2zoo.detection import Head
from mnv2zoo.errors import ArgumentError, RecipeError
from mnv2zoo.models import checkpoint, config_file
from mnv2zoo.models.config_file import MAX_SIDE
from mnv2zoo.models.mobilenetv2 import MobileNetV2
from mnv2zoo.models.names import Description, describe
from mnv2zoo.models.pretrained import Network
from mnv2zoo.tasks import initialization
from mnv2zoo.tasks.detect.transforms import Evaluation, whole
from mnv2zoo.tasks.initialization import Start
from mnv2zoo.tasks.recipe import Recipe
from mnv2zoo.tasks.tensors import in_single_precision

SIDE = {"ssdlite": 320, "retinanet": 480, "fasterrcnn": 480}  # by default
LONGEST = 5 / 3  # highest ratio of the long side to the short side, as in torchvision's detectors
# Prefixes of the tensors that depend on the classes in torchvision's detectors.
OF_CLASSES = (
    "head.classification_head.module_list.",
    "head.classification_head.cls_logits.",
    "roi_heads.box_predictor.",
)
FROM_RECIPE = ("stride", "fpn_channels", "anchor_size", "score_threshold", "nms_threshold", "max_detections")


def head_of(recipe: Recipe, former: Head | None = None, frozen_norm: bool = False) -> Head:
    """Creates the head that a recipe describes.

    Args:
        recipe: The recipe.
        former: The head of the initial detector, which provides values that the recipe does not set.
        frozen_norm: Whether the batch norms of the backbone under a feature pyramid are frozen.

    Returns:
        The head.

    Raises:
        RecipeError: If a value does not suit the head.
    """
    name = recipe.head or (former.name if former else "ssdlite")
    values = {key: value for key in FROM_RECIPE if (value := getattr(recipe, key)) is not None}
    if former and former.name == name:
        values = {key: value for key in FROM_RECIPE if (value := getattr(former, key)) is not None} | values
        frozen_norm = former.frozen_norm
    try:
        return Head(name, **values, frozen_norm=frozen_norm and name != "ssdlite")  # type: ignore[arg-type]
    except ArgumentError as error:
        where = "head" if error.where == "name" else str(error.where)
        raise RecipeError(
            f"the recipe field {where} has an invalid value",
            expected=error.expected,
            found=error.found,
            where=where,
            fix=f"Change {where} (--{where.replace('_', '-')} on the command line).",
        ) from error


def build(target: Description, source: Description | Path | None, recipe: Recipe, data: Data) -> Start:
    """Builds a detector with its initial weights.

    Args:
        target: The model, from `initialization.find`.
        source: The weights, from `initialization.find`. If they are a detector's, all matching tensors are loaded,
            including those of the classes if the classes are the same.
        recipe: The recipe.
        data: The images.

    Returns:
        The detector, in training mode.

    Raises:
        WeightsError: If weights cannot be found, downloaded or verified.
        ConversionError: If the weights do not match the model.
        RecipeError: If a recipe value does not suit the model.
        DataError: If a class name contains a line break.
    """
    config_file.check_labels(data.class_names, "data")
    former = source if isinstance(source, Description) and source.head else None
    head = head_of(recipe, detection.head_of(former) if former else None, frozen_norm=source is not None)
    described = source if isinstance(source, Description) else target
    preprocessing, test_preprocessing = (_preprocessing(described, head, recipe, test) for test in (False, True))
    initialization.check_growth(recipe, preprocessing["input_size"][-1])
    arguments = initialization.build_arguments(target, source, recipe, num_outputs=0)
    torch.manual_seed(recipe.seed)
    network, tensors, origin = _network(target, source, arguments, data, test_preprocessing)
    cfg: Any = network.pretrained_cfg
    network.pretrained_cfg = {**cfg, "mean": preprocessing["mean"], "std": preprocessing["std"]}
    detector = head.build(network, len(data.class_names), preprocessing["input_size"])
    if former:
        same = [*map(composed, former.label_names)] == list(data.class_names)
        tensors = _fitting(detector, tensors, same)
        detector.load_state_dict(tensors, strict=False)
    vars(detector).update(built_with=head, label_names=tuple(data.class_names))
    mark = initialization.fingerprint(tensors, target.config.name, arguments, head.to_json())
    return Start(detector, origin, preprocessing, test_preprocessing, mark)


def _network(
    target: Description,
    source: Description | Path | None,
    arguments: dict[str, Any],
    data: Data,
    preprocessing: dict[str, Any],
) -> tuple[MobileNetV2, dict[str, Tensor], str]:
    """The backbone, the initial tensors, and a description of their origin."""
    if not (isinstance(source, Description) and source.head):
        return initialization.with_weights(target, source, arguments, data.splits["train"], preprocessing)
    if source.config.name != target.config.name:
        raise RecipeError(
            f"the initial weights belong to another architecture than {target.config.name}",
            expected=f"weights of {target.config.name}",
            found=source.config.name,
            where="init",
            fix="Choose other weights with --init, or another --model.",
        )
    return source.build(pretrained=False, **arguments), checkpoint.whole_tensors(source), source.name


def _fitting(detector: nn.Module, tensors: Mapping[str, Tensor], same_classes: bool) -> dict[str, Tensor]:
    """The tensors of another detector that match this one."""
    own = detector.state_dict()
    return {
        name: tensor
        for name, tensor in tensors.items()
        if name in own and tensor.shape == own[name].shape and (same_classes or not name.startswith(OF_CLASSES))
    }


def _preprocessing(described: Description, head: Head, recipe: Recipe, test: bool) -> dict[str, Any]:
    """The preprocessing, with timm's names.

    The last number of `input_size` is the recipe's input size: the side of SSD's square, or the short side of images
    that keep their aspect ratio. Their long side is at most the other number.
    """
    data = transforms.image_config(described.cfg, 3, test=test and recipe.input_size is None)
    colors = {key: per_channel(getattr(recipe, key) or data[key], 3) for key in ("mean", "std")}
    side: Any = (recipe.test_input_size if test else None) or recipe.input_size  # one number, as the task checks
    if side is None and described.head and detection.head_of(described).keeps_ratio == head.keeps_ratio:
        side = data["input_size"][-1]
    side = side or SIDE[head.name]
    long = min(round(LONGEST * side), MAX_SIDE) if head.keeps_ratio else side
    return {
        "input_size": (3, long, side),
        **colors,
        "interpolation": recipe.interpolation or "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "border" if head.keeps_ratio else "squash",
    }


def load(name: str, device: str | None = None) -> Network:
    """Loads a detector for evaluation and prediction; see `detection.load`."""
    detector: Any = detection.load(name, device)
    description = describe(name)
    data = transforms.image_config(description.cfg, 3) | {"input_size": detection.input_size(description)}
    how = whole(data)
    device_of = next(detector.parameters()).device
    transform = _ImageAlone(Evaluation(how))
    return Network(description.name, detector, device_of, transform, how, detector.label_names, data)


class _ImageAlone:
    """A transform of images alone, without objects."""

    def __init__(self, transform: Evaluation) -> None:
        self.transform = transform

    def __call__(self, image: Any) -> Tensor:
        return self.transform(image)[0]


def collate(batch: Sequence[tuple[Tensor, dict[str, Tensor]]]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Combines samples into a list of images, whose sizes may differ, and a list of targets."""
    images, targets = zip(*batch, strict=True)
    return list(images), list(targets)


def shrink(
    images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]], side: int, full: int
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Resizes images and boxes by `side / full`.

    Args:
        images: Images (3, height, width).
        targets: Targets with `boxes`; other entries are not changed.
        side: The new side.
        full: The current side.

    Returns:
        The resized images and targets.
    """
    small, scaled = [], []
    for image, target in zip(images, targets, strict=True):
        size = [max(round(length * side / full), 1) for length in image.shape[1:]]
        resized = nn.functional.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
        height, width = (new / old for new, old in zip(size, image.shape[1:], strict=True))
        small.append(resized)
        scaled.append({**target, "boxes": target["boxes"] * target["boxes"].new_tensor([width, height] * 2)})
    return small, scaled


def predict_in_single_precision(detector: Any) -> None:
    """Converts the outputs of a detector's head to single precision, whatever autocast uses.

    torchvision decodes boxes in the precision of these outputs. Between 256 and 512 pixels, adjacent bfloat16 numbers
    are two pixels apart.

    Args:
        detector: The detector. It is changed in place.
    """
    two_stages = hasattr(detector, "roi_heads")
    heads = [detector.rpn.head, detector.roi_heads.box_predictor] if two_stages else [detector.head]
    for head in heads:
        head.register_forward_hook(_in_single_precision)


def _in_single_precision(head: nn.Module, inputs: Any, outputs: Any) -> Any:
    return in_single_precision(outputs)


def network_of(detector: Any) -> MobileNetV2:
    """The backbone model of a detector."""
    network: MobileNetV2 = detector.network
    return network

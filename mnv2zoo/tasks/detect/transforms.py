"""Transforms of images and boxes for detectors, with torchvision's v2 transforms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from mnv2zoo.data.preprocessing import Whole
from mnv2zoo.tasks.detect.objects import Objects
from mnv2zoo.tasks.recipe import Recipe

# Minimum visible fraction of an object after a crop. With less, it is removed, because it resembles the background.
MIN_VISIBLE = 0.25

Target = dict[str, Tensor]


def whole(preprocessing: Mapping[str, Any]) -> Whole:
    """The resizing of whole images for a preprocessing.

    Args:
        preprocessing: timm's `input_size`, `interpolation` and `crop_mode`: `squash` resizes to exactly that size,
            `border` preserves the aspect ratio.

    Returns:
        The resizing. Colors are from 0 to 1, because detectors normalize images themselves.
    """
    _, height, width = preprocessing["input_size"]
    keep_ratio = preprocessing["crop_mode"] == "border"
    return Whole(height, width, (0.0,) * 3, (1.0,) * 3, preprocessing["interpolation"], keep_ratio)


@dataclass(frozen=True)
class Evaluation:
    """The transform for evaluation.

    Attributes:
        whole: Resizes images, as for prediction.
    """

    whole: Whole

    def __call__(self, image: Image.Image, objects: Objects | None = None) -> tuple[Tensor, Target]:
        """Transforms an image.

        Args:
            image: The upright RGB image.
            objects: Its objects.

        Returns:
            The image (3, height, width) with values from 0 to 1; and a target with `boxes` (n, 4) in its pixels,
            `labels` from 1, `ignored`, and `scale`, the factors from its x and y to those of the original image.
        """
        prepared = self.whole.prepare(image)
        pixels = torch.from_numpy(self.whole.array([prepared])[0])
        scale = torch.tensor(image.size) / torch.tensor(prepared.input_size)
        target = _target(objects or Objects())
        return pixels, {**target, "boxes": target["boxes"] / scale.repeat(2), "scale": scale}


def _target(objects: Objects) -> Target:
    return {
        "boxes": torch.tensor(objects.corners, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(objects.labels, dtype=torch.int64) + 1,  # 0 is the background
        "ignored": torch.tensor(objects.ignored, dtype=torch.bool),
    }


@dataclass(frozen=True)
class Training:
    """The transform for training.

    Attributes:
        steps: Functions of image and target, which are applied in this order.
    """

    steps: tuple[Callable[[Any, Any], tuple[Any, Any]], ...]

    def __call__(self, image: Image.Image, objects: Objects) -> tuple[Tensor, Target]:
        """Transforms an image at random.

        Args:
            image: The upright RGB image.
            objects: Its objects. Ignored objects are left out.

        Returns:
            The image (3, height, width) with values from 0 to 1; and `boxes` (n, 4) in its pixels and `labels` from 1.
        """
        size = (image.height, image.width)
        found = _target(objects)
        kept = ~found["ignored"]
        boxes = tv_tensors.BoundingBoxes(found["boxes"][kept], format="XYXY", canvas_size=size)
        pixels: Any = tv_tensors.Image(F.pil_to_tensor(image))
        target: Any = {"boxes": boxes, "labels": found["labels"][kept]}
        for step in self.steps:
            pixels, target = step(pixels, target)
        return pixels, target


def training(preprocessing: Mapping[str, Any], recipe: Recipe) -> Training:
    """Creates the transform for training.

    Args:
        preprocessing: As for `whole`, with the `mean` of the colors, which fills borders.
        recipe: The recipe with the augmentation.

    Returns:
        The transform.
    """
    steps: list[Any] = []
    if recipe.iou_crop:
        steps.append(v2.RandomApply([v2.RandomIoUCrop()], recipe.iou_crop))
    if recipe.scale_jitter is not None:
        fill = tuple(round(255 * value) for value in preprocessing["mean"])
        steps.append(ScaleJitter(*recipe.scale_jitter, fill))
    if recipe.rotate:
        turns = [v2.RandomRotation((angle, angle), expand=True) for angle in (90, 270)]
        steps.append(v2.RandomApply([v2.RandomChoice(turns)], recipe.rotate))
    steps += [v2.RandomHorizontalFlip(recipe.hflip), v2.RandomVerticalFlip(recipe.vflip)]
    steps.append(Resize(whole(preprocessing)))
    if recipe.color_jitter:
        steps.append(v2.ColorJitter(*(recipe.color_jitter,) * 3))
    steps += [v2.SanitizeBoundingBoxes(), v2.ToDtype(torch.float32, scale=True), v2.ToPureTensor()]
    return Training(tuple(steps))


@dataclass(frozen=True)
class Resize:
    """Resizes images and boxes as `Whole` does.

    Attributes:
        whole: Determines the size.
    """

    whole: Whole

    def __call__(self, image: Any, target: Any) -> tuple[Any, Any]:
        """Resizes an image (3, height, width) and its boxes."""
        height, width = F.get_size(image)
        size = list(self.whole.size_of(width, height)[::-1])
        how = InterpolationMode(self.whole.interpolation)
        resized = F.resize(image, size, how, antialias=True)
        return resized, {**target, "boxes": F.resize(target["boxes"], size)}


@dataclass(frozen=True)
class ScaleJitter:
    """Scales objects at random, by cropping the image or adding a border.

    Unlike torchvision's `ScaleJitter`, it supports images of different sizes.

    Attributes:
        low: The lowest factor.
        high: The highest factor.
        fill: The color of borders, from 0 to 255.
    """

    low: float
    high: float
    fill: Sequence[int]

    def __call__(self, image: Any, target: Any) -> tuple[Any, Any]:
        """Crops or pads an image (3, height, width) and its boxes."""
        factor = float(torch.empty(1).uniform_(self.low, self.high))
        across, down = torch.rand(2).tolist()
        height, width = F.get_size(image)
        size = (max(round(height / factor), 1), max(round(width / factor), 1))
        top, left = round(down * (height - size[0])), round(across * (width - size[1]))
        if factor < 1:
            border = [-left, -top, size[1] - width + left, size[0] - height + top]
            return F.pad(image, border, list(self.fill)), {**target, "boxes": F.pad(target["boxes"], border)}
        boxes = F.crop(target["boxes"], top, left, *size)
        kept = _areas(boxes) >= MIN_VISIBLE * _areas(target["boxes"])
        boxes = tv_tensors.wrap(boxes[kept], like=boxes)
        return F.crop(image, top, left, *size), {**target, "boxes": boxes, "labels": target["labels"][kept]}


def _areas(boxes: Tensor) -> Tensor:
    sides = boxes.as_subclass(Tensor)[:, 2:] - boxes.as_subclass(Tensor)[:, :2]
    return sides.clamp(min=0).prod(1)

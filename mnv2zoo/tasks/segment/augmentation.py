"""Transforms of images and masks for training and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from mnv2zoo.data.masks import VOID, Mask
from mnv2zoo.data.preprocessing import Whole
from mnv2zoo.tasks.recipe import Recipe


def whole(preprocessing: Mapping[str, Any]) -> Whole:
    """The preprocessing for evaluation and prediction: images are resized to the input size, whatever their aspect.

    Args:
        preprocessing: The preprocessing, with timm's names.
    """
    _, height, width = preprocessing.get("test_input_size") or preprocessing["input_size"]
    mean, std = (tuple(preprocessing[key]) for key in ("mean", "std"))
    return Whole(height, width, mean, std, preprocessing.get("interpolation") or "bilinear")


@dataclass(frozen=True)
class Evaluation:
    """Transforms an image to the model's input, and its mask to a tensor at full size.

    Attributes:
        whole: The preprocessing.
    """

    whole: Whole

    def __call__(self, image: Image.Image, target: Mask) -> tuple[Tensor, Tensor]:
        """Transforms an RGB image and its mask to tensors (3, H, W) and (height, width)."""
        return self.whole.tensor(image), torch.from_numpy(target.read())


class Augmentation:
    """Augments an image and its mask at random, and resizes both to the input size.

    Args:
        preprocessing: The preprocessing, with timm's names.
        recipe: The recipe.
    """

    def __init__(self, preprocessing: Mapping[str, Any], recipe: Recipe) -> None:
        _, *size = preprocessing["input_size"]
        height, width = size
        mean, std = (list(preprocessing[key]) for key in ("mean", "std"))
        fill: Any = {
            tv_tensors.Image: [round(255 * min(max(value, 0), 1)) for value in mean],
            tv_tensors.Mask: VOID,
        }
        how = v2.InterpolationMode(preprocessing.get("interpolation") or "bilinear")
        jitter = recipe.color_jitter
        low, high = recipe.scale_jitter or (1.0, 1.0)
        short, long = sorted(size)
        sides = range(max(round(low * short), 1), max(round(high * short), 1) + 1)
        turns = [v2.RandomRotation((angle, angle), expand=True) for angle in (90, 180, 270)]
        self.transform = v2.Compose(
            [
                v2.RandomApply([v2.RandomChoice(turns)], recipe.rotate),
                # Limits both sides, so that panoramas do not become huge; v2.ScaleJitter mixes up height and width.
                v2.RandomShortestSize(list(sides), max(2 * round(high * long), 1), how),
                v2.RandomCrop((height, width), pad_if_needed=True, fill=fill),
                v2.RandomHorizontalFlip(recipe.hflip),
                v2.RandomVerticalFlip(recipe.vflip),
                v2.ColorJitter(jitter, jitter, jitter),
                v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
                v2.Normalize(mean, std),
            ]
        )

    def __call__(self, image: Image.Image, target: Mask) -> tuple[Tensor, Tensor]:
        """Transforms an RGB image and its mask to tensors (3, H, W) and (H, W)."""
        pixels, mask = tv_tensors.Image(v2.functional.pil_to_tensor(image)), tv_tensors.Mask(target.read())
        pixels, mask = self.transform(pixels, mask)
        return pixels.as_subclass(Tensor), mask.as_subclass(Tensor)


def crop(images: Tensor, masks: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Crops a batch at random.

    Args:
        images: Images (N, 3, H, W).
        masks: Their masks (N, H, W).
        size: The height and width of the crop, which is at the same place in all images.

    Returns:
        Images and masks of that size.
    """
    # Without torchvision, because some devices do not support its tensor subclasses for images and masks.
    rooms = (own - kept for own, kept in zip(images.shape[-2:], size, strict=True))
    top, left = (int(torch.randint(room + 1, ())) for room in rooms)
    height, width = size
    parts = (slice(top, top + height), slice(left, left + width))
    return images[..., *parts], masks[..., *parts]

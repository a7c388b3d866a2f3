"""Augmentation of training images: timm's in worker processes, or for whole batches on the device."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision.transforms.v2.functional import rgb_to_grayscale

from mnv2zoo.data.copies import Smaller
from mnv2zoo.data.pixels import PHOTO_CHANNELS, Bands, as_channels, fitted
from mnv2zoo.data.transforms import image_transform
from mnv2zoo.errors import RecipeError
from mnv2zoo.tasks.recipe import Recipe


def augmentation(recipe: Recipe, on_device: Normalized | None = None, **preprocessing: Any) -> Callable[[Any], Tensor]:
    """Creates the augmentation: timm's random crop, flips, color jitter and random erasing.

    It matches the preprocessing of evaluation. With `crop_mode` `center`, the aspect ratio of the crop is 3/4 to 4/3
    times that of the input; timm's is always 3/4 to 4/3. With `squash` and `border`, the whole image is squashed or
    padded before the crop, so that objects are distorted and padded as in evaluation. The image is then large enough
    for the smallest crop to fill the input. Color jitter is only applied to grayscale and RGB images.

    Args:
        recipe: The recipe.
        on_device: What the device does afterwards, as `for_device` returns it. The values then have 8 bits.
        **preprocessing: The preprocessing, with timm's names. `crop_pct` is not used, because training crops at random.

    Returns:
        A function from an RGB image, or from `pixels.Bands`, to a tensor (C, H, W).
    """
    channels, height, width = preprocessing["input_size"]
    options: dict[str, Any] = {
        "is_training": True,
        "crop_pct": None,
        "scale": (recipe.scale, 1.0),
        "ratio": _ratio(height, width),
        "use_prefetcher": on_device is not None,
    }
    if isinstance(on_device, OnDevice):
        options |= {"hflip": 0.0, "color_jitter": 0.0}
    else:
        options |= {
            "hflip": recipe.hflip,
            "vflip": recipe.vflip,
            "color_jitter": recipe.color_jitter if channels in PHOTO_CHANNELS else 0.0,
            "auto_augment": recipe.auto_augment,
            "re_prob": recipe.reprob,
        }
    transform = image_transform(preprocessing, **options)
    if preprocessing.get("crop_mode", "center") == "center":
        return transform
    sides = (math.ceil(side / math.sqrt(recipe.scale)) for side in (height, width))
    return WholeFirst(transform, {**preprocessing, "input_size": (channels, *sides), "crop_pct": 1.0})


def _ratio(height: int, width: int) -> tuple[float, float]:
    """The bounds of the crop's width divided by its height."""
    return 3 / 4 * (width / height), 4 / 3 * (width / height)


def reader(recipe: Recipe, preprocessing: Mapping[str, Any]) -> Smaller | None:
    """The reader of downscaled images for `augmentation`; None if it needs them at full size.

    Args:
        recipe: The recipe.
        preprocessing: The preprocessing, with timm's names.
    """
    if preprocessing.get("crop_mode", "center") != "center":
        return None
    _, height, width = preprocessing["input_size"]
    return Smaller(height, width, recipe.scale, _ratio(height, width), preprocessing["interpolation"])


@dataclass(frozen=True)
class WholeFirst:
    """A transform that squashes or pads images first.

    Attributes:
        transform: The transform to apply afterwards.
        config: The preprocessing, as for `pixels.fit`.
    """

    transform: Callable[[Any], Tensor]
    config: Mapping[str, Any]

    def __call__(self, image: Image.Image | Bands) -> Tensor:
        """Transforms an image."""
        return self.transform(fitted(as_channels(image, self.config["input_size"][0]), self.config))


def for_device(recipe: Recipe, preprocessing: Mapping[str, Any], device: torch.device) -> Normalized | None:
    """Chooses what the device does for batches of `augmentation`.

    On an accelerator, it at least normalizes RGB images: 8-bit values take a quarter of the bytes from the workers to
    the device, and the workers less time. Random erasing needs normalized images, so it stays with its worker.

    Args:
        recipe: The recipe.
        preprocessing: The preprocessing, with timm's names.
        device: The device.

    Returns:
        A function from 8-bit images (N, 3, H, W) to the model's inputs. None if the workers do everything.
    """
    if recipe.augment_on == "device":
        return OnDevice(recipe, preprocessing, device)
    if device.type == "cpu" or preprocessing["input_size"][0] != 3 or recipe.reprob:
        return None
    return Normalized(preprocessing, device)


class Normalized:
    """Normalization of a batch on its device.

    Args:
        preprocessing: The `mean` and `std` of the colors.
        device: The device.
    """

    def __init__(self, preprocessing: Mapping[str, Any], device: torch.device) -> None:
        self.device = device
        self.mean, self.std = (torch.tensor(preprocessing[k], device=device).view(3, 1, 1) for k in ("mean", "std"))

    def __call__(self, images: Tensor) -> Tensor:
        """Normalizes 8-bit images (N, 3, H, W)."""
        return self.normalize(images.float() / 255)

    def normalize(self, images: Tensor) -> Tensor:
        """Normalizes images with values from 0 to 1."""
        return (images - self.mean) / self.std


class OnDevice(Normalized):
    """Augmentation of a batch on its device: flips, color jitter, normalization and random erasing.

    torchvision's transforms draw random values once for a whole batch. This class draws them for each image, on the
    CPU, so that they do not depend on the device.

    Args:
        recipe: The recipe.
        preprocessing: As for `Normalized`.
        device: The device.
    """

    def __init__(self, recipe: Recipe, preprocessing: Mapping[str, Any], device: torch.device) -> None:
        super().__init__(preprocessing, device)
        self.recipe = recipe
        self.erase = RandomErasing(recipe.reprob, device=str(device)) if recipe.reprob else None

    def __call__(self, images: Tensor) -> Tensor:
        """Augments 8-bit images (N, 3, H, W), and returns normalized ones."""
        count, amount = len(images), self.recipe.color_jitter
        for axis, probability in ((-1, self.recipe.hflip), (-2, self.recipe.vflip)):
            images = torch.where(self._column(torch.rand(count) < probability), images.flip(axis), images)
        images = images.float() / 255
        if amount:
            factors = torch.empty(3, count).uniform_(1 - amount, 1 + amount)
            for number in torch.randperm(3).tolist():
                images = JITTERS[number](images, self._column(factors[number]))
        images = self.normalize(images)
        return images if self.erase is None else self.erase(images)

    def _column(self, values: Tensor) -> Tensor:
        """Reshapes one value per image (N,) for broadcasting over a batch."""
        return values.to(self.device).view(-1, 1, 1, 1)


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Scales images (N, 3, H, W) from 0 to 1 by factors (N, 1, 1, 1), like torchvision with one factor per image."""
    return (images * factors).clamp(0, 1)


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Blends images with their mean gray; arguments as for `brightness`."""
    return torch.lerp(rgb_to_grayscale(images).mean((1, 2, 3), keepdim=True), images, factors).clamp(0, 1)


def saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Blends images with their grayscale version; arguments as for `brightness`."""
    return torch.lerp(rgb_to_grayscale(images), images, factors).clamp(0, 1)


JITTERS = (brightness, contrast, saturation)


def check(recipe: Recipe) -> None:
    """Tries the augmentation policy on a generated image.

    Args:
        recipe: The recipe.

    Raises:
        RecipeError: If timm does not know the policy, or would ignore a part of its name.
    """
    if recipe.auto_augment is None:
        return
    first, *sections = recipe.auto_augment.split("-")
    try:
        # timm ignores sections without a number, and uses its default for an unknown set of transforms.
        for section in sections:
            if not re.search(r"\d", section) and section not in ("tweights", "t3aw", "t3a"):
                raise ValueError(f"timm ignores {section!r}")
            if section.startswith("t") and (first != "rand" or section not in ("tweights", "t3aw", "t3a")):
                raise ValueError(f"timm has no set of transforms {section!r}")
        transform = augmentation(recipe, input_size=(3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
        for _ in range(8):
            transform(Image.new("RGB", (48, 40), (120, 60, 30)))
    except Exception as error:  # including assertions
        raise RecipeError(
            f"timm does not accept the augmentation policy {recipe.auto_augment!r}",
            expected="a policy such as rand-m7-mstd0.5-inc1, augmix-m3-w3, original or 3a",
            found=" ".join(str(error).split()) or type(error).__name__,
            where="auto_augment",
            fix="Correct --auto-augment, or leave it out.",
        ) from error

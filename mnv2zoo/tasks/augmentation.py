"""The augmentation of training images, which is timm's."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from PIL import Image
from timm.data import create_transform
from torch import Tensor

from mnv2zoo.errors import RecipeError
from mnv2zoo.tasks.recipe import Recipe


def augmentation(recipe: Recipe, **preprocessing: Any) -> Callable[[Any], Tensor]:
    """Creates the augmentation.

    Args:
        recipe: The recipe.
        **preprocessing: The preprocessing, as timm names it. Its `crop_pct` is not used: training crops at random.

    Returns:
        A function from an RGB image to a tensor (3, H, W).
    """
    return create_transform(
        **{**preprocessing, "crop_pct": None},
        is_training=True,
        scale=(recipe.scale, 1.0),
        hflip=recipe.hflip,
        vflip=recipe.vflip,
        color_jitter=recipe.color_jitter,
        auto_augment=recipe.auto_augment,
        re_prob=recipe.reprob,
    )


def check(recipe: Recipe) -> None:
    """Tries the automatic augmentation on a generated image.

    Args:
        recipe: The recipe.

    Raises:
        RecipeError: If timm does not know it, or would ignore a part of its name.
    """
    if recipe.auto_augment is None:
        return
    first, *sections = recipe.auto_augment.split("-")
    try:
        # timm passes over sections without a number, and takes its default for an unknown set of transforms.
        for section in sections:
            if not re.search(r"\d", section) and section not in ("tweights", "t3aw", "t3a"):
                raise ValueError(f"timm ignores {section!r}")
            if section.startswith("t") and (first != "rand" or section not in ("tweights", "t3aw", "t3a")):
                raise ValueError(f"timm has no set of transforms {section!r}")
        transform = augmentation(recipe, input_size=(3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
        for _ in range(8):
            transform(Image.new("RGB", (48, 40), (120, 60, 30)))
    except Exception as error:  # assertions among them
        raise RecipeError(
            f"timm does not take the augmentation {recipe.auto_augment!r}",
            expected="such as rand-m7-mstd0.5-inc1, augmix-m3-w3, original or 3a",
            found=" ".join(str(error).split()) or type(error).__name__,
            where="auto_augment",
            fix="Correct --auto-augment, or leave it out.",
        ) from error

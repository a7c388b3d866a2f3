"""What a recipe's values become: augmentation, loss, and what changes from epoch to epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from timm.data import Mixup, create_transform
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from mnv2zoo.training.recipe import Recipe
from mnv2zoo.training.start import Start


def training_transform(start: Start, recipe: Recipe) -> Callable[[Any], Tensor]:
    """The augmentation, from an RGB image to a tensor (3, H, W)."""
    return create_transform(
        **{**start.preprocessing, "crop_pct": None},
        is_training=True,
        scale=(recipe.scale, 1.0),
        hflip=recipe.hflip,
        vflip=recipe.vflip,
        color_jitter=recipe.color_jitter,
        auto_augment=recipe.auto_augment,
        re_prob=recipe.reprob,
    )


def learning_rate(recipe: Recipe) -> float:
    """The recipe's highest learning rate, or the default one for its batch."""
    if recipe.lr is not None:
        return recipe.lr
    return 0.02 * recipe.batch_size / 32


def side_of_epoch(recipe: Recipe, epoch: int, full: int) -> int:
    """Side of the training images in an epoch, in pixels.

    Four steps of growth are those of EfficientNetV2's progressive learning (Tan and Le 2021,
    https://arxiv.org/abs/2104.00298, section 4.2).

    Args:
        recipe: Says where it begins.
        epoch: The epoch, from 0.
        full: The side at which it ends.

    Returns:
        A multiple of 8 on the way, and the full side in the last quarter and the last epoch.
    """
    quarter = 4 * epoch // recipe.epochs
    if recipe.start_input_size is None or quarter == 3 or epoch == recipe.epochs - 1:
        return full
    return round((recipe.start_input_size + (full - recipe.start_input_size) * quarter / 3) / 8) * 8


def make_mixup(recipe: Recipe, num_classes: int) -> Mixup | None:
    """What mixes the images of a batch, if the recipe says so."""
    if not recipe.mixes:
        return None
    return Mixup(recipe.mixup, recipe.cutmix, label_smoothing=recipe.smoothing, num_classes=num_classes)


def make_criterion(recipe: Recipe) -> nn.Module:
    """The training loss."""
    if recipe.loss == "bce":
        return BinaryCrossEntropy(smoothing=0.0 if recipe.mixes else recipe.smoothing)
    return SoftTargetCrossEntropy() if recipe.mixes else nn.CrossEntropyLoss(label_smoothing=recipe.smoothing)

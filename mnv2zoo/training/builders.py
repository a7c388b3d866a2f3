"""Creates the optimizer and the learning rate schedule of a recipe."""

from __future__ import annotations

import difflib
from functools import partial
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
from timm.scheduler import create_scheduler_v2
from torch import nn

from mnv2zoo.errors import RecipeError
from mnv2zoo.tasks import augmentation
from mnv2zoo.tasks.recipe import Recipe


def check(recipe: Recipe) -> None:
    """Tries the optimizer and the augmentation on a generated image and a tiny model, before training starts.

    Args:
        recipe: The recipe.

    Raises:
        RecipeError: If timm does not know the optimizer or the augmentation policy, or if one of them fails.
    """
    augmentation.check(recipe)
    name = recipe.opt.lower().removeprefix("lookahead_")
    known = [str(one) for one in list_optimizers()]
    if name not in known:
        near = difflib.get_close_matches(name, known, 3)
        raise RecipeError(
            f"timm has no optimizer {recipe.opt!r}",
            expected=" or ".join(near) or "a timm optimizer, such as sgd or adamw",
            found=repr(recipe.opt),
            where="opt",
            fix="Correct --opt. `timm.optim.list_optimizers()` lists all names.",
        )
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    try:
        optimizer = make_optimizer(net, recipe, learning_rate(recipe))
        for _ in range(2):
            net(torch.rand(2, 3, 8, 8)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    except Exception as error:  # from many libraries: a package is missing, the optimizer needs a closure, ...
        raise RecipeError(
            f"the optimizer {recipe.opt!r} does not work with this recipe",
            expected="an optimizer that needs only gradients",
            found=f"{type(error).__name__}: {' '.join(str(error).split())}"[:300].rstrip("."),
            where="opt",
            fix="Choose another --opt, such as sgd or adamw.",
        ) from error


def make_optimizer(
    trainee: nn.Module,
    recipe: Recipe,
    lr: float,
    layer_decay: float | None = None,
    backbone: nn.Module | None = None,
) -> Any:
    """Creates the optimizer.

    Args:
        trainee: The module to train.
        recipe: The recipe.
        lr: The peak learning rate.
        layer_decay: Multiplier for the learning rate from each layer to the one before it.
        backbone: The part whose learning rate is scaled by the recipe's `backbone_lr`.

    Returns:
        The optimizer.
    """
    # PyTorch rejects Nesterov momentum of 0, so turn it off explicitly.
    info = get_optimizer_info(recipe.opt.lower().removeprefix("lookahead_"))
    plain: dict[str, Any] = {"nesterov": False} if not recipe.momentum and (info.defaults or {}).get("nesterov") else {}
    return create_optimizer_v2(
        trainee,
        opt=recipe.opt,
        lr=lr,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        layer_decay=layer_decay,
        param_group_fn=None if backbone is None else partial(_groups, backbone=backbone, recipe=recipe),
        **plain,
    )


def _groups(trainee: nn.Module, backbone: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Groups parameters by backbone or head, and by weight decay or none. timm's schedules read `lr_scale`."""
    own = {id(p) for p in backbone.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for p in trainee.parameters():
        if p.requires_grad:
            groups.setdefault((id(p) in own, p.ndim > 1), []).append(p)
    return [
        {
            "params": parameters,
            "lr_scale": recipe.backbone_lr if is_backbone else 1.0,
            "weight_decay": recipe.weight_decay if decays else 0.0,
        }
        for (is_backbone, decays), parameters in groups.items()
    ]


def make_scheduler(optimizer: Any, recipe: Recipe, lr: float, steps: int) -> Any:
    """Creates the learning rate schedule, which is updated at every step.

    Args:
        optimizer: The optimizer.
        recipe: The recipe.
        lr: The peak learning rate.
        steps: Steps per epoch.

    Returns:
        The schedule.
    """
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched=recipe.sched,
        num_epochs=recipe.epochs,
        warmup_epochs=min(recipe.warmup_epochs, recipe.epochs / 2),  # type: ignore[arg-type]  # fractions work too
        warmup_lr=0.01 * lr,
        min_lr=recipe.min_lr * lr,
        step_on_epochs=False,
        updates_per_epoch=steps,
    )
    return scheduler


def learning_rate(recipe: Recipe) -> float:
    """The recipe's peak learning rate, or the default for its batch size."""
    if recipe.lr is not None:
        return recipe.lr
    return 0.02 * recipe.batch_size * recipe.accumulate / 32


def side_of_epoch(recipe: Recipe, epoch: int, full: int) -> int:
    """Side of the training images in an epoch, in pixels, for progressive resizing.

    The four stages follow EfficientNetV2's progressive learning (Tan and Le 2021,
    https://arxiv.org/abs/2104.00298, section 4.2).

    Args:
        recipe: The recipe, whose `start_input_size` is the first side.
        epoch: The epoch, from 0.
        full: The final side.

    Returns:
        The full side in the last quarter of the epochs and in the last epoch, and a multiple of 8 before.
    """
    quarter = 4 * epoch // recipe.epochs
    if recipe.start_input_size is None or quarter == 3 or epoch == recipe.epochs - 1:
        return full
    return round((recipe.start_input_size + (full - recipe.start_input_size) * quarter / 3) / 8) * 8

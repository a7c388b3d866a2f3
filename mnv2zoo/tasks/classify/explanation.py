"""What a classifier's answer rests on, and labels that are probably wrong, by pytorch-grad-cam and cleanlab."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mnv2zoo.data import transforms
from mnv2zoo.errors import MissingExtraError
from mnv2zoo.system.installation import install_command
from mnv2zoo.tasks.classify.metrics import Mistake

PACKAGES = ("pytorch_grad_cam", "cleanlab")


def installed() -> bool:
    """Whether the extra `explain` is installed."""
    return all(importlib.util.find_spec(package) is not None for package in PACKAGES)


def require() -> None:
    """Refuses to explain without the extra.

    Raises:
        MissingExtraError: If it is not installed.
    """
    if not installed():
        raise MissingExtraError(
            "heat maps need pytorch-grad-cam",
            expected="the packages grad-cam and cleanlab",
            found=", ".join(f"no {name}" for name in PACKAGES if importlib.util.find_spec(name) is None),
            fix=f"Run: {install_command('explain')}",
        )


def heat_maps(model: nn.Module, images: Tensor, classes: Sequence[int] | None) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Finds the parts of images that speak for a class, by Grad-CAM.

    Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391) weights the channels of the last feature map by
    their gradients of the class's logit.

    Args:
        model: A classifier of the zoo, or another network of timm whose last map comes from `bn2`. It is used in
            evaluation mode, and gets its own mode back.
        images: Normalized images (N, C, H, W) on the model's device.
        classes: A class per image; None for that of the highest logit.

    Returns:
        Values (N, H, W) from 0 to 1, where 1 is the part of an image that speaks most for its class.
    """
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    last: Any = model.bn2
    training = {module: module.training for module in model.modules()}
    targets = None if classes is None else [ClassifierOutputTarget(number) for number in classes]
    try:
        model.eval()
        with torch.enable_grad(), GradCAM(model, [last]) as cam:
            # Gradients reach the map through the image where all weights are frozen.
            maps: np.ndarray[Any, np.dtype[np.float32]] = cam(images.detach().clone().requires_grad_(), targets)
    finally:
        for module, own in training.items():
            module.training = own
        model.zero_grad()
    return maps


def explain(
    model: nn.Module,
    transform: Callable[[Any], Tensor],
    preprocessing: Mapping[str, Any],
    images: Sequence[Any],
    classes: Sequence[int | None],
) -> list[Image.Image]:
    """Lays heat maps over images as the network sees them.

    Args:
        model: As for `heat_maps`.
        transform: Its preprocessing, from an image to a normalized tensor (C, H, W).
        preprocessing: The `mean` and `std` of it.
        images: Images of any size, as `decode.read` gives them.
        classes: A class per image; None for that of the highest logit.

    Returns:
        RGB pictures of W x H pixels: the part that speaks most for the class is red, what says nothing of it blue.
    """
    from pytorch_grad_cam.utils.image import show_cam_on_image

    drawn = []
    device = next(model.parameters()).device
    for image, number in zip(images, classes, strict=True):
        seen = transform(image)
        (heat,) = heat_maps(model, seen[None].to(device), None if number is None else [number])
        mean, std = (torch.tensor(preprocessing[key]).view(-1, 1, 1) for key in ("mean", "std"))
        channels = (seen * std + mean)[: 3 if len(seen) >= 3 else 1]  # the others have no color
        colors = channels.clamp(0, 1).expand(3, -1, -1).movedim(0, -1)
        drawn.append(Image.fromarray(show_cam_on_image(colors.float().numpy(), heat, use_rgb=True)))
    return drawn


def of_mistakes(
    model: nn.Module,
    preprocessing: Mapping[str, Any],
    mistakes: Sequence[Mistake],
    read: Callable[[int], Any],
) -> list[Image.Image]:
    """Draws what wrong answers rest on, for a report.

    Args:
        model: As for `heat_maps`.
        preprocessing: Its preprocessing as timm names it.
        mistakes: The wrong answers.
        read: Reads the image of a mistake, by its index.

    Returns:
        A picture per mistake, as `explain` draws it.
    """
    images = [read(mistake.index) for mistake in mistakes]
    transform = transforms.image_transform(preprocessing)
    return explain(model, transform, preprocessing, images, [mistake.predicted for mistake in mistakes])


def doubtful_labels(logits: Tensor, targets: Tensor, count: int = 25) -> list[Mistake]:
    """Finds images whose label is probably wrong, by confident learning.

    Confident learning (Northcutt et al. 2021, https://arxiv.org/abs/1911.00068, section 3) compares each probability
    with the mean one of the images that have that label. The network must not have been trained on these images.

    Args:
        logits: The network's outputs (N, C).
        targets: The labels (N,), from 0 to C - 1.
        count: How many to give at most.

    Returns:
        The images, the most doubtful first: `predicted` is the class that the network gives, `score` its probability.
    """
    from cleanlab.filter import find_label_issues

    probabilities = logits.double().softmax(1)
    ranked = find_label_issues(
        targets.numpy(),
        probabilities.numpy(),
        return_indices_ranked_by="self_confidence",
        filter_by="confident_learning",
        n_jobs=1,
    )
    found = torch.tensor(ranked[:count].tolist(), dtype=torch.long)
    best, predicted = probabilities[found].max(1)
    columns = (found, targets[found], predicted, best)
    return [Mistake(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]

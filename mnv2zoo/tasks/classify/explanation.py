"""What a classifier's answer rests on, and labels that are probably wrong, by pytorch-grad-cam and cleanlab."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mnv2zoo.errors import MissingExtraError
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
            fix='Install them: pip install "mnv2zoo[explain]".',
        )


def heat_maps(model: nn.Module, images: Tensor, classes: Sequence[int]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Finds the parts of images that speak for a class, by Grad-CAM.

    Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391) weights the channels of the last feature map by
    their gradients of the class's logit.

    Args:
        model: A classifier of the zoo, or another network of timm whose last map comes from `bn2`. It is used in
            evaluation mode, and gets its own mode back.
        images: Normalized images (N, C, H, W) on the model's device.
        classes: A class per image.

    Returns:
        Values (N, H, W) from 0 to 1, where 1 is the part of an image that speaks most for its class.
    """
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    last: Any = model.bn2
    training = {module: module.training for module in model.modules()}
    targets = [ClassifierOutputTarget(number) for number in classes]
    try:
        model.eval()
        with torch.enable_grad(), GradCAM(model, [last]) as cam:
            # Gradients reach the map through the image where all weights are frozen.
            maps: np.ndarray[Any, np.dtype[np.float32]] = cam(images.detach().clone().requires_grad_(), targets)
    finally:
        for module, own in training.items():
            module.training = own
        with contextlib.suppress(AttributeError):
            model.zero_grad()
    return maps


def pictures(
    model: nn.Module, images: Tensor, classes: Sequence[int], preprocessing: Mapping[str, Any]
) -> list[Image.Image]:
    """Lays heat maps over images as the network sees them.

    Args:
        model: As for `heat_maps`.
        images: As for `heat_maps`.
        classes: As for `heat_maps`.
        preprocessing: The `mean` and `std` by which the images are normalized.

    Returns:
        RGB pictures of H x W pixels: the part that speaks most for the class is red, the others are blue.
    """
    from pytorch_grad_cam.utils.image import show_cam_on_image

    mean, std = (torch.tensor(preprocessing[key], device=images.device).view(-1, 1, 1) for key in ("mean", "std"))
    colors = (images * std + mean).clamp(0, 1).movedim(1, -1).cpu().numpy().astype(np.float32)
    maps = heat_maps(model, images, classes)
    return [Image.fromarray(show_cam_on_image(own, heat, use_rgb=True)) for own, heat in zip(colors, maps, strict=True)]


def doubtful_labels(logits: Tensor, targets: Tensor, count: int = 25) -> list[Mistake]:
    """Finds images whose label is probably wrong, by confident learning.

    Confident learning (Northcutt et al. 2021, https://arxiv.org/abs/1911.00068, section 3) compares each probability with
    the mean one of the images that have that label. The network must not have been trained on these images.

    Args:
        logits: The network's outputs (N, C).
        targets: The labels (N,), from 0 to C - 1.
        count: How many to give at most.

    Returns:
        The images, the most doubtful first: `predicted` is the class that the network gives, and `score` its probability.
    """
    from cleanlab.filter import find_label_issues

    probabilities = logits.double().softmax(1)
    found = find_label_issues(
        targets.numpy(), probabilities.numpy(), return_indices_ranked_by="self_confidence", n_jobs=1
    )[:count]
    best, predicted = (values[torch.as_tensor(found.copy())] for values in probabilities.max(1))
    columns = (found.tolist(), targets[torch.as_tensor(found.copy())].tolist(), predicted.tolist(), best.tolist())
    return [Mistake(*row) for row in zip(*columns, strict=True)]

"""Heat maps of a classifier's predictions (pytorch-grad-cam), and probable label errors (cleanlab)."""

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
    """Requires the extra `explain`.

    Raises:
        MissingExtraError: If it is not installed.
    """
    if not installed():
        raise MissingExtraError(
            "heat maps require the extra packages of `explain`",
            expected="the packages grad-cam and cleanlab",
            found=", ".join(f"no module {name}" for name in PACKAGES if importlib.util.find_spec(name) is None),
            fix=f"Run: {install_command('explain')}",
        )


def heat_maps(model: nn.Module, images: Tensor, classes: Sequence[int] | None) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Computes Grad-CAM heat maps, which show the parts of images that support a class.

    Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391) weights the channels of the last feature map by
    the gradients of the class's logit.

    Args:
        model: A classifier of the zoo, or another timm model whose last feature map comes from `bn2`. It runs in
            evaluation mode, and its mode is restored afterwards.
        images: Normalized images (N, C, H, W) on the model's device.
        classes: One class per image; None for the class with the highest logit.

    Returns:
        Values (N, H, W) from 0 to 1. Higher values support the class more.
    """
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    last: Any = model.bn2
    training = {module: module.training for module in model.modules()}
    targets = None if classes is None else [ClassifierOutputTarget(number) for number in classes]
    try:
        model.eval()
        with torch.enable_grad(), GradCAM(model, [last]) as cam:
            # The image requires gradients, so that they reach the feature map even if all weights are frozen.
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
    """Overlays heat maps on preprocessed images.

    Args:
        model: As for `heat_maps`.
        transform: Its preprocessing, from an image to a normalized tensor (C, H, W).
        preprocessing: Its `mean` and `std`.
        images: Images of any size, as `decode.read` returns them.
        classes: One class per image; None for the class with the highest logit.

    Returns:
        RGB images of W x H pixels. Red parts support the class most, blue parts do not.
    """
    from pytorch_grad_cam.utils.image import show_cam_on_image

    drawn = []
    device = next(model.parameters()).device
    for image, number in zip(images, classes, strict=True):
        seen = transform(image)
        (heat,) = heat_maps(model, seen[None].to(device), None if number is None else [number])
        mean, std = (torch.tensor(preprocessing[key]).view(-1, 1, 1) for key in ("mean", "std"))
        channels = (seen * std + mean)[: 3 if len(seen) >= 3 else 1]  # other channels have no color
        colors = channels.clamp(0, 1).expand(3, -1, -1).movedim(0, -1)
        drawn.append(Image.fromarray(show_cam_on_image(colors.float().numpy(), heat, use_rgb=True)))
    return drawn


def of_mistakes(
    model: nn.Module,
    preprocessing: Mapping[str, Any],
    mistakes: Sequence[Mistake],
    read: Callable[[int], Any],
) -> list[Image.Image]:
    """Draws heat maps of wrong predictions for a report.

    Args:
        model: As for `heat_maps`.
        preprocessing: Its preprocessing, with timm's names.
        mistakes: The wrong predictions.
        read: Reads the image of a mistake by its index.

    Returns:
        One image per mistake, from `explain`.
    """
    images = [read(mistake.index) for mistake in mistakes]
    transform = transforms.image_transform(preprocessing)
    return explain(model, transform, preprocessing, images, [mistake.predicted for mistake in mistakes])


def doubtful_labels(logits: Tensor, targets: Tensor, count: int = 25) -> list[Mistake]:
    """Finds probable label errors by confident learning.

    Confident learning (Northcutt et al. 2021, https://arxiv.org/abs/1911.00068, section 3) compares the probability of
    a class with its mean over the images with that label. The model must not have been trained on these images.

    Args:
        logits: The outputs of the model (N, C).
        targets: The labels (N,), from 0 to C - 1.
        count: Maximum number of images to return.

    Returns:
        The images, the most doubtful first. `predicted` is the predicted class and `score` its probability.
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

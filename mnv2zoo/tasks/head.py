"""Splits a zoo model into a frozen part, which computes features, and the head to train on them."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mnv2zoo.models.mobilenetv2 import MobileNetV2


class Head(nn.Module):
    """The classifier of a model as a separate module, whose inputs are pooled features.

    Args:
        model: The model, which shares its classifier.
    """

    def __init__(self, model: MobileNetV2) -> None:
        super().__init__()
        self.classifier = model.classifier
        self.classifier_bn = model.classifier_bn if model.normed else nn.Identity()
        self.drop_rate = model.drop_rate

    def forward(self, x: Tensor) -> Tensor:
        """Maps pooled features (N, C) or (N, C, 1, 1) to outputs (N, K)."""
        x = F.dropout(x, self.drop_rate, self.training)
        return self.classifier_bn(self.classifier(x)).flatten(1)


class ForwardFeatures(nn.Module):
    """A model's `forward_features` as a module."""

    def __init__(self, model: MobileNetV2) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (N, 3, H, W) to features (N, C, h, w)."""
        return self.model.forward_features(x)


def split(model: Any) -> tuple[nn.Module, nn.Module] | None:
    """Splits a model.

    Args:
        model: The model.

    Returns:
        A module from images (N, 3, H, W) to pooled features, and one from features to outputs; None for a model that is
        not from the zoo.
    """
    if not isinstance(model, MobileNetV2):
        return None
    return nn.Sequential(ForwardFeatures(model), model.global_pool), Head(model)

"""Trains LR-ASPP on scenes of fruit and vegetables, on three backbones, and measures mIoU.

python examples/segmentation.py ../shared/data/grocery --out runs/segmentation
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comparison
import torch
from comparison import COLOURS, Task, Weights
from scenes import CLASSES, Scene
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.classification import MulticlassJaccardIndex
from torchvision.utils import draw_segmentation_masks

from mnv2zoo.segmentation import lraspp


class Segmenter(nn.Module):
    """LR-ASPP behind the normalisation of its backbone's weights."""

    def __init__(self, model: nn.Module, weights: Weights) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(weights.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(weights.std).view(3, 1, 1), persistent=False)

    def forward(self, scenes: Sequence[Scene]) -> Tensor:
        """Maps scenes to logits (N, 11, side, side)."""
        images = torch.stack([scene.image for scene in scenes]).to(self.mean.device) / 255
        return self.model((images - self.mean) / self.std)["out"]


class TimmMaps(nn.Module):
    """timm's own maps at strides 8 and 16, under the names that LR-ASPP looks for."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.network = comparison.timm_network(weights, features_only=True, output_stride=16, out_indices=(2, 4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps images (N, 3, H, W) to maps at 1/8 and 1/16 of their size."""
        return dict(zip(("low", "high"), self.network(x), strict=True))


def build(backbone: str, weights: Weights, side: int) -> nn.Module:
    """LR-ASPP on one of the three backbones."""
    model = lraspp("mnv2zoo_100", 1 + len(CLASSES))
    if backbone == "mnv2zoo":  # what `pretrained_backbone=name` does, for a file that is in no index
        missing, _ = model.backbone.taps.load_state_dict(weights.state, strict=False)
        assert not missing
    if backbone == "timm":
        model.backbone = TimmMaps(weights)
    return Segmenter(model, weights)


def loss(model: nn.Module, scenes: Sequence[Scene]) -> Tensor:
    """Cross-entropy over all pixels."""
    logits = model(scenes)
    return functional.cross_entropy(logits, torch.stack([scene.mask for scene in scenes]).to(logits.device))


def measure(model: nn.Module, batches: Sequence[Sequence[Scene]]) -> dict[str, Any]:
    """Intersection over union of each class over all scenes' pixels, and their mean, in percent."""
    metric = MulticlassJaccardIndex(1 + len(CLASSES), average=None)
    for scenes in batches:
        metric.update(model(scenes).argmax(1).cpu(), torch.stack([scene.mask for scene in scenes]))
    values = 100 * metric.compute()
    classes = dict(zip(("background", *CLASSES), (round(value, 2) for value in values.tolist()), strict=True))
    return {"miou": round(values.mean().item(), 2), "classes": classes}


def draw(scene: Scene, model: nn.Module | None) -> Tensor:
    """The scene under its mask, or the model's."""
    mask = scene.mask if model is None else model([scene])[0].argmax(0).cpu()
    layers = torch.stack([mask == label for label in range(1, 1 + len(CLASSES))])
    return draw_segmentation_masks(scene.image, layers, alpha=0.7, colors=COLOURS)


if __name__ == "__main__":
    comparison.main(Task("segmentation", build, loss, measure, draw), __doc__)

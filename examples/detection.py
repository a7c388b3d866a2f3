"""Trains SSDLite on scenes of fruit and vegetables, on three backbones, and measures COCO's mAP.

python examples/detection.py ../shared/data/grocery --out runs/detection
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comparison
from comparison import COLOURS, Task, Weights
from scenes import CLASSES, Scene
from torch import Tensor, nn
from torchmetrics.detection import MeanAveragePrecision
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.utils import draw_bounding_boxes

from mnv2zoo.detection import ssdlite

SHOWN_SCORE = 0.5


def build(backbone: str, weights: Weights, side: int) -> nn.Module:
    """SSDLite on one of the three backbones."""
    classes = 1 + len(CLASSES)
    model = ssdlite("mnv2zoo_100", classes, size=(side, side), image_mean=weights.mean, image_std=weights.std)
    if backbone == "mnv2zoo":  # what `pretrained_backbone=name` does, for a file that is in no index
        model.backbone.taps.load_state_dict({k: v for k, v in weights.state.items() if "classifier" not in k})
    if backbone == "timm":  # at the same two places: the expansion of the 14th bottleneck, and the head
        places = {"blocks.5.0.bn1.act": "Bottleneck_14", "bn2.act": "C2"}
        model.backbone.taps = create_feature_extractor(comparison.timm_network(weights), places)
    return model


def inputs(model: nn.Module, scenes: Sequence[Scene]) -> list[Tensor]:
    """Images as torchvision's detectors take them."""
    device = next(model.parameters()).device
    return [scene.image.to(device) / 255 for scene in scenes]


def loss(model: nn.Module, scenes: Sequence[Scene]) -> Tensor:
    """The sum of the detector's losses."""
    images = inputs(model, scenes)
    targets = [{"boxes": s.boxes.to(images[0]), "labels": s.labels.to(images[0].device)} for s in scenes]
    return sum(model(images, targets).values())


def measure(model: nn.Module, batches: Sequence[Sequence[Scene]]) -> dict[str, Any]:
    """Measures mAP as COCO defines it, over IoU of 0.50 to 0.95, in percent."""
    metric = MeanAveragePrecision(backend="faster_coco_eval", class_metrics=True)
    metric.warn_on_many_detections = False  # COCO counts the surest hundred
    for scenes in batches:
        found = [{key: value.cpu() for key, value in row.items()} for row in model(inputs(model, scenes))]
        metric.update(found, [{"boxes": scene.boxes, "labels": scene.labels} for scene in scenes])
    values = metric.compute()
    overall = {key: round(100 * values[key].item(), 2) for key in ("map", "map_50", "map_75")}
    classes = {
        CLASSES[label - 1]: round(100 * value, 2)
        for label, value in zip(values["classes"].tolist(), values["map_per_class"].tolist(), strict=True)
        if value >= 0  # -1 where the scenes have none
    }
    return {**overall, "classes": classes}


def draw(scene: Scene, model: nn.Module | None) -> Tensor:
    """The scene with boxes: its own, or those that the model is rather sure of."""
    boxes, labels = scene.boxes, scene.labels
    if model is not None:
        found = {key: value.cpu() for key, value in model(inputs(model, [scene]))[0].items()}
        sure = found["scores"] >= SHOWN_SCORE
        boxes, labels = found["boxes"][sure], found["labels"][sure]
    if not len(boxes):
        return scene.image
    return draw_bounding_boxes(scene.image, boxes, colors=[COLOURS[label - 1] for label in labels], width=3)


if __name__ == "__main__":
    comparison.main(Task("detection", build, loss, measure, draw), __doc__)

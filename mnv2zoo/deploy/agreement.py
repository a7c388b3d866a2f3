"""Measures the agreement of two models: on the class of an image, on the class of each pixel, and on boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

Detections = Sequence[Mapping[str, Tensor]]

IOU, SCORE = 0.99, 1e-3  # minimum IoU and maximum score difference of equal boxes
NEAR = 0.05  # pixels; boxes whose corners are all this near are equal, however small they are
CONFIDENT = 0.3  # minimum score of the boxes that count in the comparison of a quantized detector
AT_ONCE = 16  # images per batch


def decided_by(outputs: Any, example: Tensor) -> Tensor | None:
    """The logits (N, K) of images, or (N, K, H, W) of pixels, in a model's outputs; None for feature maps."""
    logits = outputs.get("out") if isinstance(outputs, Mapping) else outputs
    if not isinstance(logits, Tensor):
        return None
    return logits if logits.ndim == 2 or (logits.ndim == 4 and logits.shape[2:] == example.shape[2:]) else None


def decisions(outputs: Any) -> Tensor:
    """The class of each image (N,) or of each pixel (N, H, W), from logits or a dict with logits at `out`.

    A single map of logits distinguishes two classes.
    """
    logits: Tensor = outputs["out"] if isinstance(outputs, Mapping) else outputs
    return logits[:, 0] > 0 if logits.ndim == 4 and logits.shape[1] == 1 else logits.argmax(1)


def measure(
    original: Callable[[Tensor], Any], optimized: Callable[[Tensor], Any], images: Tensor, classes: Sequence[int] = ()
) -> dict[str, Any]:
    """Compares a model with the original.

    Args:
        original: The original.
        optimized: The other model.
        images: Images (N, C, H, W).
        classes: The class of each image, if known.

    Returns:
        `agreement` in percent: images or pixels with the same class; or boxes with a score of at least 0.3 that the
        other model matches with the same class and an IoU of at least 0.5, None if there are no such boxes. `accuracy`:
        the top-1 accuracy of a classifier before and after, in percent; None without classes.
    """
    pairs: list[tuple[Any, Any]] = []
    with torch.inference_mode():
        for part in images.split(AT_ONCE):
            before, after = original(part), optimized(part)
            pairs += zip(before, after, strict=True) if isinstance(before, list) else [_decided(before, after)]
    if isinstance(pairs[0][0], Mapping):
        share = matched([b for _, b in pairs], [a for a, _ in pairs], iou=0.5, score=1.0, at_least=CONFIDENT)
        return {"agreement": None if share != share else share, "accuracy": None}
    before, after = (torch.cat(decided) for decided in zip(*pairs, strict=True))
    accuracy = None
    if classes:
        truth = torch.tensor(classes)
        accuracy = (_percent(before == truth), _percent(after == truth))
    return {"agreement": _percent(before == after), "accuracy": accuracy}


def _decided(before: Any, after: Any) -> tuple[Tensor, Tensor]:
    return decisions(before).to(torch.int16), decisions(after).to(torch.int16)  # for maps, a quarter of the memory


def _percent(right: Tensor) -> float:
    return 100 * right.float().mean().item()


def matched(
    found: Detections, wanted: Detections, iou: float = IOU, score: float = SCORE, at_least: float = 0.0
) -> float:
    """The percentage of boxes that match a box of the other model.

    Matching boxes have the same label, an IoU of at least `iou`, and scores that differ by at most `score`. Boxes
    without area are left out.

    Args:
        found: For each image, a dict of `boxes` (n, 4), `labels` (n,) and `scores` (n,).
        wanted: The other model's boxes for the same images.
        iou: Minimum IoU of matching boxes.
        score: Maximum difference of their scores.
        at_least: Minimum score of the boxes that count. Boxes with lower scores can still match others.

    Returns:
        From 0 to 100; NaN if there are no boxes.
    """
    paired = boxes = 0
    for ours, theirs in zip(found, wanted, strict=True):
        for one, other in ((_with_area(ours), _with_area(theirs)), (_with_area(theirs), _with_area(ours))):
            counted = one["scores"] >= at_least
            boxes += int(counted.sum())
            paired += int((_has_partner(one, other, iou, score) & counted).sum())
    return 100 * paired / boxes if boxes else float("nan")


def _with_area(image: Mapping[str, Tensor]) -> dict[str, Tensor]:
    boxes = image["boxes"]
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return {name: image[name][kept] for name in ("boxes", "labels", "scores")}


def _has_partner(one: Mapping[str, Tensor], other: Mapping[str, Tensor], iou: float, score: float) -> Tensor:
    """Whether each box of `one` has a matching box in `other`, (n,)."""
    if not len(other["boxes"]):
        return torch.zeros(len(one["boxes"]), dtype=torch.bool)
    near = (one["boxes"][:, None] - other["boxes"][None]).abs().amax(2) <= NEAR
    overlap = box_iou(one["boxes"], other["boxes"]) >= iou
    same_label = one["labels"][:, None] == other["labels"][None]
    near_score = (one["scores"][:, None] - other["scores"][None]).abs() <= score
    return ((near | overlap) & same_label & near_score).any(1)

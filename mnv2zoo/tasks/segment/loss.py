"""The segmentation loss: cross-entropy over labeled pixels, optionally plus a region loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from mnv2zoo.data.masks import VOID
from mnv2zoo.segmentation import require_smp
from mnv2zoo.tasks.segment.lovasz import lovasz_softmax


class SegmentationLoss(nn.Module):
    """Cross-entropy over the labeled pixels of a batch, optionally plus a region loss. `VOID` pixels are ignored.

    Args:
        weights: One weight per class; None for equal weights.
        smoothing: Label smoothing.
        region: The region loss to add: `dice`, from segmentation_models_pytorch, or `lovasz`; None for no region loss.

    Raises:
        MissingExtraError: If `region` is `dice` and segmentation_models_pytorch is not installed.
    """

    table: Tensor
    weights: Tensor | None

    def __init__(
        self, weights: Sequence[float] | None = None, smoothing: float = 0.0, region: str | None = None
    ) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.register_buffer("weights", None if weights is None else torch.tensor(weights))
        table = torch.ones(256)
        table[: len(weights or ())] = torch.tensor(weights or ())
        table[VOID] = 0
        self.register_buffer("table", table)  # the weight of a pixel by its number
        self.region = None if region is None else _region(region)

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """The loss of logits (N, C, H, W) and class numbers (N, H, W); 0 if there are no labeled pixels."""
        logits, masks = logits.float(), masks.long()
        pixels, numbers = logits, masks
        if torch.are_deterministic_algorithms_enabled():  # CUDA has a deterministic algorithm only for 2D inputs
            pixels, numbers = logits.movedim(1, -1).flatten(0, -2), masks.flatten()
        total = functional.cross_entropy(
            pixels,
            numbers,
            self.weights,
            ignore_index=VOID,
            reduction="sum",
            label_smoothing=self.smoothing,
        )
        # The same mean as PyTorch's, which would be NaN without labeled pixels.
        loss: Tensor = total / self.table[masks].sum().clamp(min=1e-6)
        if self.region is not None:
            loss = loss + self.region(logits, masks)
        return loss


def _region(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    if name == "lovasz":
        return partial(lovasz_softmax, ignore_index=VOID)
    loss: nn.Module = require_smp(f"the loss {name}").losses.DiceLoss("multiclass", ignore_index=VOID)
    return loss

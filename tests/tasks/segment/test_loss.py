"""The loss counts labeled pixels alone."""

import sys

import pytest
import segmentation_models_pytorch as smp
import torch
from torch.nn import functional

from mnv2zoo.errors import MissingExtraError
from mnv2zoo.tasks import find_task, recipe
from mnv2zoo.tasks.segment.loss import SegmentationLoss

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 3, 6, 8, generator=GENERATOR)
MASKS = torch.randint(0, 3, (2, 6, 8), generator=GENERATOR, dtype=torch.uint8)
MASKS[:, :2] = 255
WEIGHTS = [0.5, 1.0, 4.0]


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_it_is_the_cross_entropy_of_pytorch(weights, smoothing):
    wanted = functional.cross_entropy(
        LOGITS,
        MASKS.long(),
        None if weights is None else torch.tensor(weights),
        ignore_index=255,
        label_smoothing=smoothing,
    )
    assert SegmentationLoss(weights, smoothing)(LOGITS, MASKS).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_deterministic_algorithms_give_the_same_loss():
    loss = SegmentationLoss(WEIGHTS, 0.1)
    wanted = loss(LOGITS, MASKS)
    torch.use_deterministic_algorithms(True)
    try:
        torch.testing.assert_close(loss(LOGITS, MASKS), wanted)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", ["dice", "lovasz"])
def test_a_loss_on_regions_is_added(name):
    region = {"dice": smp.losses.DiceLoss, "lovasz": smp.losses.LovaszLoss}[name]("multiclass", ignore_index=255)
    wanted = SegmentationLoss()(LOGITS, MASKS) + region(LOGITS, MASKS.long())
    assert SegmentationLoss(region=name)(LOGITS, MASKS).item() == pytest.approx(wanted.item())


def test_only_the_dice_loss_needs_segmentation_models_pytorch(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    task = find_task("segment")
    for name in (None, "lovasz"):
        task.check(recipe.make(**{**task.defaults, "region_loss": name}))
        SegmentationLoss(region=name)
    with pytest.raises(MissingExtraError, match="the loss dice needs segmentation_models_pytorch"):
        task.check(recipe.make(**{**task.defaults, "region_loss": "dice"}))


@pytest.mark.parametrize("region", [None, "dice", "lovasz"])
def test_without_labeled_pixels_it_is_zero(region):
    logits = LOGITS.clone().requires_grad_()
    loss = SegmentationLoss(WEIGHTS, region=region)(logits, torch.full_like(MASKS, 255))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("region", [None, "dice", "lovasz"])
def test_ignored_pixels_have_no_gradient(region):
    logits = LOGITS.clone().requires_grad_()
    SegmentationLoss(WEIGHTS, region=region)(logits, MASKS).backward()
    assert not logits.grad[:, :, :2].any()
    assert logits.grad[:, :, 2:].any()

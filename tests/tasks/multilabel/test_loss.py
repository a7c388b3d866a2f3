"""Losses of several labels per image, against PyTorch and torchvision."""

import pytest
import torch
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from mnv2zoo.tasks.multilabel.loss import make_criterion, make_mixup
from mnv2zoo.tasks.recipe import make

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [-0.3, 0.2, -2.0]])
TARGETS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])


def loss(weights=None, **recipe):
    return make_criterion(make(**{"smoothing": 0.0, "loss": "bce", **recipe}), weights)(LOGITS, TARGETS).item()


def bce(targets=TARGETS):
    return functional.binary_cross_entropy_with_logits(LOGITS, targets, reduction="none")


def test_binary_cross_entropy_is_summed_over_labels_and_averaged_over_images():
    assert loss() == pytest.approx(bce().sum().item() / 2)
    assert loss(smoothing=0.2) == pytest.approx(bce(TARGETS * 0.8 + 0.1).sum().item() / 2)
    weights = [1.0, 3.0, 0.5]
    assert loss(weights) == pytest.approx((bce() * torch.tensor(weights)).sum().item() / 2)


def test_focal_loss_is_torchvisions():
    wanted = sigmoid_focal_loss(LOGITS, TARGETS, alpha=-1, gamma=1.5, reduction="sum").item() / 2
    assert loss(loss="focal", focal_gamma=1.5) == pytest.approx(wanted)


def test_asymmetric_loss_is_that_of_the_paper():
    p = LOGITS.sigmoid()
    shifted = (p - 0.05).clamp(min=0)  # equation 5, with gamma 1 for positive and 4 for negative targets
    terms = TARGETS * (1 - p) * p.log() + (1 - TARGETS) * shifted**4 * (1 - shifted).log()
    assert loss(loss="asymmetric") == pytest.approx(-terms.sum().item() / 2)


def test_mixed_images_have_the_labels_of_both():
    mixup = make_mixup(make(mixup=1.0, smoothing=0.0), 3)
    images = torch.zeros(2, 3, 4, 4)
    images[1] = 1
    mixed, targets = mixup(images, TARGETS)
    share = 1 - mixed[0].mean()  # of the first image
    assert torch.allclose(targets[0], share * TARGETS[0] + (1 - share) * TARGETS[1])
    assert make_mixup(make(), 3) is None

"""The Lovász-Softmax loss equals segmentation_models_pytorch's, in value and gradient."""

import pytest
import segmentation_models_pytorch as smp
import torch

from mnv2zoo.tasks.segment.lovasz import lovasz_softmax

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(2, 5, 40, 60, generator=GENERATOR)
MASKS = torch.randint(0, 4, (2, 40, 60), generator=GENERATOR)  # no pixel shows class 4


def value_and_gradient(loss, masks):
    logits = LOGITS.clone().requires_grad_()
    value = loss(logits, masks)
    value.sum().backward()
    return value.detach().reshape(()), logits.grad


@pytest.mark.parametrize("ignored", [0, 7], ids=["every pixel counts", "ignored rows"])
def test_it_is_the_loss_of_segmentation_models_pytorch(ignored):
    masks = MASKS.clone()
    masks[:, :ignored] = 255
    value, gradient = value_and_gradient(lambda x, y: lovasz_softmax(x, y, 255), masks)
    wanted, wanted_gradient = value_and_gradient(smp.losses.LovaszLoss("multiclass", ignore_index=255), masks)
    torch.testing.assert_close(value, wanted, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-4, atol=1e-9)


def test_a_hand_worked_value():
    """Two pixels, of class 0 and 1, with probabilities 0.8 and 0.4 for class 0: both classes have errors 0.4 and 0.2.

    Class 0: the pixel of class 1 comes first (error 0.4, weight 1/2), then its own (0.2, 1/2): 0.3. Class 1: its own
    pixel comes first (error 0.4, weight 1), the other weighs nothing: 0.4. The mean is 0.35.
    """
    probabilities = torch.tensor([[0.8, 0.4], [0.2, 0.6]])[None, :, None]
    loss = lovasz_softmax(probabilities.log(), torch.tensor([[[0, 1]]]), 255)
    assert loss.item() == pytest.approx(0.35)


def test_without_pixels_that_count_it_is_zero_and_has_a_gradient_of_zero():
    value, gradient = value_and_gradient(lambda x, y: lovasz_softmax(x, y, 255), torch.full_like(MASKS, 255))
    assert value == 0
    assert not gradient.any()

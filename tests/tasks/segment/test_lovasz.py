"""The Lovász-Softmax loss equals segmentation_models_pytorch's, in value and gradient."""

import pytest
import segmentation_models_pytorch as smp
import torch

from mnv2zoo.tasks.segment.lovasz import BINS, lovasz_softmax

THEIRS = smp.losses.LovaszLoss("multiclass", ignore_index=255)


def random_batch(height, width):
    """Logits of five classes, and masks that show four of them."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, height, width, generator=generator)
    return logits, torch.randint(0, 4, (2, height, width), generator=generator)


def value_and_gradient(loss, logits, masks):
    logits = logits.clone().requires_grad_()
    value = loss(logits, masks)
    value.sum().backward()
    return value.detach().reshape(()), logits.grad


def ours(logits, masks):
    return lovasz_softmax(logits, masks, 255)


@pytest.mark.parametrize("ignored", [0, 1], ids=["every pixel counts", "ignored rows"])
def test_it_is_the_loss_of_segmentation_models_pytorch(ignored):
    logits, masks = random_batch(4, 5)
    masks[:, :ignored] = 255
    errors = (torch.nn.functional.one_hot(masks.clamp(max=4), 5).movedim(3, 1) - logits.softmax(1)).abs()
    bins = (errors * (BINS - 1)).long()
    assert all(len(bins[:, c].unique()) == masks.numel() for c in range(4)), "errors share a bin"
    value, gradient = value_and_gradient(ours, logits, masks)
    wanted, wanted_gradient = value_and_gradient(THEIRS, logits, masks)
    torch.testing.assert_close(value, wanted, rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-4, atol=1e-9)


def test_nearly_equal_errors_change_it_little():
    logits, masks = random_batch(120, 160)  # about two pixels per bin
    value, gradient = value_and_gradient(ours, logits, masks)
    wanted, wanted_gradient = value_and_gradient(THEIRS, logits, masks)
    torch.testing.assert_close(value, wanted, rtol=1e-5, atol=0)
    assert (gradient - wanted_gradient).norm() < 2e-3 * wanted_gradient.norm()


def test_of_equal_errors_those_of_other_classes_come_first():
    """One pixel of class 0 and two of class 1, all with a probability of 1/2.

    Class 0: the IoU is 1 at first, then 1/2 and 1/3 with the two pixels of the other class, which share the 2/3, then
    0. Class 1: the IoU is 1, then 2/3, then 1/3 and 0. So class 0 weighs the pixels 1/3, 1/3, 1/3, and class 1 the
    same. Softmax of equal logits has a slope of 1/4, and the classes' mean halves it: 1/4 * (1/3 + 1/3) / 2 = 1/12.
    """
    value, gradient = value_and_gradient(ours, torch.zeros(1, 2, 1, 3), torch.tensor([[[0, 1, 1]]]))
    assert value.item() == pytest.approx(0.5)
    torch.testing.assert_close(gradient[0, 0, 0], torch.tensor([-1, 1, 1]) / 12)


def test_a_hand_worked_value():
    """Two pixels, of class 0 and 1, with probabilities 0.8 and 0.4 for class 0: both classes have errors 0.4 and 0.2.

    Class 0: the pixel of class 1 comes first (error 0.4, weight 1/2), then its own (0.2, 1/2): 0.3. Class 1: its own
    pixel comes first (error 0.4, weight 1), the other weighs nothing: 0.4. The mean is 0.35.
    """
    probabilities = torch.tensor([[0.8, 0.4], [0.2, 0.6]])[None, :, None]
    loss = lovasz_softmax(probabilities.log(), torch.tensor([[[0, 1]]]), 255)
    assert loss.item() == pytest.approx(0.35)


def test_without_pixels_that_count_it_is_zero_and_has_a_gradient_of_zero():
    logits, masks = random_batch(4, 5)
    value, gradient = value_and_gradient(ours, logits, torch.full_like(masks, 255))
    assert value == 0
    assert not gradient.any()

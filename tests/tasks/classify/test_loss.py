"""The loss of a classifier is that of PyTorch's own functions."""

import torch
import torch.nn.functional as F

from mnv2zoo.data.datasets import Data
from mnv2zoo.tasks.classify import Classify
from mnv2zoo.tasks.recipe import Recipe

LABELS = ("ant", "bee", "cat")


def step(recipe, inputs, targets):
    task = Classify()
    task.setup(recipe, Data(LABELS, {}), None, torch.device("cpu"))
    assert task.fingerprints() == {"teacher": None}
    return task.training_step(lambda images: images.flatten(1)[:, :3], inputs, targets)


def test_the_loss_is_smoothed_cross_entropy():
    inputs, targets = torch.randn(4, 3, 1, 1), torch.tensor([0, 1, 2, 1])
    wanted = F.cross_entropy(inputs.flatten(1), targets, label_smoothing=0.1)
    assert torch.equal(step(Recipe(), inputs, targets), wanted)
    bce = step(Recipe(loss="bce", smoothing=0.0), inputs, targets)
    torch.testing.assert_close(
        bce, F.binary_cross_entropy_with_logits(inputs.flatten(1), F.one_hot(targets, 3).float())
    )

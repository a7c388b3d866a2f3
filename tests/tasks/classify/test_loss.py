"""The loss of a classifier is that of PyTorch's own functions."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from mnv2zoo.data.datasets import Data, Sample
from mnv2zoo.tasks.classify import Classify
from mnv2zoo.tasks.classify.loss import CrossEntropy
from mnv2zoo.tasks.recipe import Recipe

LABELS = ("ant", "bee", "cat")
START = SimpleNamespace(preprocessing={"input_size": (3, 32, 32)})


def step(recipe, inputs, targets):
    task = Classify()
    task.setup(recipe, Data(LABELS, {}), START, torch.device("cpu"))
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


def test_weights_count_the_images_of_rare_classes_more():
    logits, targets = torch.randn(4, 3), torch.tensor([0, 1, 0, 0])
    loss = CrossEntropy(0.1, torch.tensor([2 / 3, 2.0, 1.0]))
    each = F.cross_entropy(logits, targets, torch.tensor([2 / 3, 2.0, 1.0]), reduction="none", label_smoothing=0.1)
    torch.testing.assert_close(loss(logits, targets), each.sum() / 4)
    parts = [loss(logits[part], targets[part]) for part in (slice(2), slice(2, 4))]
    torch.testing.assert_close(sum(parts) / 2, loss(logits, targets))


def test_focal_loss_is_that_of_the_paper():
    probabilities = torch.tensor([[0.9, 0.1], [0.4, 0.6]])
    loss = CrossEntropy(gamma=2.0)(probabilities.log(), torch.tensor([0, 0]))
    assert loss.item() == pytest.approx(-(0.1**2 * math.log(0.9) + 0.6**2 * math.log(0.4)) / 2, rel=1e-5)
    sigmoid = sigmoid_focal_loss(torch.tensor([[1.5]]), torch.ones(1, 1), alpha=-1, gamma=2.0, reduction="mean")
    torch.testing.assert_close(CrossEntropy(gamma=2.0)(torch.tensor([[1.5, 0.0]]), torch.tensor([0])), sigmoid)


def test_the_recipe_chooses_loss_and_weights():
    samples = tuple(Sample(str(number), target, Path()) for number, target in enumerate([0, 0, 0, 1, 1, 2]))
    task = Classify()
    recipe = Recipe(loss="focal", focal_gamma=1.5, class_weights="balanced", smoothing=0.0)
    task.setup(recipe, Data(LABELS, {"train": samples}), START, torch.device("cpu"))
    weights = torch.tensor([2 / 3, 1.0, 2.0])
    assert task.fingerprints()["class_weights"] == pytest.approx(weights.tolist())
    inputs, targets = torch.randn(4, 3, 1, 1), torch.tensor([0, 1, 2, 1])
    loss = task.training_step(lambda images: images.flatten(1), inputs, targets)
    torch.testing.assert_close(loss, CrossEntropy(0.0, weights, 1.5)(inputs.flatten(1), targets))

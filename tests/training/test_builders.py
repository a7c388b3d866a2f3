"""Optimizers, schedules and image sizes are those that a recipe describes."""

import pytest
import torch

import mnv2zoo
from mnv2zoo.errors import RecipeError
from mnv2zoo.models.mobilenetv2 import MobileNetV2
from mnv2zoo.tasks.recipe import Recipe
from mnv2zoo.training import builders
from tests.photos import QUICK
from tests.training.runs import MODEL, ONE


@pytest.mark.slow
def test_images_grow_by_the_quarter(photos, tmp_path, monkeypatch):
    seen = []
    forward = MobileNetV2.forward

    def watched(self, x):
        if self.training:
            seen.append(x.shape[-1])
        return forward(self, x)

    monkeypatch.setattr(MobileNetV2, "forward", watched)
    values = {**QUICK, "start_input_size": 32, "input_size": 64, "epochs": 5, "batch_size": 32}
    mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **values)
    assert seen == [32, 32, 40, 56, 64]
    seen.clear()
    mnv2zoo.finetune(photos, MODEL, tmp_path / "short", **{**values, "epochs": 2})
    assert seen == [32, 64]


def test_images_cannot_shrink(photos, tmp_path):
    with pytest.raises(RecipeError, match="start_input_size"):
        mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **{**QUICK, "start_input_size": 32})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"opt": "sdg"}, "opt"),
        ({"opt": "lbfgs"}, "opt"),
        ({"opt": "fusedadam"}, "opt"),
        ({"auto_augment": "rnad-m7"}, "auto_augment"),
        ({"auto_augment": "rand-m7-foo1"}, "auto_augment"),
        ({"auto_augment": "rand-m7-foo"}, "auto_augment"),
        ({"auto_augment": "rand-m7-tnone"}, "auto_augment"),
        ({"auto_augment": "rand-mx7"}, "auto_augment"),
        ({"auto_augment": "augmix-z3"}, "auto_augment"),
        ({"sched": "cosin"}, "sched"),
        ({"loss": "mse"}, "loss"),
        ({"train": "Bottleneck_99"}, "train"),
        ({"classifier": "cnov"}, "classifier"),
        ({"pad_type": "smae"}, "pad_type"),
        ({"train": "head", "cutmix": 1.0}, "cutmix"),
        ({"train": "head", "mixup": 0.2}, "mixup"),
        ({"start_input_size": 64}, "start_input_size"),
        ({"batch_size": 7, "mixup": 0.2}, "batch_size"),
    ],
    ids=str,
)
def test_a_value_that_cannot_work_leaves_no_folder(photos, tmp_path, values, where):
    with pytest.raises(RecipeError) as error:
        mnv2zoo.finetune(photos, MODEL, tmp_path / "a" / "run", **{**ONE, **values})
    assert error.value.where == where
    assert error.value.fix
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_no_momentum_is_plain_gradient_descent(photos, tmp_path):
    mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **{**ONE, "momentum": 0.0})
    net, lr = torch.nn.Linear(2, 2), 0.1
    before = net.weight.detach().clone()
    optimizer = builders.make_optimizer(net, Recipe(momentum=0.0, weight_decay=0.0), lr)
    for _ in range(2):
        optimizer.zero_grad()
        net(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    torch.testing.assert_close(net.weight, before - 2 * lr)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["rand-m7-mstd0.5-inc1", "rand-m9-n3-p0.4-mmax12-tweights", "augmix-m3-w3", "3a", "original-mstd0.5"]
)
def test_augmentations_of_timm_are_taken(name):
    builders.check(Recipe(auto_augment=name))


@pytest.mark.slow
def test_optimizers_of_timm_are_taken():
    for name in ("sgd", "momentum", "adamw", "lamb", "lion", "lookahead_adamw", "nadamw", "rmsproptf", "muon"):
        builders.check(Recipe(opt=name))


def test_the_default_learning_rate_grows_with_the_batch():
    assert builders.learning_rate(Recipe(batch_size=32)) == pytest.approx(0.02)
    assert builders.learning_rate(Recipe(batch_size=128)) == pytest.approx(0.08)
    assert builders.learning_rate(Recipe(batch_size=128, lr=0.5)) == 0.5


@pytest.mark.parametrize(("epochs", "sides"), [(4, [64, 88, 104, 128]), (2, [64, 128]), (1, [128])])
def test_the_side_grows_by_the_quarter_in_multiples_of_8(epochs, sides):
    recipe = Recipe(epochs=epochs, start_input_size=64)
    assert [builders.side_of_epoch(recipe, epoch, 128) for epoch in range(epochs)] == sides
    assert builders.side_of_epoch(Recipe(epochs=epochs), 0, 128) == 128


def test_the_learning_rate_warms_up_and_falls_to_its_lowest():
    recipe = Recipe(epochs=4, warmup_epochs=1.0, min_lr=0.1, sched="cosine")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = builders.make_scheduler(optimizer, recipe, 0.5, steps=10)
    rates = []
    for step in range(41):
        scheduler.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.005)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert max(rates) <= 0.5
    assert rates[-1] == pytest.approx(0.05)


def test_the_backbone_learns_at_a_share_of_the_rate():
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    recipe = Recipe(opt="adamw", lr=1.0, backbone_lr=0.1, weight_decay=0.5, warmup_epochs=0, epochs=2)
    optimizer = builders.make_optimizer(net, recipe, 1.0, backbone=net[0])
    builders.make_scheduler(optimizer, recipe, 1.0, steps=4).step_update(0)
    found = {p: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert found == {
        net[0].weight: (0.1, 0.5),
        net[0].bias: (0.1, 0),
        net[1].weight: (1, 0.5),
        net[1].bias: (1, 0),
    }

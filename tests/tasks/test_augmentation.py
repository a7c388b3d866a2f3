"""The augmentation is timm's, and one that timm would ignore in part is refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from mnv2zoo.data.sampler import seed_augmentation
from mnv2zoo.errors import RecipeError
from mnv2zoo.tasks import augmentation
from mnv2zoo.tasks.recipe import Recipe

PREPROCESSING = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bilinear"}
STILL = {"scale": 1.0, "hflip": 0.0, "vflip": 0.0, "color_jitter": 0.0, "reprob": 0.0}


def halves(**values):
    """The left and the right half of an image that is black on the left and white on the right."""
    image = Image.new("RGB", (32, 32))
    image.paste((255, 255, 255), (16, 0, 32, 32))
    found = augmentation.augmentation(Recipe(**{**STILL, **values}), **PREPROCESSING, crop_pct=0.5)(image)
    assert found.shape == (3, 32, 32)
    return found[..., 2].mean().item(), found[..., -3].mean().item()


def test_without_augmentation_the_values_are_only_normalized():
    assert halves() == (-1.0, 1.0)


def test_a_flip_is_that_of_the_recipe():
    assert halves(hflip=1.0) == (1.0, -1.0)
    assert halves(vflip=1.0) == (-1.0, 1.0)


def on_device(images, **values):
    recipe = Recipe(**{**STILL, "augment_on": "device", **values})
    return augmentation.OnDevice(recipe, PREPROCESSING, torch.device("cpu"))(images)


def test_the_device_goes_on_where_the_readers_stopped():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8))
    found = []
    for where in ("workers", "device"):
        seed_augmentation(3)
        found.append(augmentation.augmentation(Recipe(**STILL, augment_on=where), **PREPROCESSING)(image))
    assert found[1].dtype == torch.uint8
    torch.testing.assert_close(on_device(found[1][None])[0], found[0])


def test_flips_on_the_device_are_those_of_the_recipe():
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    plain = on_device(images)
    torch.testing.assert_close(on_device(images, hflip=1.0), plain.flip(-1))
    torch.testing.assert_close(on_device(images, vflip=1.0), plain.flip(-2))
    torch.manual_seed(0)
    flipped = (on_device(images, hflip=0.5) != plain).flatten(1).any(1)
    assert 0 < flipped.sum() < 6  # each image has a choice of its own


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_each_image_is_changed_in_color_as_torchvision_does(name):
    images, factors = torch.rand(4, 3, 16, 16), torch.tensor([0.0, 0.6, 1.0, 1.4])
    found = getattr(augmentation, name)(images, factors.view(-1, 1, 1, 1))
    wanted = [
        getattr(F, f"adjust_{name}")(image, factor) for image, factor in zip(images, factors.tolist(), strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(wanted))


def test_colors_stay_within_the_recipes_range_and_differ_between_images():
    images = torch.full((64, 3, 8, 8), 100, dtype=torch.uint8)
    values = (on_device(images, color_jitter=0.2) * 0.5 + 0.5)[:, 0, 0, 0] * 255 / 100  # gray stays gray
    assert 0.8 <= values.min() < 0.9
    assert 1.1 < values.max() <= 1.2


def test_a_rectangle_is_erased_on_the_device():
    images = torch.full((8, 3, 32, 32), 255, dtype=torch.uint8)
    erased = on_device(images, reprob=1.0) == 0
    assert erased.flatten(1).any(1).all()
    assert not erased.flatten(1).all(1).any()


def test_automatic_augmentation_is_refused_on_the_device():
    with pytest.raises(RecipeError) as error:
        Recipe(augment_on="device", auto_augment="rand-m5")
    assert error.value.where == "augment_on"


def test_no_augmentation_needs_no_check():
    augmentation.check(Recipe())
    augmentation.check(Recipe(auto_augment="rand-m7-mstd0.5-inc1"))


@pytest.mark.parametrize("name", ["rnad-m7", "rand-m7-foo", "rand-m7-tnone", "augmix-z3"])
def test_what_timm_does_not_know_or_ignores_is_refused(name):
    with pytest.raises(RecipeError) as error:
        augmentation.check(Recipe(auto_augment=name))
    assert error.value.where == "auto_augment"

"""The augmentation is timm's, and one that timm would ignore in part is refused."""

import pytest
from PIL import Image

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


def test_no_augmentation_needs_no_check():
    augmentation.check(Recipe())
    augmentation.check(Recipe(auto_augment="rand-m7-mstd0.5-inc1"))


@pytest.mark.parametrize("name", ["rnad-m7", "rand-m7-foo", "rand-m7-tnone", "augmix-z3"])
def test_what_timm_does_not_know_or_ignores_is_refused(name):
    with pytest.raises(RecipeError) as error:
        augmentation.check(Recipe(auto_augment=name))
    assert error.value.where == "auto_augment"

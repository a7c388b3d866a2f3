"""Masks follow their images."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from mnv2zoo.data.layout import Layout
from mnv2zoo.data.sampler import seed_augmentation
from mnv2zoo.tasks.recipe import Recipe
from mnv2zoo.tasks.segment import data
from mnv2zoo.tasks.segment.augmentation import Augmentation, Evaluation, whole
from tests.tasks.segment.scenes import VOID, fill

HOW = {"input_size": (3, 32, 40), "mean": (0.5, 0.4, 0.3), "std": (0.25, 0.2, 0.5), "interpolation": "bilinear"}
GRAY = {0: 40, 1: 120, 2: 200, VOID: 250}


class Target:
    """A mask in memory."""

    def __init__(self, numbers):
        self.numbers = numbers

    def read(self):
        return self.numbers.copy()


def scene(seed=0, side=6):
    """An image that shows its own mask in gray, and the mask: 4 x 5 squares."""
    squares = np.random.default_rng(seed).choice([0, 1, 2], (4, 5))
    numbers = np.kron(squares, np.ones((side, side), int)).astype(np.uint8)
    gray = np.vectorize(GRAY.get)(numbers).astype(np.uint8)
    return Image.fromarray(np.stack([gray] * 3, 2)), Target(numbers)


@pytest.mark.parametrize(
    "values", [{}, {"rotate": 1.0}, {"vflip": 1.0}, {"scale_jitter": (0.3, 0.5)}, {"scale_jitter": (3.0, 4.0)}], ids=str
)
def test_the_mask_follows_the_image(values):
    recipe = Recipe(**{"color_jitter": 0.0, "scale_jitter": (0.5, 2.0), **values})
    augmentation = pickle.loads(pickle.dumps(Augmentation(HOW, recipe)))
    clear, ignored = 0, 0
    for seed in range(40):
        seed_augmentation(seed)
        image, mask = augmentation(*scene(seed))
        assert (image.shape, mask.shape, mask.dtype) == ((3, 32, 40), (32, 40), torch.uint8)
        assert type(image) is type(mask) is torch.Tensor
        pixels = image * torch.tensor(HOW["std"]).view(3, 1, 1) + torch.tensor(HOW["mean"]).view(3, 1, 1)
        gray = 255 * pixels[1]
        for number in (0, 1, 2):
            inside = torch.nn.functional.max_pool2d((mask != number).float()[None], 7, 1, 3)[0] == 0  # not at borders
            assert (gray[inside] - GRAY[number]).abs().le(45).float().mean() > 0.9 if inside.any() else True
            clear += int(inside.sum())
        padding = mask == VOID
        ignored += int(padding.sum())
        assert image[:, padding].abs().max() < 0.02 if padding.any() else True  # the mean
    assert clear
    assert bool(ignored) == (values.get("scale_jitter") != (3.0, 4.0))


def test_the_seed_alone_decides():
    augmentation = Augmentation(HOW, Recipe(rotate=0.5, scale_jitter=(0.5, 2.0)))
    found = []
    for seed in (1, 2, 1):
        seed_augmentation(seed)
        found.append(augmentation(*scene()))
    assert all(map(torch.equal, found[0], found[2]))
    assert not torch.equal(found[0][0], found[1][0])


def test_without_chance_nothing_is_changed_but_the_size():
    recipe = Recipe(scale_jitter=(1, 1), hflip=0.0, color_jitter=0.0)
    image, target = scene(side=8)
    pixels, mask = Augmentation(HOW, recipe)(image, target)
    wanted = (np.asarray(image, np.float32) / 255 - HOW["mean"]) / HOW["std"]
    np.testing.assert_allclose(pixels.permute(1, 2, 0).numpy(), wanted, atol=1e-5)
    assert (mask.numpy() == target.numbers).all()


def test_otherwise_the_whole_image_is_squashed_and_the_mask_stays(tmp_path):
    sample = data.find(fill(tmp_path / "data"), Layout()).splits["val"][0]
    image, mask = Evaluation(whole(HOW))(sample.read(), sample.target)
    resized = sample.read().resize((40, 32), Image.Resampling.BILINEAR)
    wanted = (np.asarray(resized, np.float32) / 255 - HOW["mean"]) / HOW["std"]
    np.testing.assert_allclose(image.permute(1, 2, 0).numpy(), wanted, atol=1e-5)
    assert (mask.numpy() == sample.target.read()).all()

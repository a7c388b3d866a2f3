"""Images and boxes that are resized, flipped, turned and cropped together."""

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image

from mnv2zoo.data.preprocessing import Whole
from mnv2zoo.data.sampler import seed_augmentation
from mnv2zoo.tasks.detect import transforms
from mnv2zoo.tasks.detect.objects import Objects
from mnv2zoo.tasks.recipe import Recipe

SQUASH = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "interpolation": "bilinear", "crop_mode": "squash"}
RATIO = {**SQUASH, "input_size": (3, 100, 60), "crop_mode": "border"}
PLAIN = Recipe(hflip=0, color_jitter=0)
BOX = (20, 10, 50, 40)


def picture(box=BOX, size=(100, 80)):
    """A black picture with a white box, and its objects."""
    image = Image.new("RGB", size)
    image.paste((255, 255, 255), box)
    return image, Objects((tuple(map(float, box)),), (1,), (False,), size)


def seen_in(pixels):
    """The corners of what is bright."""
    rows, columns = np.where(pixels.mean(0).numpy() > 0.5)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_evaluation_sees_what_prediction_sees():
    image, objects = picture(size=(200, 150))
    pixels, target = transforms.Evaluation(transforms.whole(RATIO))(image, objects)
    whole = Whole(100, 60, (0.0,) * 3, (1.0,) * 3, keep_ratio=True)
    assert torch.equal(pixels, whole.batch([whole.prepare(image)], torch.device("cpu"))[0])
    assert pixels.shape == (3, 60, 80)
    assert target["scale"].tolist() == [2.5, 2.5]
    assert target["boxes"].tolist() == [[8, 4, 20, 16]]
    assert (target["labels"].tolist(), target["ignored"].tolist()) == ([2], [False])


@pytest.mark.parametrize(
    ("values", "size"),
    [
        ({"hflip": 1.0}, (64, 64)),
        ({"vflip": 1.0}, (64, 64)),
        ({"rotate": 1.0}, (64, 64)),
        ({"scale_jitter": (0.5, 0.5)}, (64, 64)),
        ({"scale_jitter": (1.5, 1.5)}, (64, 64)),
        ({"iou_crop": 1.0}, (64, 64)),
        ({"scale_jitter": (0.5, 2.0), "rotate": 0.5, "hflip": 0.5, "vflip": 0.5, "iou_crop": 0.5}, (64, 64)),
    ],
    ids=str,
)
def test_boxes_stay_on_their_objects(values, size):
    recipe = Recipe(**{"hflip": 0, "color_jitter": 0, **values})
    transform = transforms.training({**SQUASH, "mean": (0.0,) * 3}, recipe)
    changed = 0
    for seed in range(30):
        seed_augmentation(seed)
        pixels, target = transform(*picture())
        assert pixels.shape == (3, *size)
        assert (pixels.min() >= 0) & (pixels.max() <= 1)
        if len(target["boxes"]):
            np.testing.assert_allclose(target["boxes"][0], seen_in(pixels), atol=2)
            assert target["labels"].tolist() == [2]
            changed += target["boxes"][0].tolist() != pytest.approx([12.8, 8, 32, 32], abs=0.5)
    assert changed > 3


@pytest.mark.parametrize("size", [(100, 80), (80, 100)])
def test_the_ratio_is_kept_in_training_too(size):
    image, objects = picture(size=size)
    pixels, target = transforms.training(RATIO, PLAIN)(image, objects)
    assert (
        pixels.shape[1:][::-1]
        == Whole(100, 60, (), (), keep_ratio=True).size_of(*size)
        == (75, 60)[:: 1 if size[0] > 80 else -1]
    )
    torch.testing.assert_close(target["boxes"], torch.tensor([BOX]) * 0.75, atol=1e-4, rtol=0)


def test_ignored_objects_and_what_a_crop_leaves_too_little_of_are_not_trained_on():
    image, _ = picture()
    objects = Objects((BOX, (0.0, 0.0, 9.0, 9.0)), (1, 0), (True, False), (100, 80))
    _, target = transforms.training(SQUASH, PLAIN)(image, objects)
    assert target["labels"].tolist() == [1]
    # Cropped to half of the side, of this box at times nothing, at times a sliver is left.
    crop = transforms.training(SQUASH, Recipe(hflip=0, color_jitter=0, scale_jitter=(2.0, 2.0)))
    counts = []
    for seed in range(60):
        seed_augmentation(seed)
        pixels, target = crop(*picture())
        counts.append(len(target["boxes"]))
        bright = (pixels.mean(0) > 0.5).sum().item() / (30 * 30 * 4 * (64 / 100) * (64 / 80))
        assert counts[-1] == (bright >= 0.25) or abs(bright - 0.25) < 0.03
    assert 0 < sum(counts) < 60


def test_images_without_objects_pass_every_step():
    recipe = Recipe(scale_jitter=(0.5, 2.0), rotate=0.5, iou_crop=1.0, vflip=0.5)
    transform = transforms.training(SQUASH, recipe)
    for seed in range(20):
        seed_augmentation(seed)
        _, target = transform(Image.new("RGB", (100, 80)), Objects(size=(100, 80)))
        assert target["boxes"].shape == (0, 4)


def test_the_seed_alone_decides_and_everything_pickles():
    recipe = Recipe(scale_jitter=(0.5, 2.0), rotate=0.5, iou_crop=0.5, vflip=0.5)
    transform = transforms.training(SQUASH, recipe)
    copy = pickle.loads(pickle.dumps(transform))
    for seed in range(5):
        found = []
        for one in (transform, copy):
            random.random()
            torch.rand(3)
            seed_augmentation(seed)
            found.append(one(*picture()))
        assert torch.equal(found[0][0], found[1][0])
        assert torch.equal(found[0][1]["boxes"], found[1][1]["boxes"])
    assert type(found[0][0]) is type(found[0][1]["boxes"]) is torch.Tensor

"""The augmentation is timm's, and one that timm would ignore in part is refused."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as F

from mnv2zoo.data.pixels import Bands
from mnv2zoo.data.sampler import seed_augmentation
from mnv2zoo.errors import RecipeError
from mnv2zoo.tasks import augmentation
from mnv2zoo.tasks.classify.task import Classify
from mnv2zoo.tasks.multilabel.data import Labels
from mnv2zoo.tasks.multilabel.task import Multilabel
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
        recipe = Recipe(**STILL, augment_on=where)
        later = augmentation.for_device(recipe, PREPROCESSING, torch.device("cpu"))
        found.append(augmentation.augmentation(recipe, later, **PREPROCESSING)(image))
    assert found[1].dtype == torch.uint8
    torch.testing.assert_close(on_device(found[1][None])[0], found[0])


def test_an_accelerator_gets_bytes_and_normalizes_them():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8))
    recipe, found = Recipe(**STILL | {"hflip": 0.5, "vflip": 0.5, "color_jitter": 0.4}), []
    assert type(augmentation.for_device(recipe, PREPROCESSING, torch.device("meta"))) is augmentation.Normalized
    normalize = augmentation.Normalized(PREPROCESSING, torch.device("cpu"))
    for later in (None, normalize):
        seed_augmentation(3)
        found.append(augmentation.augmentation(recipe, later, **PREPROCESSING)(image))
    assert torch.as_tensor(found[1]).dtype == torch.uint8
    torch.testing.assert_close(normalize(torch.as_tensor(found[1])[None])[0], found[0], rtol=0, atol=0)


@pytest.mark.parametrize("kind", [Classify, Multilabel])
def test_tasks_leave_to_the_device_what_it_does_and_read_smaller_photos_all_the_same(kind):
    image, target = Image.new("RGB", (40, 50), (10, 100, 200)), Labels((1,), 2)
    task, recipe = kind(), Recipe(**STILL)
    wanted = task.transforms(PREPROCESSING, recipe)(image, target)[0]
    task.on_device = augmentation.Normalized(PREPROCESSING, torch.device("cpu"))
    given = torch.as_tensor(task.transforms(PREPROCESSING, recipe)(image, target)[0])[None]
    assert given.dtype == torch.uint8
    torch.testing.assert_close(task.augment(given, target)[0][0], wanted)
    torch.testing.assert_close(task.augment(wanted[None], target)[0][0], wanted, rtol=0, atol=0)  # already normalized
    assert task.transforms(PREPROCESSING, recipe).reader == augmentation.reader(recipe, PREPROCESSING) is not None
    assert task.transforms(PREPROCESSING).reader is not None


@pytest.mark.parametrize(
    ("device", "values", "channels"), [("cpu", {}, 3), ("meta", {"reprob": 0.5}, 3), ("meta", {}, 1)]
)
def test_workers_normalize_for_the_cpu_and_what_the_device_cannot_finish(device, values, channels):
    preprocessing = {**PREPROCESSING, "input_size": (channels, *PREPROCESSING["input_size"][1:])}
    assert augmentation.for_device(Recipe(**STILL | values), preprocessing, torch.device(device)) is None


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


def cropped(image, **values):
    """An image after augmentation by a crop alone."""
    preprocessing = {**PREPROCESSING, "crop_pct": 1.0, **values}
    return augmentation.augmentation(Recipe(**{**STILL, "scale": 0.35}), **preprocessing)(image)


def test_a_squashed_image_is_cut_from_the_whole_of_it():
    """A crop of at most the whole keeps left and right apart: a long image is not cut to its middle."""
    image = Image.new("RGB", (400, 40))
    image.paste((255, 255, 255), (200, 0, 400, 40))
    for seed in range(20):
        seed_augmentation(seed)
        found = cropped(image, crop_mode="squash", input_size=(3, 32, 32))
        # The narrowest crop has 0.51 of the width, so it shows both halves; a crop of the image would have 0.13 of it.
        assert (found[0, 0].min(), found[0, 0].max()) == (-1, 1), seed


def test_a_letterboxed_image_keeps_its_aspect_and_its_padding():
    image = Image.new("RGB", (100, 50), "white")
    whole = augmentation.augmentation(Recipe(**STILL), **PREPROCESSING, crop_mode="border")
    shares = []
    for seed in range(30):
        seed_augmentation(seed)
        found = cropped(image, crop_mode="border", input_size=(3, 32, 32))
        assert found.shape == (3, 32, 32)
        shares.append((found[0] > 0.9).float().mean().item())
    assert 0.3 < min(shares) < 0.55 < max(shares) <= 1  # half of the whole letterbox is image
    found = [whole(image) for _ in range(5)]
    for one in found:  # crops of all of its area, whose aspect may differ by a little
        assert 0.4 < (one[0] > 0.9).float().mean() < 0.7


def test_crops_have_the_aspect_of_the_input():
    """The aspect of a crop, as the recipe takes it from timm, is within 3/4 and 4/3 of that of the input."""
    across = Image.fromarray(np.tile(np.arange(0, 250, 1, np.uint8), (250, 1)))
    for seed in range(20):
        seed_augmentation(seed)
        found = cropped(across.convert("RGB"), input_size=(3, 32, 96), interpolation="bilinear")
        seed_augmentation(seed)
        down = cropped(across.transpose(Image.Transpose.TRANSPOSE).convert("RGB"), input_size=(3, 32, 96))
        width = (found[0, 0, -1] - found[0, 0, 0]).item() * 127.5 * 96 / 95
        height = (down[0, -1, 0] - down[0, 0, 0]).item() * 127.5 * 32 / 31
        assert 3 * 0.7 < width / height < 3 * 1.4, seed


def test_channels_are_cropped_and_flipped_and_keep_their_values():
    values = np.random.default_rng(0).uniform(0, 1, (32, 32, 5)).astype(np.float32)
    config = {"input_size": (5, 32, 32), "mean": (0.0,) * 5, "std": (1.0,) * 5, "interpolation": "bilinear"}
    for mode in ("center", "squash", "border"):
        transform = augmentation.augmentation(Recipe(scale=1.0, hflip=1.0, color_jitter=0.9), **config, crop_mode=mode)
        seed = next(s for s in range(200) if _is_whole(transform, s))
        seed_augmentation(seed)
        found = transform(Bands(values))
        np.testing.assert_allclose(found.numpy(), values[:, ::-1].transpose(2, 0, 1), atol=1e-5)


def _is_whole(transform, seed):
    """Whether the random crop of a seed is the whole image: one that is marked at its corners shows all marks."""
    marked = np.zeros((32, 32, 5), np.float32)
    marked[0, 0] = marked[0, -1] = marked[-1, 0] = marked[-1, -1] = 1
    seed_augmentation(seed)
    found = transform(Bands(marked))
    return bool((found[0, [0, 0, -1, -1], [0, -1, 0, -1]] == 1).all())

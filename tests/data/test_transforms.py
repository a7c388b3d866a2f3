"""Transforms are timm's, for images of any mode and for models of one channel."""

import pytest
import timm
import torch
from PIL import Image

from mnv2zoo.data import transforms
from mnv2zoo.errors import DataError
from tests.photos import photo

CFG = {
    "input_size": (3, 32, 32),
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "mean": (0.5, 0.4, 0.3),
    "std": (0.5, 0.25, 0.2),
}


def test_an_rgb_image_is_transformed_as_timm_does():
    image = photo("red", 1)
    found = transforms.for_weights(CFG)(image)
    assert torch.equal(found, timm.data.create_transform(**CFG)(image))
    assert found.shape == (3, 32, 32)


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "CMYK"])
def test_an_image_of_any_mode_is_transformed_as_its_rgb_image(mode):
    gray = Image.new("RGB", (40, 36), (204, 204, 204))  # a color of the web palette
    assert torch.equal(transforms.for_weights(CFG)(gray.convert(mode)), transforms.for_weights(CFG)(gray))


def test_a_model_of_one_channel_sees_the_normalized_luminance():
    cfg = {**CFG, "input_size": (1, 32, 32), "mean": (0.5,), "std": (0.25,)}
    found = transforms.for_weights(cfg)(Image.new("RGB", (40, 36), (255, 0, 0)))
    # Pillow's luminance of pure red is 76: 0.299 * 255, rounded.
    torch.testing.assert_close(found, torch.full((1, 32, 32), (76 / 255 - 0.5) / 0.25))


def test_the_size_for_evaluation_comes_first_and_statistics_fit_the_channels():
    cfg = {**CFG, "test_input_size": (3, 48, 48)}
    assert transforms.image_config(cfg)["input_size"] == (3, 48, 48)
    assert transforms.image_config(cfg, test=False)["input_size"] == (3, 32, 32)
    found = transforms.image_config(CFG, in_chans=1)
    assert (found["input_size"], len(found["mean"]), len(found["std"])) == ((1, 32, 32), 1, 1)


@pytest.mark.parametrize("channels", [0, 9])
def test_more_channels_than_are_read_from_files_are_refused(channels):
    with pytest.raises(DataError) as error:
        transforms.check_channels(channels, "mnv2zoo_035")
    assert (error.value.found, error.value.where) == (f"in_chans={channels}", "mnv2zoo_035")

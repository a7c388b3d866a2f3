"""Transforms are timm's, for images of any mode and for models of one channel."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data.transforms import CenterCropOrPad, ResizeKeepRatio
from torchvision.transforms import v2

from mnv2zoo.data import transforms
from mnv2zoo.errors import DataError, ImageReadError
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


BANDS = {**CFG, "input_size": (4, 24, 40), "mean": (0.1, 0.2, 0.3, 0.4), "std": (0.5, 0.6, 0.7, 0.8)}


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
def test_other_channels_are_fitted_as_timm_fits_tensors(mode, crop_pct):
    cfg = {**BANDS, "crop_mode": mode, "crop_pct": crop_pct, "mean": (0.0,) * 4}
    values = np.random.default_rng(0).uniform(0, 1, (90, 70, 4)).astype(np.float32)
    found = transforms.for_weights(cfg)(values)
    if mode == "border":  # which timm's own does for images alone, since it pads with a list
        scaled = [int(side / crop_pct) for side in (24, 40)]
        transform = v2.Compose(
            [ResizeKeepRatio(scaled, 1.0, "bicubic"), CenterCropOrPad((24, 40)), v2.Normalize((0.0,) * 4, cfg["std"])]
        )
    else:
        transform = timm.data.create_transform(**cfg)
    theirs = transform(torch.from_numpy(values).permute(2, 0, 1))
    torch.testing.assert_close(found, theirs, rtol=0, atol=2e-5)


def test_a_photo_is_refused_by_a_network_for_other_channels():
    with pytest.raises(ImageReadError) as error:
        transforms.for_weights(BANDS)(photo("red", 1))
    assert (error.value.expected, error.value.found) == ("4 channels", "a photo in RGB")


def test_channels_are_augmented_as_tensors():
    values = np.random.default_rng(0).integers(0, 65536, (40, 60, 4)).astype(np.uint16)
    whole = {"scale": (1.0, 1.0), "ratio": (1.5, 1.5), "hflip": 1.0, "color_jitter": 0.0}
    found = transforms.for_weights({**BANDS, "input_size": (4, 40, 60)}, training=True, **whole)(values)
    expected = (values[:, ::-1] / 65535 - BANDS["mean"]) / BANDS["std"]
    np.testing.assert_allclose(found.numpy(), expected.transpose(2, 0, 1), atol=1e-5)


def test_a_gray_array_is_what_a_network_of_one_channel_takes():
    cfg = {**CFG, "input_size": (1, 32, 32), "mean": (0.5,), "std": (0.25,)}
    found = transforms.for_weights(cfg)(np.full((40, 36), 65535, np.uint16))
    torch.testing.assert_close(found, torch.full((1, 32, 32), 2.0))
    training = transforms.for_weights(cfg, training=True, color_jitter=0.0)(np.full((40, 36), 65535, np.uint16))
    torch.testing.assert_close(training, torch.full((1, 32, 32), 2.0))

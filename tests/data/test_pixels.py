"""An image's pixels are prepared as timm prepares them."""

import ast
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from timm.data import create_transform

from mnv2zoo.data import pixels

CONFIG = {"input_size": (3, 32, 32), "crop_pct": 0.875, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}


def noise(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("size", [(40, 60), (61, 33), (36, 36), (20, 50), (5, 5)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pixels_are_those_of_timm(size, interpolation):
    config = {**CONFIG, "interpolation": interpolation}
    theirs = create_transform(**config)(noise(*size)).numpy()
    np.testing.assert_allclose(pixels.network_input(noise(*size), config), theirs, rtol=0, atol=1e-6)


def test_values_are_normalized_per_channel():
    white = pixels.network_input(Image.new("RGB", (64, 64), "white"), {**CONFIG, "interpolation": "bicubic"})
    assert white.shape == (3, 32, 32)
    np.testing.assert_allclose(white[:, 0, 0], [(1 - 0.1) / 0.4, (1 - 0.2) / 0.5, (1 - 0.3) / 0.6], rtol=1e-6)


@pytest.mark.parametrize(("size", "fits"), [((500, 1), True), ((501, 1), False), ((1, 501), False)])
def test_an_image_may_be_500_times_as_long_as_wide(size, fits):
    image = Image.new("L", size)
    if fits:
        assert pixels.to_rgb(image).mode == "RGB"
    else:
        with pytest.raises(ValueError, match="more than 500 times"):
            pixels.to_rgb(image)


WHOLE = {"input_size": (3, 60, 90), "interpolation": "bilinear", "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}


@pytest.mark.parametrize(
    ("size", "padded"),
    [
        ((180, 120), (90, 60)),
        ((640, 480), (80, 60)),  # the height is the limit
        ((1000, 100), (90, 9)),  # the width is the limit
        ((100, 200), (30, 60)),
        ((1, 500), (1, 60)),
        ((9, 6), (90, 60)),
    ],
)
def test_a_whole_image_is_squashed_or_keeps_its_aspect(size, padded):
    assert pixels.whole_size(size, {**WHOLE, "resize": "pad"}) == padded
    assert pixels.whole_size(size, {**WHOLE, "resize": "squash"}) == (90, 60)


def test_a_squashed_image_is_pillows_resized_one_normalized():
    found = pixels.normalized_whole(noise(77, 120), {**WHOLE, "resize": "squash"})
    resized = np.asarray(noise(77, 120).resize((90, 60), Image.Resampling.BILINEAR)) / 255
    wanted = (resized - np.array(WHOLE["mean"])) / np.array(WHOLE["std"])
    np.testing.assert_allclose(found, wanted.transpose(2, 0, 1), rtol=0, atol=1e-5)


def test_padding_is_zero_after_normalizing_at_the_right_or_the_bottom():
    white = Image.new("RGB", (64, 48), "white")
    found = pixels.normalized_whole(white, {**WHOLE, "resize": "pad"})
    assert found.shape == (3, 60, 90)
    np.testing.assert_allclose(found[:, 59, 79], [0.9 / 0.4, 0.8 / 0.5, 0.7 / 0.6], rtol=1e-6)
    assert not found[:, :, 80:].any()
    assert not pixels.normalized_whole(white.resize((200, 40)), {**WHOLE, "resize": "pad"})[:, 18:].any()


@pytest.mark.parametrize("size", [(90, 60), (200, 130), (45, 45)])
def test_a_mask_is_the_best_class_of_logits_at_the_images_size(size):
    random = np.random.default_rng(0)
    coarse = random.normal(size=(4, 3, 4)).astype(np.float32)
    logits = np.stack([Image.fromarray(one).resize((90, 60), Image.Resampling.BICUBIC) for one in coarse])
    resized = [Image.fromarray(one).resize(size, Image.Resampling.BILINEAR) for one in logits]
    found = pixels.class_mask(logits, size, {**WHOLE, "resize": "squash"})
    assert found.dtype == np.uint8
    assert (found == np.stack(resized).argmax(0)).all()
    assert len(np.unique(found)) == 4


def test_a_mask_leaves_the_padding_out():
    logits = np.zeros((3, 60, 90), np.float32)
    logits[1, :, :40], logits[2, :, 40:80], logits[0, :, 80:] = 5, 5, 9
    found = pixels.class_mask(logits, (640, 480), {**WHOLE, "resize": "pad"})  # 80 x 60 within 90 x 60
    assert found.shape == (480, 640)
    assert (found[:, :310] == 1).all()
    assert (found[:, 330:] == 2).all()


def test_one_map_of_logits_is_of_two_classes():
    logits = np.full((1, 60, 90), -1, np.float32)
    logits[:, 30:] = 1
    found = pixels.class_mask(logits, (90, 60), {**WHOLE, "resize": "squash"})
    assert (found[:30] == 0).all()
    assert (found[30:] == 1).all()


def test_a_bundles_script_needs_the_standard_library_pillow_and_numpy_alone():
    tree = ast.parse(Path(pixels.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    packages = {name.partition(".")[0] for name in imported}
    # tifffile is imported where a TIFF needs it.
    assert packages - sys.stdlib_module_names == {"numpy", "PIL", "tifffile"}
    assert "import tifffile" not in {ast.unparse(node) for node in tree.body}


COLORS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("input_size", [(32, 32), (32, 64), (64, 48), (33, 47)])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0, 1.2])
def test_each_crop_mode_is_timms_bit_for_bit(mode, input_size, crop_pct):
    config = {"input_size": (3, *input_size), "crop_pct": crop_pct, "crop_mode": mode, **COLORS}
    for interpolation in ("bilinear", "bicubic"):
        config["interpolation"] = interpolation
        transform = create_transform(**config)
        for size in [(80, 60), (60, 80), (333, 500), (500, 33), (33, 34), (31, 300), (64, 64), (5, 5)]:
            found = pixels.network_input(noise(*size), config)
            assert np.array_equal(found, transform(noise(*size)).numpy()), size


@pytest.mark.parametrize(
    ("size", "input_size", "crop_pct", "mode", "expected"),
    [
        ((200, 100), (50, 50), 1.0, "center", ((100, 50), 25, 0)),  # the short side is 50, and 25 are cut off each end
        ((200, 100), (50, 50), 0.5, "center", ((200, 100), 75, 25)),
        ((200, 100), (50, 50), 1.0, "squash", ((50, 50), 0, 0)),
        ((200, 100), (50, 50), 1.0, "border", ((50, 25), 0, -12)),  # 12 rows above, and 13 below
        ((200, 100), (40, 160), 1.0, "center", ((160, 80), 0, 20)),
        ((200, 100), (40, 160), 1.0, "border", ((80, 40), -40, 0)),
        ((100, 200), (40, 160), 0.8, "squash", ((200, 50), 20, 5)),
        ((500, 1), (32, 32), 1.0, "border", ((32, 1), 0, -15)),  # a line of one pixel, where timm has none
    ],
)
def test_an_image_is_fitted_as_worked_out_by_hand(size, input_size, crop_pct, mode, expected):
    config = {"input_size": (3, *input_size), "crop_pct": crop_pct, "crop_mode": mode}
    assert pixels.fit(size, config) == expected


def test_a_letterbox_has_the_mean_color_around_the_image():
    config = {"input_size": (3, 4, 4), "crop_pct": 1.0, "crop_mode": "border", "interpolation": "bilinear", **COLORS}
    found = pixels.network_input(Image.new("RGB", (8, 4), "white"), config)
    for channel, (mean, std) in enumerate(zip(*COLORS.values(), strict=True)):
        around, white = ((value / 255 - mean) / std for value in (round(255 * mean), 255))
        expected = np.repeat([around, white, white, around], 4).reshape(4, 4)
        np.testing.assert_allclose(found[channel], expected, atol=1e-6)


def test_channels_are_scaled_by_their_type():
    for dtype, white in ((np.uint8, 255), (np.uint16, 65535), (np.float32, 1), (np.float64, 1)):
        array = np.array([[[0, white], [white, 0]]], dtype)
        assert pixels.Bands.of(array, 2).values.tolist() == [[[0, 1], [1, 0]]]
    assert pixels.Bands.of(np.array([[-3.5, 7.0]]), 1).values.tolist() == [[[-3.5], [7.0]]]  # floats stay as they are
    assert pixels.Bands.of(np.zeros((3, 5), np.uint8), 1).size == (5, 3)


@pytest.mark.parametrize(
    ("array", "channels", "words"),
    [
        (np.zeros((4, 6, 3), np.uint8), 5, "3 channels in an array of shape (4, 6, 3), but the model takes 5 chan"),
        (np.zeros((4, 6), np.uint8), 2, "1 channel in an array of shape (4, 6), but the model takes 2 channels"),
        (np.zeros((2, 3, 4, 5), np.uint8), 5, "an array of shape (2, 3, 4, 5), but the model takes (height, width"),
        (np.zeros((4, 6, 2), np.int64), 2, "values of type int64"),
        (np.full((4, 6, 2), np.nan), 2, "not finite"),
        (np.zeros((0, 6, 2), np.uint8), 2, "shape (0, 6, 2)"),
        (np.zeros((1, 501, 2), np.uint8), 2, "more than 500 times"),
    ],
    ids=str,
)
def test_an_array_of_another_kind_is_refused(array, channels, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        pixels.Bands.of(array, channels)


def test_each_channel_is_resized_as_pillow_resizes_a_gray_image():
    values = np.random.default_rng(0).uniform(0, 1, (40, 60, 5)).astype(np.float32)
    mean, std = (0.1, 0.2, 0.3, 0.4, 0.5), (1, 2, 3, 4, 5)
    config = {"input_size": (5, 20, 24), "crop_pct": 1.0, "interpolation": "bilinear", "mean": mean, "std": std}
    found = pixels.network_input(pixels.Bands(values), {**config, "crop_mode": "squash"})
    for channel in range(5):
        gray = Image.fromarray(values[..., channel]).resize((24, 20), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(found[channel], (np.asarray(gray) - mean[channel]) / std[channel], atol=1e-6)
    padded = pixels.network_input(pixels.Bands(values), {**config, "crop_mode": "border"})
    # 60 x 40 becomes 24 x 16. Floats are padded with the mean itself, which is normalized to zero.
    assert not padded[:, :2].any()
    assert not padded[:, 18:].any()
    assert padded[:, 2:18].all()


def test_people_see_the_first_three_channels():
    values = np.zeros((1, 2, 4), np.float32)
    values[0, 1] = (0.1, 0.2, 0.4, 9)
    assert np.asarray(pixels.Bands(values).picture()).tolist() == [[[0, 0, 0], [255, 255, 255]]]
    assert pixels.Bands(values[..., :2]).picture().mode == "RGB"

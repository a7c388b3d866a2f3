"""An image's pixels are prepared as timm prepares them."""

import ast
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
    assert packages - sys.stdlib_module_names == {"numpy", "PIL"}

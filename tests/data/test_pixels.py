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
    np.testing.assert_allclose(pixels.normalized_square(noise(*size), config), theirs, rtol=0, atol=1e-6)


def test_values_are_normalized_per_channel():
    white = pixels.normalized_square(Image.new("RGB", (64, 64), "white"), {**CONFIG, "interpolation": "bicubic"})
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


def test_a_bundles_script_needs_the_standard_library_pillow_and_numpy_alone():
    tree = ast.parse(Path(pixels.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    packages = {name.partition(".")[0] for name in imported}
    assert packages - sys.stdlib_module_names == {"numpy", "PIL"}

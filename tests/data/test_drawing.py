"""Boxes and masks are drawn where they are, in colors that color-blind people can tell apart."""

import ast
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnv2zoo.data import drawing

# From linear RGB to what people without one kind of cone see: Machado et al. 2009, table 1, severity 1.0.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}
WHITE = np.array([0.9504, 1.0, 1.0888])
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(linear):
    """CIELAB of linear sRGB."""
    t = TO_XYZ @ np.clip(linear, 0, 1) / WHITE
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("kind", VISION)
def test_everyone_can_tell_the_colors_apart(kind):
    colors = np.array([drawing.class_color(number) for number in range(len(drawing.PALETTE))]) / 255
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    seen = [lab(np.array(VISION[kind]) @ color) for color in linear]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 24  # 2.3 is just noticeable


def test_further_classes_get_darker_colors():
    assert drawing.class_color(0) == (0, 141, 249)
    assert drawing.class_color(len(drawing.PALETTE)) == (0, 85, 149)


def test_a_box_is_drawn_along_its_edges():
    image = Image.new("RGB", (200, 160), "white")
    drawn = drawing.draw_boxes(image, [{"class": 1, "label": "cat", "score": 0.5, "box": [40.2, 50.4, 120, 99.6]}])
    color = drawing.class_color(1)
    for place in ((40, 75), (120, 75), (80, 50), (80, 100)):
        assert drawn.getpixel(place) == color, place
    for place in ((80, 75), (30, 75), (130, 75), (80, 110)):
        assert drawn.getpixel(place) == (255, 255, 255), place
    assert drawn.getpixel((41, 49)) == color  # the label's background, above the corner
    assert image.getcolors() == [(200 * 160, (255, 255, 255))]  # the image itself stays


def test_higher_scores_lie_on_top():
    rows = [{"class": 0, "label": "a", "score": 0.9, "box": [20, 40, 90, 90]}]
    rows += [{"class": 2, "label": "b", "score": 0.2, "box": [20, 40, 90, 90]}]
    drawn = drawing.draw_boxes(Image.new("RGB", (100, 100)), rows)
    assert drawn.getpixel((55, 90)) == drawing.class_color(0)


@pytest.mark.parametrize("box", [[-50, -50, 500, 500], [0, 0, 0, 0], [99, 99, 300, 300], [5, 9, 3, 2]])
def test_any_box_can_be_drawn_and_needs_no_score(box):
    drawn = drawing.draw_boxes(Image.new("RGB", (100, 100)), [{"class": 0, "label": "a" * 50, "box": box}])
    assert drawn.size == (100, 100)


def test_a_mask_tints_its_pixels_and_outlines_its_classes():
    mask = np.zeros((40, 60), np.uint8)
    mask[:, 30:] = 1
    mask[:10] = 255
    image = Image.new("RGB", (60, 40), (100, 100, 100))
    drawn = drawing.draw_mask(image, mask, ["road", "sky"], legend=False)
    assert drawn.size == image.size
    assert drawn.getpixel((5, 5)) == (100, 100, 100)  # ignored
    assert drawn.getpixel((10, 30)) == (50, 120, 174)  # halfway to (0, 141, 249)
    assert drawn.getpixel((29, 30)) == drawing.class_color(0)  # its edge
    assert drawn.getpixel((45, 30)) == (178, 148, 80)  # halfway to (255, 195, 59)


def test_background_is_left_clear():
    image = Image.new("RGB", (60, 40), (100, 100, 100))
    drawn = drawing.draw_mask(image, np.zeros((40, 60), np.uint8), ["background", "sky"])
    assert drawn.tobytes() == image.tobytes()


def test_the_legend_shows_the_classes_in_the_mask():
    mask = np.zeros((100, 300), np.uint8)
    mask[50:] = 2
    drawn = drawing.draw_mask(Image.new("RGB", (300, 100)), mask, ["road", "sky", "tree"])
    assert drawn.width == 300
    colors = {color for _, color in drawn.crop((0, 100, 300, drawn.height)).getcolors(100_000)}
    assert {drawing.class_color(0), drawing.class_color(2)} <= colors
    assert drawing.class_color(1) not in colors


def test_a_palette_shows_the_classes_and_keeps_their_numbers(tmp_path):
    mask = np.array([[0, 1, 14], [255, 2, 2]], np.uint8)
    drawing.palette_image(mask).save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as image:
        assert (np.asarray(image) == mask).all()
        assert image.convert("RGB").getpixel((1, 0)) == drawing.class_color(1)
        assert image.convert("RGB").getpixel((2, 0)) == drawing.class_color(14)


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(60, 40\)"):
        drawing.draw_mask(Image.new("RGB", (60, 40)), np.zeros((60, 40), np.uint8), ["a"])


def test_a_bundles_script_needs_the_standard_library_pillow_and_numpy_alone():
    tree = ast.parse(Path(drawing.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    packages = {name.partition(".")[0] for name in imported}
    assert packages - sys.stdlib_module_names == {"numpy", "PIL"}

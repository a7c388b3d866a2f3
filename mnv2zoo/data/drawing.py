"""Draws boxes and masks on images, in colors that people with color blindness can tell apart.

`deploy.export` copies this file into a bundle's script, so it only uses the standard library, Pillow and numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

# Twelve colors, each more than 24 CIELAB units from any other, also as seen with protanopia or deuteranopia (Machado et
# al. 2009, https://doi.org/10.1109/TVCG.2009.113). The most distinct ones come first.
PALETTE = (
    *("#008DF9", "#FFC33B", "#E20134", "#5AFFF0", "#870096", "#87FFA5"),
    *("#A50069", "#0000FF", "#F05A87", "#0FC3F0", "#F04BB4", "#2D4BE1"),
)
OPACITY = 0.5  # opacity of a mask on its image


def class_color(number: int) -> tuple[int, int, int]:
    """Returns the color of a class as red, green and blue from 0 to 255. After `PALETTE`, colors repeat darker."""
    rounds, place = divmod(number, len(PALETTE))
    red, green, blue = ImageColor.getrgb(PALETTE[place])[:3]
    shade = 0.6**rounds
    return round(red * shade), round(green * shade), round(blue * shade)


def draw_boxes(image: Image.Image, detections: Iterable[Mapping[str, Any]]) -> Image.Image:
    """Draws boxes with their labels and scores.

    Args:
        image: The image in RGB, upright.
        detections: For each box, its `class` (a number), `label`, `box` (`[x1, y1, x2, y2]` in image pixels) and,
            unless it is a ground-truth box, `score`.

    Returns:
        A copy of the image with the boxes. Boxes with higher scores are on top.
    """
    image = image.copy()
    draw = ImageDraw.Draw(image)
    width = max(1, round(min(image.size) / 240))
    font = _font(image)
    ascending = sorted(detections, key=lambda row: row.get("score", 1.0))
    for row in ascending:
        x1, y1, x2, y2 = box = _corners(row["box"])
        # A dark line on both sides keeps a box visible on a background of the same color.
        for outline in ((x1 - width, y1 - width, x2 + width, y2 + width), box):
            draw.rectangle(outline, outline=(20, 20, 20), width=width + 1)
        draw.rectangle(box, outline=class_color(row["class"]), width=width)
    for row in ascending:
        text = f"{row['label']} {row['score']:.2f}" if "score" in row else str(row["label"])
        x1, y1, _, _ = _corners(row["box"])
        _write(draw, text, class_color(row["class"]), x1, y1, font)
    return image


def draw_mask(
    image: Image.Image, mask: np.ndarray[Any, Any], label_names: Sequence[str], legend: bool = True
) -> Image.Image:
    """Draws a half-transparent mask on an image, with a line between classes.

    Args:
        image: The image in RGB, upright.
        mask: Class numbers (height, width), of the image's size. Numbers without a name, such as 255 for ignored
            pixels, are transparent.
        label_names: Class names in order of the numbers. If the first is `background`, it is transparent.
        legend: Add a strip below the image with the color and name of each class in the mask.

    Returns:
        A new image. With a legend it is taller than the original.

    Raises:
        ValueError: If the mask and the image differ in size.
    """
    if mask.shape != (image.height, image.width):
        raise ValueError(
            f"the mask has the shape {mask.shape}, but the image has the shape {(image.height, image.width)}. "
            "Resize the mask to the size of the image."
        )
    numbers = [int(number) for number in np.unique(mask) if 0 <= number < len(label_names)]
    shown = [number for number in numbers if (number, label_names[number].lower()) != (0, "background")]
    pixels = np.asarray(image, np.float32).copy()
    edges = _edges(mask)
    for number in shown:
        inside, color = mask == number, np.asarray(class_color(number), np.float32)
        pixels[inside] = (1 - OPACITY) * pixels[inside] + OPACITY * color
        pixels[inside & edges] = color
    drawn = Image.fromarray(pixels.round().astype(np.uint8))
    return _with_legend(drawn, [(label_names[number], class_color(number)) for number in shown]) if legend else drawn


def palette_image(mask: np.ndarray[Any, np.dtype[np.uint8]]) -> Image.Image:
    """Converts a mask to a palette image: pixels are class numbers, and viewers show the classes' colors."""
    image = Image.fromarray(mask)
    image.putpalette([value for number in range(256) for value in class_color(number)])
    return image


def _edges(mask: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Marks pixels whose class differs from the pixel to the right or below."""
    edges = np.zeros(mask.shape, bool)
    edges[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edges[:-1] |= mask[:-1] != mask[1:]
    return edges


def _with_legend(image: Image.Image, entries: Sequence[tuple[str, tuple[int, int, int]]]) -> Image.Image:
    font = _font(image)
    height = _text_height(font)
    places: list[tuple[int, int]] = []
    x, y = height // 2, height // 2
    for name, _ in entries:
        width = 2 * height + round(font.getlength(name))
        if places and x + width > image.width:
            x, y = height // 2, y + round(1.5 * height)
        places.append((x, y))
        x += width
    whole = Image.new("RGB", (image.width, image.height + (y + round(1.5 * height) if entries else 0)), "white")
    whole.paste(image)
    draw = ImageDraw.Draw(whole)
    for (name, color), (x, y) in zip(entries, places, strict=True):
        top = image.height + y
        draw.rectangle((x, top, x + height, top + height), fill=color, outline=(20, 20, 20))
        draw.text((x + 1.3 * height, top), name, fill=(20, 20, 20), font=font)
    return whole


def _write(
    draw: ImageDraw.ImageDraw, text: str, color: tuple[int, int, int], x: int, y: int, font: ImageFont.FreeTypeFont
) -> None:
    """Draws a label on its color above a point, or below it if there is no room."""
    width, height = round(draw.textlength(text, font=font)) + 4, _text_height(font)
    left = max(0, min(x, draw.im.size[0] - width))
    top = y - height if y >= height else max(y, 0)
    draw.rectangle((left, top, left + width, top + height), fill=color)
    red, green, blue = color
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 140
    draw.text((left + 2, top), text, fill="black" if bright else "white", font=font)


def _corners(box: Sequence[float]) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = (round(value) for value in box)
    return x1, y1, max(x1, x2), max(y1, y2)


def _font(image: Image.Image) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(max(10.0, min(image.size) / 32))  # type: ignore[return-value]  # with FreeType


def _text_height(font: ImageFont.FreeTypeFont) -> int:
    return sum(font.getmetrics())

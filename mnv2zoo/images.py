"""Reading images: one function for whatever people have on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mnv2zoo.errors import ImageReadError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif")


def read(path: Path) -> Image.Image:
    """Reads an image as a network wants it.

    Args:
        path: The file.

    Returns:
        The first frame in RGB, turned upright by its EXIF orientation. What is transparent becomes
        white, and 16-bit values are scaled to 8 bits.

    Raises:
        ImageReadError: If it is no whole image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):
            # 16-bit grayscale: PIL's own conversion would clip everything above 255 to white.
            upright = Image.fromarray((np.asarray(upright).clip(0, 65535) / 257).round().astype(np.uint8))
        if upright.has_transparency_data:
            upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
        return upright.convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ImageReadError(
            "cannot read the image",
            expected="an image that Pillow can read",
            found=f"{type(error).__name__}: {error}",
            where=path,
        ) from error

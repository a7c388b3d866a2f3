"""Small photos that a small network learns to tell apart."""

import io
import tarfile

import numpy as np
from PIL import Image

COLORS = {"blue": (40, 60, 200), "green": (50, 170, 60), "red": (200, 50, 40)}


def photo(color, number, size=(40, 36)):
    """An image of a color, with noise that depends on the number."""
    noise = np.random.default_rng(number).integers(-30, 30, (size[1], size[0], 3))
    return Image.fromarray((np.array(COLORS[color]) + noise).clip(0, 255).astype(np.uint8))


def fill(folder, count=8, colors=COLORS, first=0):
    """Puts photos into a folder of class folders."""
    for color in colors:
        (folder / color).mkdir(parents=True, exist_ok=True)
        for number in range(first, first + count):
            photo(color, number).save(folder / color / f"{number:02}.png")
    return folder


def tar(folder, path, prefix=""):
    """Packs a folder's content into a tar file, below a prefix."""
    with tarfile.open(path, "w") as packed:
        for file in sorted(folder.rglob("*")):
            packed.add(file, f"{prefix}{file.relative_to(folder)}", recursive=False)
    return path


def encoded(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


# A training of seconds.
QUICK = {"init": "random", "input_size": 32, "epochs": 2, "batch_size": 8, "workers": 0, "lr": 0.01}

"""Small scenes with masks: a sky above a road, and a car on it."""

import numpy as np
from PIL import Image

NAMES = ("sky", "road", "car")
COLORS = np.array([(120, 170, 230), (90, 90, 90), (200, 40, 40)])
VOID = 255
# A training of seconds.
QUICK = {"init": "random", "input_size": 32, "epochs": 2, "batch_size": 4, "workers": 0, "lr": 0.01, "backbone_lr": 1.0}


def mask(number, size=(48, 36)):
    """The classes of a scene, with a line of void along the horizon."""
    width, height = size
    random = np.random.default_rng(number)
    horizon = int(random.integers(height // 3, 2 * height // 3))
    numbers = np.zeros((height, width), np.uint8)
    numbers[horizon:] = 1
    numbers[horizon] = VOID
    left = int(random.integers(0, width - width // 3))
    numbers[horizon + 2 : horizon + 2 + height // 4, left : left + width // 3] = 2
    return numbers


def photo(numbers, number=0):
    """The photo of a scene, with noise."""
    noise = np.random.default_rng(number).integers(-25, 25, (*numbers.shape, 3))
    return Image.fromarray((COLORS[np.where(numbers == VOID, 1, numbers)] + noise).clip(0, 255).astype(np.uint8))


def add(folder, number, size=(48, 36)):
    """Writes a scene into `images` and `masks` of a folder."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    numbers = mask(number, size)
    photo(numbers, number).save(folder / f"images/{number:02}.png")
    Image.fromarray(numbers).save(folder / f"masks/{number:02}.png")


def fill(folder, train=8, val=4):
    """Writes training and validation scenes and the names of the classes."""
    for number in range(train):
        add(folder / "train", number)
    for number in range(train, train + val):
        add(folder / "val", number)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in NAMES))
    return folder

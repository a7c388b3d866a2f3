"""Small pictures with stripes of some colors, which are their labels."""

import csv
import json
import shutil

import numpy as np
from PIL import Image

from tests.photos import COLORS

NAMES = tuple(COLORS)
MODEL = "mnv2zoo_035"
# A training of seconds.
QUICK = {"init": "random", "input_size": 32, "epochs": 2, "batch_size": 8, "workers": 0, "lr": 0.01}


def labels_of(number):
    """The labels of a picture: every combination in turn, none among them."""
    return [name for place, name in enumerate(NAMES) if number >> place & 1]


def picture(number):
    random = np.random.default_rng(number)
    image = random.integers(90, 130, (40, 48, 3))
    for place, name in enumerate(labels_of(number)):
        image[:, 16 * place : 16 * place + 16] = np.array(COLORS[name]) + random.integers(-30, 30, (40, 16, 3))
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


def save(folder, numbers):
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        picture(number).save(folder / f"{number:03}.png")


def write_csv(file, rows):
    with file.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows(rows)


def fill(folder, train=16, val=8):
    """Pictures with a CSV file of labels for each split."""
    numbers = {"train": range(train), "val": range(train, train + val)}
    for split, own in numbers.items():
        save(folder / split, own)
        rows = [(f"{split}/{number:03}.png", "|".join(labels_of(number))) for number in own]
        write_csv(folder / f"{split}.csv", [("image", "labels"), *rows])
    return folder


def fill_columns(folder, count=16):
    """The same with a column of 0 and 1 per label, in one file without splits."""
    save(folder / "images", range(count))
    rows = [(f"{n:03}.png", *(int(name in labels_of(n)) for name in NAMES)) for n in range(count)]
    write_csv(folder / "all.csv", [("image", *NAMES), *rows])
    return folder


def fill_folders(folder, count=16):
    """Class folders, with a copy of a picture in the folder of each of its labels."""
    for number in range(count):
        for name in labels_of(number):
            (folder / name).mkdir(parents=True, exist_ok=True)
            picture(number).save(folder / name / f"{number:03}.png")
    return folder


def fill_coco(folder, count=16):
    """COCO annotations without boxes, two of them for a label that an image shows twice."""
    save(folder / "images", range(count))
    ids = {name: 10 * (place + 1) for place, name in enumerate(reversed(NAMES))}  # another order than that of the names
    found = [(number, ids[name]) for number in range(count) for name in labels_of(number) for _ in range(2)]
    document = {
        "categories": [{"id": number, "name": name} for name, number in ids.items()] + [{"id": 99, "name": "unseen"}],
        "images": [{"id": 100 + number, "file_name": f"{number:03}.png"} for number in range(count)],
        "annotations": [{"id": i, "image_id": 100 + n, "category_id": c} for i, (n, c) in enumerate(found)],
    }
    (folder / "annotations.json").write_text(json.dumps(document))
    return folder


def copy_into(folder, source, *targets):
    for target in targets:
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, folder / target)

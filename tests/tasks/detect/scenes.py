"""Pictures of bright squares and dark disks, with their boxes as Pascal VOC and COCO have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("disk", "square")
QUICK = {
    **{"init": "random", "input_size": 64, "epochs": 2, "batch_size": 4, "workers": 0, "lr": 0.002},
    **{"task": "detect", "ema_decay": 0.0, "warmup_epochs": 0.0},
}
MODEL = "mnv2zoo_035"

Boxes = list[tuple[str, tuple[int, int, int, int]]]


def picture(seed: int, size: tuple[int, int] = (96, 72), objects: int | None = None) -> tuple[Image.Image, Boxes]:
    """A picture with one to three objects, or as many as asked for, that may overlap."""
    random = np.random.default_rng(seed)
    noise = random.integers(90, 130, (size[1], size[0], 3)).astype(np.uint8)
    image, boxes = Image.fromarray(noise), []
    draw = ImageDraw.Draw(image)
    for _ in range(random.integers(1, 4) if objects is None else objects):
        side = int(random.integers(18, 40))
        left, top = (int(random.integers(0, length - side)) for length in size)
        label = CLASSES[random.integers(0, 2)]
        shape = (left, top, left + side - 1, top + side - 1)
        if label == "square":
            draw.rectangle(shape, fill=(240, 230, 60))
        else:
            draw.ellipse(shape, fill=(20, 30, 120))
        boxes.append((label, (left, top, left + side, top + side)))
    return image, boxes


def fill_voc(folder: Path, train: int = 8, val: int = 4, **options: Any) -> Path:
    """Writes pictures as Pascal VOC has them."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for split, numbers in (("train", range(train)), ("val", range(train, train + val))):
        names = []
        for number in numbers:
            image, boxes = picture(number, **options)
            write_voc(folder, f"{number:03}", image, boxes)
            names.append(f"{number:03}\n")
        if names:
            (folder / "ImageSets/Main" / f"{split}.txt").write_text("".join(names))
    return folder


def write_voc(folder: Path, stem: str, image: Image.Image, boxes: Boxes, difficult: bool = False) -> None:
    """Writes a picture and its annotation."""
    image.save(folder / f"JPEGImages/{stem}.png")
    objects = "".join(
        f"<object><name>{label}</name><difficult>{int(difficult)}</difficult><bndbox>"
        + "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
        + "</bndbox></object>"
        for label, corners in boxes
    )
    size = f"<size><width>{image.width}</width><height>{image.height}</height></size>"
    (folder / f"Annotations/{stem}.xml").write_text(f"<annotation>{size}{objects}</annotation>")


def fill_coco(folder: Path, train: int = 8, val: int = 4, **options: Any) -> Path:
    """Writes pictures as COCO has them, with ids that do not begin at 1."""
    for split, numbers in (("train", range(train)), ("val", range(train, train + val))):
        (folder / split).mkdir(parents=True, exist_ok=True)
        (folder / "annotations").mkdir(exist_ok=True)
        images, annotations = [], []
        for number in numbers:
            image, boxes = picture(number, **options)
            image.save(folder / split / f"{number:03}.png")
            images.append(
                {"id": 700 + number, "file_name": f"{number:03}.png", "width": image.width, "height": image.height}
            )
            for label, (left, top, right, bottom) in boxes:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": 700 + number,
                        "category_id": {"disk": 3, "square": 8}[label],
                        "bbox": [left, top, right - left, bottom - top],
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": 3, "name": "disk"}, {"id": 8, "name": "square"}]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(document))
    return folder

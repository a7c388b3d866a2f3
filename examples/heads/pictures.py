"""Draws the annotations and the predictions of a run for some test images, evenly spaced in the list of all of them.

python examples/heads/pictures.py runs/heads/bccd-ssdlite-0 --data ../shared/data/bccd --out docs/images/detection.jpg
"""

from __future__ import annotations

import argparse
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

import mnv2zoo
from mnv2zoo.data.drawing import draw_boxes, draw_mask
from mnv2zoo.data.layout import Layout
from mnv2zoo.model_dir import records
from mnv2zoo.system.files import whole_file
from mnv2zoo.tasks import find_task

GAP = 6  # pixels between images


def main() -> None:
    """Draws and writes the figure."""
    args = arguments()
    task = find_task(records.task_name(str(args.run)))
    layout = Layout(skip_bad_images=True, **({"ignore_index": args.ignore_index} if args.ignore_index else {}))
    data = task.find_data(args.data, layout)
    test = data.splits["test"]
    shown = [test[round(place * (len(test) - 1) / (args.images - 1))] for place in range(args.images)]
    with TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.png" for number in range(len(shown))]
        for sample, file in zip(shown, files, strict=True):
            sample.read().save(file)
        # With the default score threshold; see `--threshold`.
        rows = (
            list(mnv2zoo.predict(files, str(args.run), files=f"{folder}/masks", device="cpu"))
            if task.writes_files
            else list(mnv2zoo.predict(files, str(args.run), device="cpu"))
        )
        pairs = [
            (true_picture(sample, data.class_names), predicted(row, sample.read(), data.class_names))
            for sample, row in zip(shown, rows, strict=True)
        ]
    strip = joined(pairs, args.width)
    with whole_file(args.out) as file:
        buffer = BytesIO()
        strip.save(buffer, "JPEG", quality=88, optimize=True)
        file.write(buffer.getvalue())
    print(f"{args.out}: {strip.width} x {strip.height}")


def true_picture(sample: Any, names: Any) -> Image.Image:
    """An image with its annotated boxes or mask."""
    image, target = sample.read(), sample.target
    if hasattr(target, "corners"):
        boxes = zip(target.labels, target.corners, strict=True)
        return draw_boxes(image, [{"class": label, "label": names[label], "box": box} for label, box in boxes])
    return draw_mask(image, target.read(), names, legend=False)


def predicted(row: dict[str, Any], image: Image.Image, names: Any) -> Image.Image:
    """An image with the predicted boxes or mask."""
    if "detections" in row:
        return draw_boxes(image, row["detections"])
    return draw_mask(image, np.asarray(Image.open(row["mask"])), names, legend=False)


def joined(pairs: list[tuple[Image.Image, Image.Image]], width: int) -> Image.Image:
    """A grid with one column per pair."""
    side = (width - GAP * (len(pairs) - 1)) // len(pairs)
    height = round(side * pairs[0][0].height / pairs[0][0].width)
    grid = Image.new("RGB", (width, 2 * height + GAP), "white")
    for column, pair in enumerate(pairs):
        for row, picture in enumerate(pair):
            grid.paste(
                picture.resize((side, height), Image.Resampling.LANCZOS), (column * (side + GAP), row * (height + GAP))
            )
    return grid


def arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--width", type=int, default=1600, help="width of the figure in pixels")
    parser.add_argument("--ignore-index", type=int, help="mask value of pixels to ignore (default: 255)")
    return parser.parse_args()


if __name__ == "__main__":
    main()

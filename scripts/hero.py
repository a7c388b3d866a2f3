"""Draws the figure at the top of the home page: what one set of weights gives, from feature maps to boxes and masks.

The upper half shows the output of the stem, of every bottleneck and of the head for a photo, each at its own resolution.
The colors of a map are the first three principal components of its channels. The lower half shows what two runs that
started from the same weights find on a test image.

    python scripts/hero.py --weights ../shared/weights/google_mobilenet_v2_1.0_224/model.safetensors \
        --detector runs/heads/bccd-ssdlite-0 --boxes ../shared/data/bccd \
        --segmenter runs/heads/camvid-lraspp-0 --masks ../shared/data/camvid
"""

from __future__ import annotations

import argparse
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms import v2

import mnv2zoo
from mnv2zoo.data.drawing import draw_boxes, draw_mask
from mnv2zoo.data.layout import Layout
from mnv2zoo.model_dir import records
from mnv2zoo.system.files import whole_file
from mnv2zoo.tasks import find_task

MODEL = "mnv2zoo_100"
WIDTH, GAP, LABEL = 1600, 10, 30  # pixels of the figure, between its parts, and of a line of text
SIDE = 448  # of the image that the maps are computed from
PER_ROW = 7
INK, PAPER = "#1d2b29", "white"


def main() -> None:
    args = arguments()
    maps, photo = maps_of(args.photo, args.weights), square(Image.open(args.photo))
    found = [
        (f"{MODEL} with SSDLite: boxes", result_of(args.detector, args.boxes, args.box_image)),
        (f"{MODEL} with LR-ASPP: a mask", result_of(args.segmenter, args.masks, args.mask_image)),
    ]
    figure = joined(above(photo, maps), below(found))
    buffer = BytesIO()
    figure.save(buffer, "JPEG", quality=86, optimize=True)
    with whole_file(args.out) as file:
        file.write(buffer.getvalue())
    print(f"{args.out}: {figure.width} x {figure.height}, {len(buffer.getvalue()) // 1024} KiB")


def square(image: Image.Image) -> Image.Image:
    """The middle of an image, as large as the maps are computed from."""
    crop = v2.Compose([v2.Resize(SIDE, antialias=True), v2.CenterCrop(SIDE)])
    cropped: Image.Image = crop(image.convert("RGB"))
    return cropped


def maps_of(photo: Path, weights: Path) -> dict[str, Image.Image]:
    """What comes out of the stem, of every bottleneck and of the head."""
    entry = mnv2zoo.weights.entry(f"{MODEL}.google_in1k")
    model = timm.create_model(entry.name, pretrained=True, pretrained_cfg_overlay={"file": str(weights)}).eval()
    names = mnv2zoo.features.bottleneck_names(model)
    taps = mnv2zoo.features.BottleneckTaps(model, names).eval()
    pixels = v2.functional.normalize(v2.functional.pil_to_tensor(square(Image.open(photo))) / 255, entry.mean, entry.std)
    with torch.inference_mode():
        return {name: in_colors(output[0]) for name, output in taps(pixels[None]).items()}


def in_colors(features: Tensor) -> Image.Image:
    """The first three principal components of a map's channels, as red, green and blue."""
    channels, height, width = features.shape
    values = features.reshape(channels, -1).T.double()
    values = values - values.mean(0)
    components = values @ torch.linalg.eigh(values.T @ values).eigenvectors[:, -3:].flip(1)
    low, high = (torch.quantile(components, share, dim=0) for share in (0.01, 0.99))
    colors = ((components - low) / (high - low)).clamp(0, 1) * 255
    return Image.fromarray(colors.reshape(height, width, 3).round().byte().numpy())


def result_of(run: Path, data: Path, place: int) -> Image.Image:
    """A test image with the boxes or the mask that a run finds."""
    task = find_task(records.task_name(str(run)))
    found = task.find_data(str(data), Layout(skip_bad_images=True))
    sample = found.splits["test"][place]
    with TemporaryDirectory() as folder:
        file = Path(folder) / "image.png"
        sample.read().save(file)
        options: dict[str, Any] = {"files": f"{folder}/masks"} if task.writes_files else {}
        (row,) = mnv2zoo.predict([file], str(run), device="cpu", **options)
        if "detections" in row:
            return draw_boxes(sample.read(), row["detections"])
        return draw_mask(sample.read(), np.asarray(Image.open(row["mask"])), found.class_names, legend=False)


def labelled(image: Image.Image, text: str, width: int, height: int) -> Image.Image:
    """An image of that size above a line of text; a map keeps its pixels."""
    how = Image.Resampling.NEAREST if image.width < width else Image.Resampling.LANCZOS
    tile = Image.new("RGB", (width, height + LABEL), PAPER)
    tile.paste(image.resize((width, height), how))
    draw = ImageDraw.Draw(tile)
    draw.text((width / 2, height + LABEL / 2), text, INK, ImageFont.load_default(17), anchor="mm")
    return tile


def above(photo: Image.Image, maps: dict[str, Image.Image]) -> Image.Image:
    """The photo, and the maps beside it in rows."""
    rows = -(-len(maps) // PER_ROW)
    side = (WIDTH - GAP * (PER_ROW + rows - 1) - rows * LABEL) // (PER_ROW + rows)
    large = rows * side + (rows - 1) * (LABEL + GAP)
    strip = Image.new("RGB", (WIDTH, large + LABEL), PAPER)
    strip.paste(labelled(photo, "photo", large, large))
    for number, (name, image) in enumerate(maps.items()):
        left = large + GAP + (number % PER_ROW) * (side + GAP)
        size = f"{image.height}×{image.width}"
        tile = labelled(image, f"{name.replace('Bottleneck_', 'B')}  {size}", side, side)
        strip.paste(tile, (left, (number // PER_ROW) * (side + LABEL + GAP)))
    return strip


def below(found: list[tuple[str, Image.Image]]) -> Image.Image:
    """The results of the runs, side by side."""
    width = (WIDTH - GAP * (len(found) - 1)) // len(found)
    height = width * 9 // 16
    strip = Image.new("RGB", (WIDTH, height + LABEL), PAPER)
    for number, (text, image) in enumerate(found):
        scale = width / image.width
        resized = image.resize((width, round(image.height * scale)), Image.Resampling.LANCZOS)
        top = max(0, (resized.height - height) // 2)
        tile = labelled(resized.crop((0, top, width, top + height)), text, width, height)
        strip.paste(tile, (number * (width + GAP), 0))
    return strip


def joined(*parts: Image.Image) -> Image.Image:
    """The parts, one below the other."""
    figure = Image.new("RGB", (WIDTH, sum(part.height for part in parts)), PAPER)
    top = 0
    for part in parts:
        figure.paste(part, (0, top))
        top += part.height
    return figure


def arguments() -> argparse.Namespace:
    """The words of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help=f"file of {MODEL}.google_in1k")
    parser.add_argument("--photo", type=Path, default=Path("examples/coffee.jpg"))
    parser.add_argument("--detector", type=Path, required=True, help="run that finds boxes")
    parser.add_argument("--boxes", type=Path, required=True, help="data that it was trained on")
    parser.add_argument("--box-image", type=int, default=0, help="number of its test image")
    parser.add_argument("--segmenter", type=Path, required=True, help="run that finds masks")
    parser.add_argument("--masks", type=Path, required=True, help="data that it was trained on")
    parser.add_argument("--mask-image", type=int, default=0, help="number of its test image")
    parser.add_argument("--out", type=Path, default=Path("docs/images/hero.jpg"))
    return parser.parse_args()


if __name__ == "__main__":
    main()

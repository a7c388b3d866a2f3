"""Draws the figure of the home page: the outputs of one set of weights, from feature maps to classes and boxes.

The upper half shows the output of the stem, of every bottleneck and of the head for a photo, each at its own
resolution. The colors of a map are the first three principal components of its channels. The lower half shows the
boxes that a detector, trained from the same weights, finds on test images.

    python scripts/hero.py runs/heads/bccd-ssdlite-0 --data ../shared/data/bccd \
        --weights ../shared/weights/google_mobilenet_v2_1.0_224/model.safetensors
"""

from __future__ import annotations

import argparse
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import timm
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms import v2

import mnv2zoo
from mnv2zoo.data.drawing import draw_boxes
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
    (maps, classes), photo = outputs_of(args.photo, args.weights), square(Image.open(args.photo))
    figure = joined(above(photo, maps, classes), below(boxes_of(args.detector, args.data, args.images)))
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


def outputs_of(photo: Path, weights: Path) -> tuple[dict[str, Image.Image], list[str]]:
    """The outputs of the stem, of every bottleneck and of the head, and the best classes with their scores."""
    entry = mnv2zoo.weights.entry(f"{MODEL}.google_in1k")
    model = timm.create_model(entry.name, pretrained=True, pretrained_cfg_overlay={"file": str(weights)}).eval()
    names = mnv2zoo.features.bottleneck_names(model)
    taps = mnv2zoo.features.BottleneckTaps(model, names).eval()
    pixels = v2.functional.pil_to_tensor(square(Image.open(photo)))[None] / 255
    images = v2.functional.normalize(pixels, entry.mean, entry.std)
    with torch.inference_mode():
        maps = {name: in_colors(output[0]) for name, output in taps(images).items()}
        best = model(mnv2zoo.transforms(entry.name)(Image.open(photo))[None]).softmax(1)[0].topk(4)
    labels = [entry.label_names[number].split(",")[0] for number in best.indices]
    return maps, [f"{label}  {score:.2f}" for label, score in zip(labels, best.values, strict=True)]


def in_colors(features: Tensor) -> Image.Image:
    """The first three principal components of a map's channels, as red, green and blue."""
    channels, height, width = features.shape
    values = features.reshape(channels, -1).T.double()
    values = values - values.mean(0)
    components = values @ torch.linalg.eigh(values.T @ values).eigenvectors[:, -3:].flip(1)
    low, high = (torch.quantile(components, share, dim=0) for share in (0.01, 0.99))
    colors = ((components - low) / (high - low)).clamp(0, 1) * 255
    return Image.fromarray(colors.reshape(height, width, 3).round().byte().numpy())


def boxes_of(run: Path, data: Path, places: list[int]) -> list[Image.Image]:
    """Test images with the boxes that a run finds."""
    test = find_task(records.task_name(str(run))).find_data(str(data), Layout(skip_bad_images=True)).splits["test"]
    images = [test[place].read() for place in places]
    with TemporaryDirectory() as folder:
        files = [Path(folder) / f"{place}.png" for place in places]
        for image, file in zip(images, files, strict=True):
            image.save(file)
        rows = list(mnv2zoo.predict(files, str(run), device="cpu"))
    return [draw_boxes(image, row["detections"]) for image, row in zip(images, rows, strict=True)]


def labeled(image: Image.Image, text: str, width: int, height: int) -> Image.Image:
    """An image of that size above a line of text; a map keeps its pixels."""
    how = Image.Resampling.NEAREST if image.width < width else Image.Resampling.LANCZOS
    tile = Image.new("RGB", (width, height + LABEL), PAPER)
    tile.paste(image.resize((width, height), how))
    draw = ImageDraw.Draw(tile)
    draw.text((width / 2, height + LABEL / 2), text, INK, ImageFont.load_default(17), anchor="mm")
    return tile


def above(photo: Image.Image, maps: dict[str, Image.Image], classes: list[str]) -> Image.Image:
    """The photo, and next to it rows of maps, with the classes after the last map."""
    rows = -(-len(maps) // PER_ROW)
    side = (WIDTH - PER_ROW * GAP - (rows - 1) * (LABEL + GAP)) // (PER_ROW + rows)
    large = rows * side + (rows - 1) * (LABEL + GAP)
    strip = Image.new("RGB", (WIDTH, large + LABEL), PAPER)
    strip.paste(labeled(photo, "photo", large, large))
    for number, (name, image) in enumerate(maps.items()):
        left = large + GAP + (number % PER_ROW) * (side + GAP)
        size = f"{image.height} x {image.width}"
        tile = labeled(image, f"{name.replace('Bottleneck_', 'B')}  {size}", side, side)
        strip.paste(tile, (left, (number // PER_ROW) * (side + LABEL + GAP)))
    left = large + GAP + (len(maps) % PER_ROW) * (side + GAP)
    top = (rows - 1) * (side + LABEL + GAP)
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(19)
    for number, line in enumerate(classes):
        draw.text((left + GAP, top + GAP + number * 1.6 * LABEL // 1.4), line, INK, font)
    draw.text((left + GAP, top + side + LABEL / 2), "classifier", INK, ImageFont.load_default(17), anchor="lm")
    return strip


def below(images: list[Image.Image]) -> Image.Image:
    """The detector's images, side by side."""
    width = (WIDTH - GAP * (len(images) - 1)) // len(images)
    height = max(image.height * width // image.width for image in images)
    strip = Image.new("RGB", (WIDTH, height), PAPER)
    for number, image in enumerate(images):
        resized = image.resize((width, height), Image.Resampling.LANCZOS)
        strip.paste(resized, (number * (width + GAP), 0))
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
    parser.add_argument("detector", type=Path, help="run that finds boxes")
    parser.add_argument("--data", type=Path, required=True, help="data that it was trained on")
    parser.add_argument("--images", type=int, nargs="+", default=[0, 47, 71], help="numbers of its test images")
    parser.add_argument("--weights", type=Path, required=True, help=f"ImageNet weights of {MODEL}, for padding 'same'")
    parser.add_argument("--photo", type=Path, default=Path("examples/coffee.jpg"))
    parser.add_argument("--out", type=Path, default=Path("docs/images/hero.jpg"))
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Measures how much the fast preprocessing of `mnv2zoo predict` changes scores, compared with timm's own.

`mnv2zoo predict` uses the fast preprocessing for more than 10 images. The same photos go through the same trained model
with both preprocessings. At 224 pixels, both decode these photos at full size. The fast preprocessing decodes photos of
more than 1,536 pixels at a fraction of their size. It does so with these photos if the model takes 32 pixels, or if the
photos are enlarged eight times. The weights are Google's, which must be available next to the repository, and the
bundled ones.

    python benchmarks/preprocessing.py --sides 224 32
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import report
import torch
from PIL import Image
from report import GOOGLE, SAMPLES, SHARED
from timm.data import create_transform

from mnv2zoo import deploy
from mnv2zoo.data import decode, discover
from mnv2zoo.data.preprocessing import Exact, Fast
from mnv2zoo.models import pretrained

NORMAL = (0.5, 0.5, 0.5)
GOOGLES = {"crop_pct": 0.875, "interpolation": "bicubic", "mean": NORMAL, "std": NORMAL}
BUNDLED = "mnv2zoo_100_c20"
TIMES, ENLARGED = 8, 25  # how much larger photos are made, to as many pixels as phones take, and how many


def photos(place: Path) -> Iterator[bytes]:
    """The photos of a folder or a tar file."""
    if place.is_dir():
        yield from (file.read_bytes() for file in discover.find(str(place)))
        return
    with tarfile.open(place) as archive:
        for member in archive:
            if Path(member.name).suffix.lower() in discover.EXTENSIONS:
                file = archive.extractfile(member)
                assert file is not None
                yield file.read()


def enlarged(photo: bytes) -> bytes:
    """A photo as a JPEG of eight times its width and height."""
    image, out = decode.read(BytesIO(photo)), BytesIO()
    size = (TIMES * image.width, TIMES * image.height)
    image.resize(size, Image.Resampling.BICUBIC).save(out, format="JPEG", quality=92)
    return out.getvalue()


def compare(
    model: torch.nn.Module,
    place: Path,
    side: int,
    most: int,
    how: Mapping[str, Any] = GOOGLES,
    change: Callable[[bytes], bytes] = lambda photo: photo,
) -> dict[str, object]:
    names = ("crop_pct", "interpolation", "mean", "std")
    data = {"input_size": (3, side, side), **{name: how[name] for name in names}}
    ways = (Exact(create_transform(**data)), Fast(**data))
    run, logits, smaller = None, [], 0
    for count, photo in enumerate(photos(place)):
        if count == most:
            break
        photo = change(photo)
        read = [decode.read(BytesIO(photo), at_least=way.at_least) for way in ways]
        smaller += read[0].size != read[1].size
        pair = [way.batch([way.prepare(image)], torch.device("cpu")) for way, image in zip(ways, read, strict=True)]
        run = run or deploy.optimize(model, pair[0], "torch")
        logits.append(run(torch.cat(pair)))
    exact, fast = torch.stack(logits).unbind(1)
    scores = [way.softmax(-1) for way in (exact, fast)]
    moved = (scores[0] - scores[1]).abs().amax(1)  # the score of an image that moves most
    return {
        "photos": len(logits),
        "decoded_at_a_fraction": smaller,
        "mean_abs_logit": round(exact.abs().mean().item(), 3),
        "mean_abs_difference": round((exact - fast).abs().mean().item(), 4),
        "max_abs_difference": round((exact - fast).abs().max().item(), 3),
        "mean_score_difference": round(moved.mean().item(), 4),
        "max_score_difference": round(moved.max().item(), 4),
        "same_top1_percent": round(100 * (exact.argmax(1) == fast.argmax(1)).float().mean().item(), 2),
    }


def main() -> None:
    parser = report.parser(__doc__)
    places = [SAMPLES, SHARED / "data/grocery/test.tar"]
    parser.add_argument("--photos", type=Path, nargs="+", default=places, help="folders or tar files of photos")
    parser.add_argument("--sides", type=int, nargs="+", default=[224, 32], help="sizes that the network sees")
    parser.add_argument("--most", type=int, default=1000, help="photos of each place, at most")
    args = parser.parse_args()
    model = report.network()
    results = {}
    for place in args.photos:
        for side in args.sides:
            name = f"{place.parent.name}/{place.name} at {side}"
            results[name] = compare(model, place, side, args.most)
            print(f"{name}: {results[name]}")
        name = f"{place.parent.name}/{place.name}, {TIMES} times as wide at 224"
        results[name] = compare(model, place, 224, min(args.most, ENLARGED), change=enlarged)
        print(f"{name}: {results[name]}")
    bundled = pretrained.load(BUNDLED, "cpu")
    side = bundled.config["input_size"][1]
    for place in args.photos:
        name = f"{place.parent.name}/{place.name}, {BUNDLED} at {side}"
        results[name] = compare(bundled.model, place, side, args.most, bundled.config)
        print(f"{name}: {results[name]}")
    report.write("preprocessing", {"weights": GOOGLE.parent.name, **results})


if __name__ == "__main__":
    main()

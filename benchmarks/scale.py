"""Measures how time and memory grow: with images, classes, weights in an index, and images in a tar file.

Each size runs in a process of its own, which imports everything first and then measures one call. The growth is the
time per unit divided by the smallest time per unit of any smaller size: 1 or less means that the time grows at most
in proportion. Images are of 16 x 16 pixels, in folders of hard links, and the model is `mnv2zoo_035` on 32 x 32 pixels,
so that reading, bookkeeping and writing weigh as much as they can.

    python benchmarks/scale.py
    python benchmarks/scale.py --cases split resume --largest 1000000

With some of the cases, the results of others stay.
"""

from __future__ import annotations

import gc
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import report

LINKS = 30_000  # hard links to one file; ext4 allows 65,000
IMAGES_PER_CLASS = 2
STILL = {"hflip": 0.0, "color_jitter": 0.0}
RECIPE = {"input_size": 32, "workers": 0, "train": "head", "epochs": 1, "init": "random", **STILL}
Measured = Callable[[], object]


class Case(NamedTuple):
    """The unit that grows, the measured sizes, and a function that prepares the measured call in a folder."""

    unit: str
    sizes: tuple[int, ...]
    prepare: Callable[[int, Path], Measured]


def make_images(folder: Path, count: int, classes: int = 10) -> Path:
    """Writes images into folders of classes: hard links to a few files, whose bytes differ."""
    from PIL import Image

    folder.mkdir(parents=True)
    for number in range(classes):
        (folder / f"class {number:05}").mkdir()
    originals = {}
    for number in range(count):
        file = folder / f"class {number % classes:05}" / f"{number:07}.png"
        original = originals.get(number // LINKS)
        if original is None:
            Image.new("RGB", (16, 16), (number // LINKS, 90, 160)).save(file)
            originals[number // LINKS] = file
        else:
            os.link(original, file)
    return folder


def make_model(folder: Path, classes: int) -> Path:
    """Writes an untrained classifier as a run folder has it."""
    import timm
    import torch

    from mnv2zoo.model_dir import files

    torch.manual_seed(0)
    model = timm.create_model("mnv2zoo_035", num_classes=classes)
    preprocessing = {
        "input_size": (3, 32, 32),
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "squash",
    }
    folder.mkdir(parents=True)
    names = tuple(f"class {number:05}" for number in range(classes))
    for name, content in files.model_files(model, preprocessing, names).items():
        (folder / name).write_bytes(content)
    return folder


def predict(images: int, folder: Path) -> Measured:
    """Predicts a folder into a file."""
    import mnv2zoo

    photos, model = make_images(folder / "photos", images), make_model(folder / "model", 10)
    return lambda: sum(1 for _ in mnv2zoo.predict([photos], str(model), device="cpu"))


def resume(images: int, folder: Path) -> Measured:
    """Resumes a job whose rows are all there but the last hundred."""
    from mnv2zoo.data import discover
    from mnv2zoo.inference.journal import Journal
    from mnv2zoo.tasks import find_task

    photos, output = make_images(folder / "photos", images), folder / "rows.jsonl"
    row = {"model": "run", "predictions": [{"class": 0, "label": "class 00000", "score": 0.5}]}
    with Journal(output) as journal:
        journal.begin({"topk": 1}, find_task("classify"))
        files = list(discover.walk([str(photos)]))
        for start in range(0, images - 100, 1000):
            journal.add({"image": str(file), **row} for file in files[start : min(start + 1000, images - 100)])

    def again() -> None:
        with Journal(output) as journal:
            journal.begin({"topk": 1}, find_task("classify"))
            left = [file for file in discover.walk([str(photos)]) if file not in journal]
            assert len(left) == 100, f"{len(left)} images are left"
            journal.add({"image": str(file), **row} for file in left)
            journal.finish()

    return again


def split(images: int, folder: Path) -> Measured:
    """Finds images and takes a tenth of each class for validation."""
    from mnv2zoo.data import splits
    from mnv2zoo.data.layout import Layout
    from mnv2zoo.tasks import find_task

    photos, task = make_images(folder / "photos", images), find_task("classify")

    def measured() -> None:
        data = splits.with_validation(task.find_data(photos, Layout()), 0.1, 0)
        assert sum(map(len, data.splits.values())) == images

    return measured


def evaluate(images: int, folder: Path) -> Measured:
    """Evaluates a model of ten classes."""
    import mnv2zoo

    photos, model = make_images(folder / "photos", images), make_model(folder / "model", 10)
    return lambda: mnv2zoo.evaluate(photos, str(model), device="cpu")


def tar(images: int, folder: Path) -> Measured:
    """Evaluates the images of a tar file."""
    import mnv2zoo

    photos, model = make_images(folder / "photos", images), make_model(folder / "model", 10)
    with tarfile.open(folder / "photos.tar", "w") as archive:
        archive.add(photos, "photos")
    return lambda: mnv2zoo.evaluate(folder / "photos.tar", str(model), device="cpu")


def finetune(classes: int, folder: Path) -> Measured:
    """Trains the classifier of a model for an epoch, evaluates it and writes the report."""
    import mnv2zoo

    photos = make_images(folder / "photos", IMAGES_PER_CLASS * classes, classes)
    return lambda: mnv2zoo.finetune(photos, model="mnv2zoo_035", out=folder / "run", device="cpu", **RECIPE)


def answer(classes: int, folder: Path) -> Measured:
    """Predicts a hundred images with a model of many classes."""
    import mnv2zoo

    photos, model = make_images(folder / "photos", 100), make_model(folder / "model", classes)
    return lambda: list(mnv2zoo.predict([photos], str(model), device="cpu"))


def index(entries: int, folder: Path) -> Measured:
    """Imports the package with an index, lists the models and creates one."""
    folder.mkdir(parents=True)
    report.write_index(folder / "index.json", b"weights")
    entry = json.loads((folder / "index.json").read_text(encoding="utf-8"))["weights"]["mnv2zoo_100.benchmark"]
    weights = {
        f"mnv2zoo_100.benchmark_{number}": entry | {"repo_id": f"benchmark/{number}", "sha256": f"{number:064x}"}
        for number in range(entries)
    }
    content = {"schema_version": 1, "weights": weights}
    (folder / "index.json").write_text(json.dumps(content), encoding="utf-8")
    os.environ["MNV2ZOO_WEIGHTS_INDEX"] = str(folder / "index.json")
    import timm  # without mnv2zoo, whose import is measured

    def measured() -> None:
        import mnv2zoo

        assert len(mnv2zoo.list_models(pretrained=True)) >= 1
        timm.create_model(f"mnv2zoo_100.benchmark_{entries - 1}")

    return measured


CASES = {
    "predict": Case("images", (10**3, 10**4, 10**5), predict),
    "resume": Case("images", (10**3, 10**4, 10**5, 10**6), resume),
    "split": Case("images", (10**3, 10**4, 10**5, 10**6), split),
    "evaluate": Case("images", (10**3, 10**4, 10**5), evaluate),
    "tar": Case("images", (10**3, 10**4, 10**5), tar),
    "finetune": Case("classes", (10, 1_000, 20_000), finetune),
    "answer": Case("classes", (10, 1_000, 20_000), answer),
    "index": Case("entries", (10, 1_000, 10_000), index),
}


def measure(case: str, size: int) -> dict[str, Any]:
    """Seconds of one call, and the process's peak of memory before and after it."""
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MNV2ZOO_HOME"] = f"{scratch}/home"
        run = CASES[case].prepare(size, Path(scratch) / "work")
        gc.collect()
        gc.freeze()  # else the first collection goes through a million objects of the imported modules, once
        before, began = round(report.peak()), time.perf_counter()
        run()
        return {"seconds": round(time.perf_counter() - began, 3), "mb_before": before, "mb": round(report.peak())}


def grown(rows: dict[int, dict[str, Any]]) -> None:
    """Adds the time per unit, and its growth, to the rows of one case."""
    smallest = float("inf")
    for size, row in rows.items():
        row["us_per_unit"] = round(1e6 * row["seconds"] / size, 2)
        if smallest < float("inf"):
            row["growth"] = round(row["us_per_unit"] / smallest, 2)
        smallest = min(smallest, row["us_per_unit"])


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--largest", type=int, default=10**6, help="leave out larger sizes (default: 1,000,000)")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "SIZE"), help="measure one size, and print it as JSON")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one[0], int(args.one[1]))))
        return
    results: dict[str, Any] = report.written("scale").get("results", {})
    for name in args.cases:
        case = CASES[name]
        sizes = [size for size in case.sizes if size <= args.largest]
        rows = {size: report.in_process(__file__, "--one", name, str(size)) for size in sizes}
        grown(rows)
        for size, row in rows.items():
            print(f"{name}, {size:,} {case.unit}: {row}", flush=True)
        results[name] = {"unit": case.unit, "sizes": {str(size): row for size, row in rows.items()}}
        report.write("scale", {"results": {name: results[name] for name in CASES if name in results}})


if __name__ == "__main__":
    main()

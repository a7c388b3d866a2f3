"""Segmentation from data to predictions, in Python and on the command line."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

import mnv2zoo
from mnv2zoo import segmentation
from mnv2zoo.data import decode, drawing
from mnv2zoo.data.masks import decode_mask
from mnv2zoo.errors import DataError, RecipeError
from mnv2zoo.tasks.segment import Segment
from tests.photos import encoded
from tests.tasks.segment.scenes import NAMES, QUICK, VOID, add, fill, mask
from tests.training.runs import environment, equal, interrupted_after, process, rows, weights

MODEL = "mnv2zoo_035"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of scenes, a run on it, and its result."""
    folder = tmp_path_factory.mktemp("segment")
    data = fill(folder / "data")
    result = mnv2zoo.finetune(
        data, MODEL, folder / "run", task="segment", **{**QUICK, "epochs": 20, "input_size": 64, "ema_decay": 0.8}
    )
    return data, folder / "run", result


def predicted(run, file):
    """The class of each pixel, computed without the package's own loops."""
    config = json.loads((run / "config.json").read_text())["pretrained_cfg"]
    with Image.open(file) as image:
        size, pixels = image.size, image.convert("RGB").resize(config["input_size"][:0:-1], Image.Resampling.BILINEAR)
    mean, std = (np.array(config[key], np.float32) for key in ("mean", "std"))
    inputs = torch.from_numpy((np.asarray(pixels, np.float32) / 255 - mean) / std).permute(2, 0, 1)[None]
    with torch.inference_mode():
        logits = segmentation.load(run, "cpu")(inputs)
    return functional.interpolate(logits, size[::-1], mode="bilinear", antialias=True).argmax(1)[0].numpy()


def test_it_learns_scenes(trained):
    _, _, result = trained
    assert result.scores["val"].miou > 60
    assert result.class_names == NAMES
    assert result.epoch == 1 + int(np.argmax([row["val_miou"] for row in result.history]))


def test_the_metrics_are_those_of_the_pixels(trained):
    data, run, result = trained
    counts = np.zeros((3, 3), int)
    for file in sorted((data / "val/images").glob("*.png")):
        truth = np.array(Image.open(data / "val/masks" / file.name))
        np.add.at(counts, (truth[truth != VOID], predicted(run, file)[truth != VOID]), 1)
    hits = counts.diagonal()
    scores = result.scores["val"]
    assert np.abs(np.array(scores.confusion) - counts).sum() <= 4  # ties aside
    assert scores.miou == pytest.approx(100 * (hits / (counts.sum(0) + counts.sum(1) - hits)).mean(), abs=0.1)
    assert scores.pixel_accuracy == pytest.approx(100 * hits.sum() / counts.sum(), abs=0.1)
    assert scores.mean_accuracy == pytest.approx(100 * (hits / counts.sum(1)).mean(), abs=0.1)


def test_evaluate_gives_the_same(trained):
    data, run, result = trained
    scores = mnv2zoo.evaluate(data, run, batch_size=3)
    assert scores.measured == "4 val images that the run held out"
    assert scores.confusion == result.scores["val"].confusion


def test_predict_gives_the_masks_and_their_pixels(trained, tmp_path):
    data, run, _ = trained
    output = tmp_path / "rows.jsonl"
    found = list(mnv2zoo.predict(data / "val/images", str(run), files=tmp_path / "masks", output=output))
    assert [json.loads(line) for line in output.read_text().splitlines()] == found
    assert len(found) == 4
    for row in found:
        file = Path(row["image"])
        assert list(row) == ["image", "model", "mask", "pixels"]
        assert row["mask"] == str(tmp_path / "masks" / file.name)
        with Image.open(row["mask"]) as png:
            assert png.mode == "P"
            assert tuple(png.getpalette()[3:6]) == drawing.class_color(1)
        numbers = decode_mask(Path(row["mask"]).read_bytes())
        assert (numbers != predicted(run, file)).mean() < 0.002
        assert row["pixels"] == {NAMES[n]: int((numbers == n).sum()) for n in range(3) if (numbers == n).any()}


def test_pictures_show_the_masks(trained, tmp_path):
    data, run, _ = trained
    file = data / "val/images/08.png"
    (row,) = mnv2zoo.predict(file, str(run), save_images=tmp_path / "drawn")
    assert (row["mask"], list(row)) == (None, ["image", "model", "mask", "pixels"])
    (row,) = mnv2zoo.predict(file, str(run), files=tmp_path / "masks")
    wanted = drawing.draw_mask(decode.read(file), decode_mask(Path(row["mask"]).read_bytes()), NAMES)
    assert (tmp_path / "drawn/08.jpg").read_bytes() == encoded(wanted, "JPEG", quality=92)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables_of_rows(trained, tmp_path, ending):
    data, run, _ = trained
    output = tmp_path / f"rows.{ending}"
    found = list(mnv2zoo.predict(data / "val/images", str(run), output=output))
    if ending == "csv":
        lines = output.read_text().splitlines()
        assert lines[0] == "image,model,mask,pixels"
        assert len(lines) == 5
    else:
        table = pytest.importorskip("pyarrow.parquet").read_table(output).to_pylist()
        assert [dict(row["pixels"]) for row in table] == [row["pixels"] for row in found]


def test_large_rotated_photos_get_masks_as_people_see_them(trained, tmp_path):
    _, run, _ = trained
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = Image.fromarray(
        np.kron(np.asarray(Image.new("RGB", (40, 30), (90, 90, 90))), np.ones((40, 40, 1), np.uint8))
    )
    photo.save(tmp_path / "photo.jpg", exif=exif)  # 1600 x 1200 as it is stored
    for exact in (False, True):
        (row,) = mnv2zoo.predict(tmp_path / "photo.jpg", str(run), files=tmp_path / "masks", exact=exact)
        assert decode_mask(Path(row["mask"]).read_bytes()).shape == (1600, 1200)
        assert sum(row["pixels"].values()) == 1600 * 1200

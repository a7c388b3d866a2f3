"""The report shows curves, classes, confusions and the worst images."""

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mnv2zoo
from mnv2zoo.data import drawing
from mnv2zoo.data.layout import Layout
from mnv2zoo.tasks.segment import data, report
from mnv2zoo.tasks.segment.metrics import Worst
from tests.tasks.segment.scenes import NAMES, QUICK, fill


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    fill(folder / "data")
    mnv2zoo.finetune(folder / "data", "mnv2zoo_035", folder / "run", task="segment", **QUICK)
    return folder / "run"


def test_the_page_has_the_metrics_and_the_pictures(run):
    folder = run / "report/val"
    page = (folder / "README.md").read_text()
    scores = mnv2zoo.evaluate(run.parent / "data", run)
    assert f"| mIoU | {scores.miou:.2f} % |" in page
    for row in scores.per_class:
        accuracy = f"{row['accuracy']:.1f}"
        assert f"| {row['class']} | {row['label']} | {row['pixels']:,} | {row['iou']:.1f} | {accuracy} |" in page
    assert "| val/images/" in page
    for name in ("curves.png", "confusion.png", "worst.png"):
        assert f"({name})" in page
        with Image.open(folder / name) as picture:
            assert picture.width > 300


def test_tensorboard_has_the_figures(run):
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    assert {"val/confusion", "val/worst"} <= {*events.Tags()["images"]}
    assert len(events.Scalars("val/miou")) == 2


def test_the_worst_images_stand_beside_truth_and_prediction(tmp_path):
    samples = data.find(fill(tmp_path / "data"), Layout()).splits["val"]
    prediction = torch.full((20, 30), 2, dtype=torch.uint8)
    image, truth, predicted, numbers = report.pictures(Worst(1, 12.5, prediction), samples[1], NAMES)
    assert image.size == truth.size == predicted.size == (48, 36)
    own = samples[1].read()
    assert np.array_equal(truth, drawing.draw_mask(own, samples[1].target.read(), NAMES, legend=False))
    assert np.array_equal(predicted, drawing.draw_mask(own, np.full((36, 48), 2, np.uint8), NAMES, legend=False))
    assert numbers == {0, 1, 2, 255}
    figure = report.worst_figure([Worst(1, 12.5, prediction)], samples, NAMES)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:3] == ["image 1", "annotated", "predicted, IoU 12.5 %"]
    assert [text.get_text() for text in figure.axes[-1].get_legend().get_texts()] == [*NAMES]

"""The report and the model card of a network that gives several labels."""

import torch
from PIL import Image

from mnv2zoo.tasks.multilabel import report
from mnv2zoo.tasks.multilabel.metrics import score

NAMES = ("a|b", "c", "never")
LOGITS = torch.tensor([[2.0, -1.0, -3.0], [-0.5, 1.0, -3.0], [0.3, 0.5, -3.0]])
TARGETS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
SCORES = score(LOGITS, TARGETS, NAMES, (0.5, 0.6, 0.5))


def test_labels_come_from_worst_to_best_with_those_that_no_image_has_last():
    lines = report.labels_table(SCORES).splitlines()[2:]
    assert lines == [
        "| c | 1 | 50.0 | 100.0 | 66.7 | 100.0 | 0.6 |",
        r"| a\|b | 2 | 100.0 | 100.0 | 100.0 | 100.0 | 0.5 |",
        "| never | 0 |  |  |  |  | 0.5 |",
    ]


def test_a_page_shows_pictures_that_are_there(tmp_path):
    history = [{"epoch": 1, "train_loss": 2.0, "lr": 0.1, "seconds": 1.0, "val_loss": 1.5, "val_map": 50.0}]
    figures = report.write(tmp_path, history, SCORES, LOGITS.double().sigmoid(), TARGETS.long(), "val images")
    page = (tmp_path / "README.md").read_text()
    assert "| mAP | 100.00 % |" in page
    assert "Best validation mAP: 50.00 %, first reached in epoch 1." in page
    for name in ("curves.png", "precision_recall.png"):
        assert f"({name})" in page
        with Image.open(tmp_path / name) as image:
            assert image.width > 400
    assert list(figures) == ["precision_recall"]


def test_a_curve_goes_through_the_point_of_each_threshold():
    axes = report.curve_figure(SCORES, LOGITS.double().sigmoid(), TARGETS.long()).axes[0]
    worst, point, *_, everything = axes.lines
    assert (point.get_xdata().tolist(), point.get_ydata().tolist()) == (
        [100.0],
        [100.0],
    )  # label a|b, the first of equals
    assert worst.get_label() == "a|b, AP 100.0 %"
    assert everything.get_label() == "all labels together"


def test_without_labels_there_is_no_curve(tmp_path):
    (tmp_path / "precision_recall.png").write_bytes(b"of an earlier report")
    scores = score(LOGITS[:, :1], TARGETS[:, :1] * 0, ("a",))
    assert report.write(tmp_path, [], scores, LOGITS[:, :1].sigmoid(), TARGETS[:, :1].long() * 0, "test") == {}
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]

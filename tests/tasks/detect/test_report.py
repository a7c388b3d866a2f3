"""The report on a detector: a page and its pictures."""

import numpy as np
from PIL import Image

from mnv2zoo.data.drawing import class_color
from mnv2zoo.tasks.detect import report
from mnv2zoo.tasks.detect.metrics import judge, score
from tests.tasks.detect.test_metrics import FAR, A, B, found, truth

HISTORY = [
    {"epoch": 1, "train_loss": 3.0, "val_map": 20.0, "val_map50": 41.0, "lr": 0.1, "seconds": 2.0},
    {"epoch": 2, "train_loss": 2.0, "val_map": 34.5, "val_map50": 60.0, "lr": 0.0, "seconds": 3.0},
]
IMAGES = [
    (found((0, 0.9, A)), truth((0, A))),
    (found((0, 0.9, A), (1, 0.8, FAR)), truth((1, B))),  # two boxes without an object, and an object without a box
    (found((1, 0.9, A)), truth((0, A))),
]


def written(folder, images=IMAGES, names=("right.jpg", "worst_1.jpg", "confused.jpg")):
    scores = score(images, ["a|b", "c"])
    judged = [judge(*image) for image in images]
    read = lambda number: Image.new("RGB", (400, 360), (200, 200, 200))  # noqa: E731
    figures = report.write(folder, HISTORY, scores, judged, read, names, "val images")
    return scores, judged, figures


def test_the_page_names_the_worst_images_and_the_scores(tmp_path):
    scores, judged, figures = written(tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert [image.mistakes for image in judged] == [0, 3, 1]
    assert "| worst\\_1.jpg | 3 |\n| confused.jpg | 1 |" in page
    assert f"| map50 | {scores.map50:.2f} % |" in page
    assert "Best validation mAP: 34.50 %, first reached in epoch 2." in page
    assert "| a\\|b |" in page
    pictures = ["confusion.png", "curves.png", "precision_recall.png", "worst.png"]
    assert sorted(file.name for file in tmp_path.glob("*.png")) == pictures
    assert sorted(figures) == ["confusion", "precision_recall", "worst"]
    for name in pictures:
        assert f"({name})" in page
        Image.open(tmp_path / name).verify()


def test_a_detector_without_mistakes_leaves_no_picture_of_any(tmp_path):
    written(tmp_path)
    written(tmp_path, IMAGES[:1])
    assert not (tmp_path / "worst.png").exists()
    assert "Worst" not in (tmp_path / "README.md").read_text()


def test_truth_is_on_the_left_and_what_was_found_on_the_right(tmp_path):
    # One object of the first class on the left, one box of the second on the right.
    _, _, figures = written(tmp_path, [IMAGES[2]], ["one.jpg"])
    left, right = figures["worst"].axes
    pixels = [axes.images[0].get_array() for axes in (left, right)]
    assert pixels[0].shape == (360, 400, 3)
    shows = [[(shown == class_color(number)).all(-1).any() for number in (0, 1)] for shown in map(np.asarray, pixels)]
    assert shows == [[True, False], [False, True]]
    assert left.get_title() == "annotated: 1 boxes"
    assert right.get_title() == "predicted: 1 boxes, 1 mistakes"


def test_the_curves_are_those_of_the_scores(tmp_path):
    scores, _, figures = written(tmp_path)
    (axes,) = figures["precision_recall"].axes
    assert [tuple(line.get_ydata()) for line in axes.lines] == [row.curve for row in scores.per_class]
    texts = sorted(text.get_text() for text in figures["confusion"].axes[0].texts)
    assert texts == sorted(str(count) for row in scores.confusion for count in row if count)


def test_many_classes_fit(tmp_path):
    names = [f"class {number} of a very long name" for number in range(90)]
    figure = report.confusion_figure(score([(found((80, 0.9, A)), truth((80, A)))], names))
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert len(labels) == report.CLASSES + 1
    assert "class 80 of a very long…" in labels

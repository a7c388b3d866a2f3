"""COCO's mean average precision, by cases worked by hand and by another library; and the confusion matrix."""

import numpy as np
import pytest
import torch
from torchmetrics.detection import MeanAveragePrecision

from mnv2zoo.errors import DataError
from mnv2zoo.tasks.detect.metrics import Detections, confusion, judge, score


def boxes(*rows):
    return np.array(rows, float).reshape(-1, 4)


def found(*rows):
    """Boxes as (label, score, corners)."""
    labels, scores = np.array([row[0] for row in rows], int), np.array([row[1] for row in rows], float)
    return {"boxes": boxes(*(row[2] for row in rows)), "labels": labels, "scores": scores}


def truth(*rows):
    """Objects as (label, corners) or (label, corners, ignored)."""
    ignored = np.array([len(row) > 2 and row[2] for row in rows], bool)
    labels = np.array([row[0] for row in rows], int)
    return {"boxes": boxes(*(row[1] for row in rows)), "labels": labels, "ignored": ignored}


A, B, FAR = (0, 0, 50, 50), (100, 100, 150, 150), (300, 300, 350, 350)


def test_average_precision_worked_by_hand():
    # The surest box is right, the second is nowhere, the third is right: precision 1 up to recall 1/2 (51 of 101
    # points), and 2/3 up to recall 1 (50 points).
    scores = score([(found((0, 0.9, A), (0, 0.8, FAR), (0, 0.7, B)), truth((0, A), (0, B)))], ["cell"])
    by_hand = 100 * (51 + 50 * 2 / 3) / 101
    assert scores.map50 == pytest.approx(by_hand, abs=1e-9)
    assert scores.map == pytest.approx(by_hand, abs=1e-9)
    assert (scores.map_small, scores.map_large) == (None, None)
    assert scores.map_medium == pytest.approx(by_hand, abs=1e-9)  # 2,500 pixels
    (cell,) = scores.per_class
    # F1 is 2/3 at recall 1/2, and 4/5 at recall 1.
    assert (cell.precision, cell.recall, cell.score) == pytest.approx((200 / 3, 100, 0.7))
    assert (cell.images, cell.objects) == (1, 2)


def test_a_box_beside_its_object_counts_up_to_its_overlap():
    # 50 x 50 pixels, shifted by 10: 2,000 of 3,000 pixels are shared, IoU 2/3. That is enough at 0.50, 0.55, 0.60 and
    # 0.65, four of the ten.
    scores = score([(found((0, 0.9, (10, 0, 60, 50))), truth((0, A)))], ["cell"])
    assert (scores.map50, scores.map75) == (100, 0)
    assert scores.map == pytest.approx(40)


def test_a_perfect_detector_has_100_percent_and_one_that_finds_nothing_0():
    images = [truth((0, A), (1, B)), truth((1, A)), truth()]
    perfect = [
        (found(*((label, 0.9, box) for label, box in zip(t["labels"], t["boxes"], strict=True))), t) for t in images
    ]
    scores = score(perfect, ["a", "b"])
    assert (scores.map, scores.map50, scores.map75) == (100, 100, 100)
    assert scores.confusion == ((1, 0, 0), (0, 2, 0), (0, 0, 0))
    nothing = score([(found(), t) for t in images], ["a", "b"])
    assert (nothing.map, nothing.map50, nothing.map_medium, nothing.map_small) == (0, 0, 0, None)
    assert nothing.confusion == ((0, 0, 1), (0, 0, 2), (0, 0, 0))
    assert [row.ap50 for row in nothing.per_class] == [0, 0]


def test_ignored_objects_and_those_without_area_count_for_nothing():
    plain = score([(found((0, 0.9, A)), truth((0, A)))], ["cell"])
    ignoring = score(
        [(found((0, 0.9, A), (0, 0.95, B)), truth((0, A), (0, B, True), (0, FAR, True), (0, (5, 5, 5, 9))))], ["cell"]
    )
    assert plain.map == ignoring.map == 100
    assert ignoring.confusion[0][0] == 1
    assert ignoring.confusion[1][0] == 0  # the box on an ignored object is no mistake


def test_a_class_without_objects_is_left_out_of_the_mean():
    scores = score([(found((0, 0.9, A), (1, 0.9, B)), truth((0, A)))], ["a", "b"])
    assert scores.map == 100
    assert (scores.per_class[1].ap, scores.per_class[1].objects) == (None, 0)
    columns, rows = scores.table()
    assert rows[1] == ["b", "0", "0", "-", "-", "-", "-", "-"]
    assert len(columns) == len(rows[0])


def test_sizes_are_those_in_the_image_and_not_in_the_networks_input():
    # 20 x 20 pixels of the input are 80 x 80 of the image.
    metric = Detections(["cell"])
    corners = torch.tensor([[10.0, 10, 30, 30]])
    target = {"boxes": corners, "labels": torch.tensor([1]), "ignored": torch.tensor([False])}
    output = {"boxes": corners, "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}
    metric.update([output], [{**target, "scale": torch.tensor([4.0, 4.0])}])
    scores = metric.compute()
    assert (scores.map_small, scores.map_medium, scores.map_large) == (None, 100, None)


def random_images(crowds):
    """Thirty images of six objects, with boxes near them and three more."""
    random = np.random.default_rng(0)
    images = []
    for _ in range(30):
        corners = random.uniform(0, 200, (6, 2))
        objects = np.concatenate([corners, corners + random.uniform(8, 150, (6, 2))], 1)
        labels, ignored = random.integers(0, 3, 6), random.random(6) < crowds
        near = np.concatenate([objects + random.normal(0, 4, (6, 4)), objects[:3] + 40])
        output = {"boxes": near, "labels": np.concatenate([labels, labels[:3]]), "scores": random.random(9)}
        images.append((output, {"boxes": objects, "labels": labels, "ignored": ignored}))
    return images


def test_torchmetrics_finds_the_same_on_random_boxes():
    other, images = MeanAveragePrecision(backend="faster_coco_eval", class_metrics=True), random_images(crowds=0)
    for output, target in images:
        tensors = [{name: torch.tensor(value) for name, value in own.items()} for own in (output, target)]
        other.update(tensors[:1], tensors[1:])
    scores, values = score(images, ["a", "b", "c"]), other.compute()
    names = {"map50": "map_50", "map75": "map_75"}
    for name in ("map", "map50", "map75"):
        assert getattr(scores, name) == pytest.approx(100 * values[names.get(name, name)].item(), abs=1e-3)
    per_class = [row.ap for row in scores.per_class]
    assert per_class == pytest.approx([100 * value for value in values["map_per_class"].tolist()], abs=1e-3)


def test_crowds_count_as_pycocotools_has_them():
    # What pycocotools 2.0.11 finds for the same boxes. torchmetrics has other numbers for crowds and small objects.
    expected = {
        **{"map": 35.375476, "map50": 59.872608, "map75": 38.119387},
        **{"map_small": 6.466813, "map_medium": 36.129478, "map_large": 63.826848},
    }
    scores = score(random_images(crowds=0.15), ["a", "b", "c"])
    assert scores.metrics() == pytest.approx(expected, abs=1e-5)


def test_the_confusion_matrix_worked_by_hand():
    image = judge(
        found((1, 0.9, A), (0, 0.8, (2, 0, 52, 50)), (0, 0.7, FAR), (1, 0.4, B)),
        truth((0, A), (1, B)),
    )
    # The surest box takes the first object for a b; the second has no object left; the last is not sure enough.
    assert image.of == (0, -1, -1)
    assert image.mistakes == 4
    assert confusion([image], 2) == ((0, 1, 0), (0, 0, 1), (2, 0, 0))


def test_of_two_objects_in_one_place_a_box_takes_that_of_its_class():
    assert judge(found((1, 0.9, A)), truth((0, A), (1, A))).of == (1,)


def test_what_cannot_be_scored_is_a_clear_error():
    with pytest.raises(DataError):
        score([], ["a"])
    with pytest.raises(DataError):
        score([(found(), truth((3, A)))], ["a"])


def test_figures_for_people_and_for_programs():
    scores = score([(found((0, 0.9, A)), truth((0, A), (0, B)))], ["cell"])
    document = scores.to_json()
    assert (document["map"], document["map50"]) == (round(100 * 51 / 101, 4),) * 2
    assert document["per_class"][0]["precision"] == 100
    assert scores.metrics().keys() == {"map", "map50", "map75", "map_medium"}
    assert scores.last_line() == ("1 images with 2 objects: mAP 50.50 %, AP50 50.50 %, AP75 50.50 %, medium 50.50 %")

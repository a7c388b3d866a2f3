"""Agreement is counted as one would by hand."""

import math

import pytest
import torch

from mnv2zoo.deploy import agreement

ONE = {"boxes": [[0.0, 0.0, 10.0, 10.0]], "labels": [1], "scores": [0.9]}


def boxes(*rows):
    """An image's detections, from rows of a box, a label and a score."""
    return {
        "boxes": torch.tensor([row[0] for row in rows], dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor([row[1] for row in rows], dtype=torch.int64),
        "scores": torch.tensor([row[2] for row in rows], dtype=torch.float32),
    }


SQUARE = ([0, 0, 100, 100], 1, 0.9)


@pytest.mark.parametrize(
    ("other", "share"),
    [
        (SQUARE, 100),
        (([0, 0, 100, 99.5], 1, 0.9), 100),  # IoU 0.995
        (([0, 0, 100, 98], 1, 0.9), 0),  # IoU 0.98
        (([0, 0, 100, 100], 2, 0.9), 0),
        (([0, 0, 100, 100], 1, 0.9005), 100),
        (([0, 0, 100, 100], 1, 0.902), 0),
    ],
)
def test_partners_have_one_label_and_nearly_one_box_and_score(other, share):
    assert agreement.matched([boxes(SQUARE)], [boxes(other)]) == share


def test_boxes_of_both_models_count():
    more = boxes(SQUARE, ([200, 0, 240, 40], 1, 0.5), ([300, 0, 340, 40], 2, 0.4))
    assert agreement.matched([boxes(SQUARE)], [more]) == 50  # 1 of 1 and 1 of 3
    assert agreement.matched([more], [boxes(SQUARE)]) == 50
    assert agreement.matched([boxes()], [more]) == 0


def test_boxes_with_low_scores_may_be_partners_but_do_not_count():
    found, wanted = boxes(([0, 0, 9, 9], 1, 0.29)), boxes(([0, 0, 9, 9], 1, 0.31), ([50, 0, 60, 9], 1, 0.1))
    assert agreement.matched([found], [wanted], iou=0.5, score=1.0, at_least=0.3) == 100


def test_tiny_boxes_may_be_rounded():
    assert agreement.matched([boxes(([3, 3, 4, 4], 1, 0.9))], [boxes(([3.03, 3, 4, 4], 1, 0.9))]) == 100


def test_no_boxes_are_no_agreement():
    assert math.isnan(agreement.matched([boxes()], [boxes(([5, 5, 5, 9], 1, 0.5))]))  # a box without area


def logits_of(classes, count):
    return torch.nn.functional.one_hot(torch.tensor(classes), count).float()


def test_agreement_and_accuracy_of_a_classifier():
    images = torch.zeros(4, 3, 8, 8)
    before, after = logits_of([0, 1, 2, 2], 3), logits_of([0, 1, 2, 1], 3)
    found = agreement.measure(lambda x: before, lambda x: after, images, [0, 1, 1, 1])
    assert found == {"agreement": 75, "accuracy": (50, 75)}
    assert agreement.measure(lambda x: before, lambda x: after, images)["accuracy"] is None


@pytest.mark.parametrize("wrap", [lambda logits: logits, lambda logits: {"out": logits}])
def test_agreement_of_a_segmenter_is_that_of_its_pixels(wrap):
    classes = torch.randint(0, 5, (20, 6, 4), generator=torch.Generator().manual_seed(0))
    others = classes.clone()
    others[3, :, 0] = (others[3, :, 0] + 1) % 5  # 6 of 480 pixels
    turn = iter([classes[:16], others[:16], classes[16:], others[16:]])  # 16 images at once

    def run(images):
        return wrap(torch.nn.functional.one_hot(next(turn), 5).movedim(3, 1).float())

    assert agreement.measure(run, run, torch.zeros(20, 3, 6, 4))["agreement"] == pytest.approx(100 * 474 / 480)


def test_one_map_of_logits_is_of_two_classes():
    found = agreement.decisions(torch.tensor([-1.0, 2.0]).reshape(1, 1, 1, 2))
    assert found.tolist() == [[[False, True]]]


def test_maps_of_another_size_than_the_images_decide_nothing():
    images = torch.zeros(2, 3, 8, 8)
    assert agreement.decided_by({"out": torch.zeros(2, 5, 8, 8)}, images) is not None
    assert agreement.decided_by(torch.zeros(2, 5, 8, 8), images) is not None
    assert agreement.decided_by(torch.zeros(2, 5), images) is not None
    assert agreement.decided_by(torch.zeros(2, 5, 4, 4), images) is None
    assert agreement.decided_by({"C1": torch.zeros(2, 5, 8, 8)}, images) is None
    assert agreement.decided_by([torch.zeros(2, 5)], images) is None

"""mIoU comes from one confusion matrix over all images."""

import json

import pytest
import torch
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex
from torchmetrics.segmentation import MeanIoU

from mnv2zoo.errors import DataError, RunError
from mnv2zoo.tasks.segment.metrics import PixelAccuracy, condense

NAMES = ("sky", "road", "car")


def logits_of(prediction):
    """Logits whose highest are those of a prediction."""
    return torch.nn.functional.one_hot(torch.tensor(prediction), len(NAMES)).permute(2, 0, 1).float() * 4


def metric_of(*pairs):
    """The metric of pairs of truth and prediction, an image per batch."""
    metric = PixelAccuracy(NAMES)
    for truth, prediction in pairs:
        outputs, targets = condense(logits_of(prediction)[None], [torch.tensor(truth, dtype=torch.uint8)])
        metric.update(outputs, targets)
    return metric


def test_two_images_worked_by_hand():
    # Image 1: 3 of 4 road pixels are found, and one is taken for sky. Image 2: all road, all found; one is ignored.
    one = ([[1, 1, 1, 1]], [[1, 1, 1, 0]])
    two = ([[1, 255]], [[1, 0]])
    scores = metric_of(one, two).compute()
    # Road: 4 of 5 pixels. Sky: none of the 1 predicted. Car appears nowhere and is left out.
    assert scores.miou == pytest.approx((4 / 5 + 0) / 2 * 100)
    assert scores.pixel_accuracy == pytest.approx(4 / 5 * 100)
    assert scores.mean_accuracy == pytest.approx(4 / 5 * 100)
    assert scores.images == 2
    # The mean of the two images' own figures is another: (3/4 + 0) / 2 and 1.
    averaged = ((3 / 4 + 0) / 2 + 1) / 2 * 100
    assert averaged == pytest.approx(68.75)
    assert scores.miou == pytest.approx(40)


def test_figures_are_those_of_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, 12, 16, generator=generator)
    masks = torch.randint(0, 3, (5, 12, 16), generator=generator, dtype=torch.uint8)
    masks[torch.rand(5, 12, 16, generator=generator) < 0.2] = 255
    metric = PixelAccuracy(NAMES)
    for part in (slice(0, 2), slice(2, 5)):
        metric.update(*condense(logits[part], masks[part]))
    scores, truth = metric.compute(), masks.long()
    matrix = MulticlassConfusionMatrix(3, ignore_index=255)(logits, truth)
    assert torch.equal(torch.tensor(scores.confusion), matrix)
    jaccard = MulticlassJaccardIndex(3, average="none", ignore_index=255)(logits, truth)
    assert [row["iou"] for row in scores.per_class] == pytest.approx((100 * jaccard).tolist(), rel=1e-5)
    assert scores.miou == pytest.approx(100 * jaccard.mean().item(), rel=1e-5)
    by_image = MeanIoU(3, input_format="index")(logits[:1].argmax(1), truth[:1].clamp(max=2))
    assert scores.miou != pytest.approx(100 * by_image.item(), rel=1e-3)


def test_masks_may_have_any_size():
    big = torch.zeros(9, 14, dtype=torch.uint8)
    big[:, 7:] = 1
    logits = logits_of([[0, 1]])
    outputs, labeled = condense(logits[None], [big])
    assert labeled.tolist() == [9 * 14]
    assert outputs["confusion"][0].tolist() == [[63, 0, 0], [0, 63, 0], [0, 0, 0]]
    assert outputs["prediction"].tolist() == [[[0, 1]]]


def test_what_is_printed_and_written():
    scores = metric_of(([[1, 1], [0, 0]], [[1, 0], [0, 0]])).compute()
    document = json.loads(json.dumps(scores.to_json()))
    assert document == {
        "images": 1,
        "miou": 58.3333,
        "pixel_accuracy": 75.0,
        "mean_accuracy": 75.0,
        "classes": {
            "sky": {"pixels": 2, "iou": 66.6667, "accuracy": 100.0},
            "road": {"pixels": 2, "iou": 50.0, "accuracy": 50.0},
            "car": {"pixels": 0, "iou": None, "accuracy": None},
        },
    }
    assert scores.metrics() == pytest.approx({"miou": 58.3333, "pixel_accuracy": 75, "mean_accuracy": 75}, abs=1e-3)
    assert scores.table()[1] == [["sky", "2", "66.67", "100.00"], ["road", "2", "50.00", "50.00"]]
    assert scores.last_line() == "1 images: mIoU 58.33 %, pixel accuracy 75.00 %, mean accuracy 75.00 %"


def test_the_worst_images_are_kept_with_their_prediction():
    good, bad, empty = ([[1, 1]], [[1, 1]]), ([[1, 1]], [[0, 1]]), ([[255, 255]], [[0, 0]])
    worst = metric_of(*[good] * 9, bad, empty).worst()
    assert worst[0].index == 9
    assert len(worst) == 6
    assert worst[0].iou == pytest.approx(25)
    assert worst[0].prediction.tolist() == [[0, 1]]
    assert 10 not in [one.index for one in worst]


def test_memory_does_not_grow_with_the_images():
    metric = metric_of(*[([[0, 1]], [[0, 2]])] * 50)
    assert len(metric.worst()) == 6
    assert metric.compute().images == 50


def test_nothing_to_measure_and_no_numbers():
    with pytest.raises(DataError):
        metric_of(([[255]], [[0]])).compute()
    with pytest.raises(RunError):
        condense(torch.full((1, 3, 2, 2), torch.nan), torch.zeros(1, 2, 2, dtype=torch.uint8))

"""A detector in its parts finds what torchvision's own finds, in PyTorch and in one exported graph."""

import numpy as np
import pytest
import torch
from torchvision.models import detection
from torchvision.ops import boxes as box_ops

from mnv2zoo.deploy import detectors
from mnv2zoo.errors import DeployError
from mnv2zoo.runtimes.runners import import_onnxruntime
from tests.deploy.conftest import DETECTORS, detector, detector_images


def run(split, images):
    prepared, sizes = split.prepare(images)
    originals = [tuple(image.shape[-2:]) for image in images]
    with torch.inference_mode():
        return split.detections(split.core(prepared), sizes, originals)


def require_equal(found, wanted):
    for ours, theirs in zip(found, wanted, strict=True):
        assert len(theirs["boxes"]) > 5
        assert list(ours["labels"]) == list(theirs["labels"])
        torch.testing.assert_close(ours["boxes"], theirs["boxes"], rtol=0, atol=1e-3)
        torch.testing.assert_close(ours["scores"], theirs["scores"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", DETECTORS)
def test_parts_find_what_the_whole_finds(kind):
    whole, images = detector(kind), detector_images(kind, 3)
    with torch.inference_mode():
        require_equal(run(detectors.Split(whole, images[:1]), images), whole(list(images)))


@pytest.mark.parametrize("kind", DETECTORS)
def test_images_of_other_sizes_are_resized_and_padded_as_by_torchvision(kind):
    whole, example = detector(kind), detector_images(kind)
    images = [torch.rand(3, 90, 130), torch.rand(3, 200, 310), torch.rand(3, 60, 230), example[0]]
    split = detectors.Split(whole, example)
    with torch.inference_mode():
        require_equal(run(split, images), whole(images))  # the last fills the core's size, as torchvision's batch has


def test_torchvisions_own_detector_is_split_too():
    torch.manual_seed(0)
    whole = detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=4, score_thresh=0.0, detections_per_img=20
    ).eval()
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        require_equal(run(detectors.Split(whole, images), images), whole(list(images)))


def test_an_example_that_the_detector_resizes_sets_the_size():
    split = detectors.Split(detector("retinanet"), torch.rand(1, 3, 256, 384))
    assert split.size == (128, 192)
    prepared, sizes = split.prepare(torch.rand(2, 3, 64, 90))
    assert (prepared.shape, sizes) == ((2, 3, 128, 192), [(128, 180)] * 2)
    assert prepared[:, :, :, 180:].abs().max() == 0


def test_images_that_do_not_fit_are_refused():
    split = detectors.Split(detector("retinanet"), torch.rand(1, 3, 128, 192))
    with pytest.raises(DeployError) as error:
        split.prepare([torch.rand(3, 192, 128)])
    assert error.value.expected == "at most 128 x 192 pixels (height x width)"
    assert error.value.found == "192 x 128"


def test_masks_and_keypoints_are_not_boxes():
    arguments = {"weights": None, "weights_backbone": None, "num_classes": 2}
    assert not detectors.is_detector(detection.maskrcnn_resnet50_fpn(**arguments))
    assert not detectors.is_detector(torch.nn.Identity())
    assert detectors.is_detector(detector("fasterrcnn"))


def test_suppression_is_torchvisions_own_but_in_an_export():
    original = box_ops.batched_nms
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10]])
    with detectors.exportable_suppression((20, 20)):
        swapped = box_ops.batched_nms
        assert swapped is not original
        found = swapped(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 1, 2]), 0.5)
        assert found.tolist() == [0, 2]
    assert box_ops.batched_nms is original


@pytest.mark.slow
@pytest.mark.parametrize("kind", DETECTORS)
def test_one_graph_finds_what_the_detector_finds(kind):
    """Also where there is nothing, and where an image has padding."""
    pytest.importorskip("onnxscript")
    whole, images = detector(kind), detector_images(kind, 4)
    split = detectors.Split(whole, images)
    padded = kind != "ssdlite"
    graph = detectors.WithPostProcessing(split.core, split.post_processing, split.size, padded)
    session = import_onnxruntime().InferenceSession(graph.to_onnx(), providers=["CPUExecutionProvider"])
    sizes = [split.size, (128, 100), (70, 192), split.size] if padded else [split.size] * 4
    prepared, _ = split.prepare(images)
    prepared[3] = 0  # on which every score is the same, below the threshold
    counts = []
    for image, size in zip(prepared, sizes, strict=True):
        inputs = {"images": image[None].numpy()} | ({"size": np.array(size)} if padded else {})
        found = dict(zip(detectors.OUTPUTS, map(torch.from_numpy, session.run(None, inputs)), strict=True))
        with torch.inference_mode():
            (wanted,) = split.post_processing(split.core(image[None]), [size])
        counts.append(len(wanted["boxes"]))
        assert found["labels"].tolist() == wanted["labels"].tolist()
        torch.testing.assert_close(found["boxes"], wanted["boxes"], rtol=0, atol=1e-2)
        torch.testing.assert_close(found["scores"], wanted["scores"], rtol=0, atol=1e-4)
    assert min(counts[:3]) > 5
    assert counts[3] == 0

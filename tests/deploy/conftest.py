"""Small networks with random weights, images for them, and their outputs."""

import pytest
import timm
import torch

import mnv2zoo.detection
import mnv2zoo.segmentation
from tests.conftest import random_state_dict

SMALL = "mnv2zoo_035"


def network(name=SMALL, **kwargs):
    model = timm.create_model(name, **kwargs).eval()
    model.load_state_dict(random_state_dict(name, **kwargs))
    return model


@pytest.fixture(scope="module")
def small():
    return network()


@pytest.fixture
def x():
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def expected(model, x):
    with torch.inference_mode():
        return model(x)


# Detectors with random weights find boxes of all scores near one value; these thresholds leave some to compare.
DETECTORS = {
    "ssdlite": {"size": (160, 160), "score_thresh": 0.3},
    "retinanet": {"min_size": 128, "max_size": 192, "score_thresh": 0.0105, "detections_per_img": 100},
    "fasterrcnn": {"min_size": 128, "max_size": 192, "box_score_thresh": 0.3, "box_detections_per_img": 30},
}


def detector(kind, **arguments):
    """A small detector of three classes and background, the same at each call."""
    torch.manual_seed(0)
    whole = getattr(mnv2zoo.detection, kind)(SMALL, num_classes=4, **DETECTORS[kind] | arguments).eval()
    # With random weights the number of boxes depends on the normalization; with this one there are some in each image.
    whole.transform.image_mean, whole.transform.image_std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    return whole


def detector_images(kind, count=2):
    """Images of the size that the detector brings images to."""
    size = (160, 160) if kind == "ssdlite" else (128, 192)
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(1))


def segmenter(kind, **arguments):
    """A small segmenter of five classes, the same at each call."""
    torch.manual_seed(0)
    return getattr(mnv2zoo.segmentation, kind)(SMALL, num_classes=5, **arguments).eval()

"""Whole images are preprocessed as torchvision's detectors do it, or as the user asks."""

import pytest

from mnv2zoo.deploy import preprocessing
from mnv2zoo.errors import DeployError
from tests.deploy.conftest import detector, segmenter

WHOLE = {"input_size": [3, 96, 128], "mean": [0.5] * 3, "std": [0.25] * 3}


def test_ssd_squashes_images_to_its_size():
    found = preprocessing.of_detector(detector("ssdlite", size=(160, 128)))  # torchvision's order: width, height
    assert found == {
        "input_size": (3, 128, 160),
        "resize": "squash",
        "interpolation": "bilinear",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }


@pytest.mark.parametrize("kind", ["retinanet", "fasterrcnn"])
def test_others_keep_the_aspect_in_a_size_that_their_strides_divide(kind):
    found = preprocessing.of_detector(detector(kind, min_size=100, max_size=161))
    assert (found["input_size"], found["resize"]) == ((3, 128, 192), "pad")


def test_a_description_completes_what_it_may_lack():
    found = preprocessing.whole_image(segmenter("lraspp"), WHOLE)
    assert found == {
        "input_size": (3, 96, 128),
        "resize": "squash",
        "interpolation": "bilinear",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.25, 0.25, 0.25),
    }


def test_a_description_overrides_the_detectors_own():
    found = preprocessing.whole_image(detector("retinanet"), {"input_size": (3, 192, 192), "interpolation": "bicubic"})
    assert (found["input_size"], found["interpolation"]) == ((3, 192, 192), "bicubic")
    assert (found["resize"], found["mean"]) == ("pad", (0.485, 0.456, 0.406))


def test_a_segmenter_does_not_tell_how_it_sees_images():
    with pytest.raises(DeployError) as error:
        preprocessing.whole_image(segmenter("lraspp"), {"mean": (0, 0, 0)})
    assert error.value.problem == "the preprocessing of this LRASPP model lacks input_size, std"
    assert error.value.where == "preprocessing"


@pytest.mark.parametrize(
    "wrong",
    [
        {"input_size": (1, 96, 128)},
        {"input_size": (96, 128)},
        {"input_size": (3, 0, 128)},
        {"resize": "crop"},
        {"interpolation": "cubic"},
        {"mean": (0.5,)},
        {"std": (0.5, 0.5, 0)},
    ],
)
def test_values_that_cannot_be_are_refused(wrong):
    with pytest.raises(DeployError) as error:
        preprocessing.whole_image(segmenter("lraspp"), {**WHOLE, **wrong})
    assert error.value.problem == "the preprocessing is not supported"
    (name,) = wrong
    assert error.value.found[name] == wrong[name]

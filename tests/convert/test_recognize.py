"""The architecture and the layout of a state dict are found from its names and shapes."""

import pytest
import torch

from mnv2zoo import architecture, convert
from mnv2zoo.convert import from_native, recognize, to_native
from mnv2zoo.errors import ConversionError
from tests.conftest import random_state_dict
from tests.convert.conftest import NAME, refusal
from tests.convert.networks import theirs

SMALL = "mnv2zoo_035"


@pytest.fixture(scope="module")
def native():
    return random_state_dict(SMALL, num_classes=3)


@pytest.mark.parametrize("layout", ["timm", "torchvision", "transformers", "keras", "d-li14", "openmmlab"])
def test_architecture_and_layout_are_found(native, layout):
    assert recognize.identify(convert.from_native(native, SMALL, layout)) == (SMALL, layout)


def test_a_backbone_is_found_without_its_head(native):
    head = {**native, "head.0.weight": torch.ones(2, 2), "head.0.bias": torch.ones(2)}
    del head["classifier.weight"], head["classifier.bias"]
    with pytest.raises(ConversionError) as failure:
        recognize.identify(head)
    assert failure.value.fix == recognize.OTHER_HEAD
    backbone = recognize.without_head(head)
    assert recognize.identify(backbone) == (SMALL, "timm")
    assert backbone.keys() == native.keys() - {"classifier.weight", "classifier.bias"}


def test_an_unknown_layout_gets_the_nearest_name():
    with pytest.raises(ConversionError) as failure:
        recognize.layout_for("torchvison", architecture.get(SMALL))
    assert failure.value.expected == "torchvision"


def test_weights_of_another_architecture_are_recognized_in_the_error(native):
    with pytest.raises(ConversionError) as failure:
        convert.to_native(native, "mnv2zoo_050", "timm")
    assert failure.value.fix == f"The tensors match {SMALL} in the layout timm."


def test_the_nearest_layout_and_the_first_keys_are_named(torchvision_tensors):
    bad = {key: value for key, value in torchvision_tensors.items() if not key.startswith("features.3.conv.0")}
    bad["features.3.conv.0.0.gamma"] = torch.ones(1)
    error = refusal(to_native, bad, NAME)
    assert "layout torchvision" in error.problem
    assert error.expected == (
        "features.3.conv.0.0.weight, features.3.conv.0.1.weight, features.3.conv.0.1.bias and 2 more"
    )
    assert error.found == "features.3.conv.0.0.gamma"
    assert error.fix == "The closest layout is torchvision."


@pytest.mark.parametrize("layout", ["timm", "torchvision", "transformers"])
def test_the_nearest_layout_is_found_when_no_key_fits(layout):
    bad = {f"{key}.values": value for key, value in theirs(layout, NAME).state_dict().items()}
    error = refusal(to_native, bad, NAME)
    assert f"layout {layout}" in str(error)
    assert ".values" in error.found


@pytest.mark.parametrize("layout", ["timm", "torchvision", "transformers"])
def test_a_wrong_shape_is_shown_with_its_key_and_the_network_it_would_fit(layout):
    error = refusal(to_native, theirs(layout, "mnv2zoo_050").state_dict(), "mnv2zoo_100")
    first = {
        "timm": "conv_stem.weight",
        "torchvision": "features.0.0.weight",
        "transformers": "mobilenet_v2.conv_stem.first_conv.convolution.weight",
    }
    assert error.where == first[layout]
    assert (error.expected, error.found) == ((32, 3, 3, 3), (16, 3, 3, 3))
    assert error.fix == f"The tensors match mnv2zoo_050 in the layout {layout}."


def test_tensors_of_another_network_are_recognised(torchvision_tensors):
    for wrong in ("mnv2zoo_100_c20", "mnv2zoo_110d", "mnv2zoo_140"):
        assert refusal(to_native, torchvision_tensors, wrong).fix == (
            f"The tensors match {NAME} in the layout torchvision."
        )


def test_the_wrong_layout_is_named_in_either_direction(tensors, torchvision_tensors):
    assert refusal(to_native, tensors, NAME, "torchvision").fix == f"The tensors match {NAME} in the layout timm."
    assert refusal(from_native, torchvision_tensors, NAME, "timm").fix == (
        f"The tensors match {NAME} in the layout torchvision."
    )

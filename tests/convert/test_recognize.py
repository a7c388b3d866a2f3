"""The architecture and the layout of a state dict are found from its names and shapes."""

import pytest
import timm
import torch

from mnv2zoo import architecture, convert
from mnv2zoo.convert import fit, recognize
from mnv2zoo.errors import ConversionError
from tests.conftest import random_state_dict

SMALL = "mnv2zoo_035"


@pytest.fixture(scope="module")
def native():
    return random_state_dict(SMALL, num_classes=3)


@pytest.mark.parametrize("layout", ["timm", "torchvision", "transformers", "keras"])
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
    assert failure.value.fix == f"They are the tensors of {SMALL} in the layout timm."


@pytest.mark.parametrize("form", ["linear", "conv", "conv_bn_act"])
def test_the_classifier_may_have_another_form_than_the_architectures(form):
    config = architecture.get("mnv2zoo_100_c20")
    tensors = timm.create_model(config.name, classifier=form).state_dict()
    assert fit.as_built(config, tensors).classifier == form


def test_integers_are_not_weights(native):
    config, layout = architecture.get(SMALL), recognize.LAYOUTS["timm"]
    assert fit.fits(native, config, layout)
    quantized = {**native, "conv_stem.weight": native["conv_stem.weight"].to(torch.int8)}
    with pytest.raises(ConversionError) as failure:
        fit.fit(quantized, config, layout)
    assert (failure.value.found, failure.value.where) == ("torch.int8", "conv_stem.weight")

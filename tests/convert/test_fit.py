"""Tensors fit a network by their names, shapes and dtypes."""

import pytest
import timm
import torch

from mnv2zoo import architecture
from mnv2zoo.convert import fit, recognize, to_native
from mnv2zoo.errors import ConversionError
from tests.conftest import random_state_dict
from tests.convert.conftest import NAME, refusal
from tests.convert.networks import ours


def test_a_missing_tensor_and_a_tensor_too_many_are_both_refused(tensors):
    del tensors["classifier.bias"]
    error = refusal(to_native, tensors, NAME)
    assert (error.expected, error.found) == ("classifier.bias", "no such keys")
    tensors = ours(NAME).state_dict() | {"head.weight": torch.ones(1)}
    error = refusal(to_native, tensors, NAME)
    assert (error.expected, error.found) == ("no further keys", "head.weight")


def test_an_empty_state_dict_is_refused():
    assert refusal(to_native, {}, NAME).found == "no such keys"


def test_rows_and_biases_of_a_classifier_have_to_agree(tensors):
    tensors["classifier.weight"] = tensors["classifier.weight"][:10]
    error = refusal(to_native, tensors, NAME)
    assert (error.where, error.expected, error.found) == ("classifier.weight", (1000, 1280), (10, 1280))


SMALL = "mnv2zoo_035"


@pytest.fixture(scope="module")
def native():
    return random_state_dict(SMALL, num_classes=3)


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

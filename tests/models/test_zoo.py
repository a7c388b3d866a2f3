"""Figures, lists and preprocessing by name."""

import random

import pytest
import torch
from PIL import Image

import mnv2zoo
from mnv2zoo.errors import UnknownModelError
from mnv2zoo.models import zoo
from tests.conftest import ROOT


def test_names_are_sorted_as_people_sort_them():
    names = zoo.list_models()
    assert names[:4] == ["mnv2zoo_035", "mnv2zoo_050", "mnv2zoo_050_c20", "mnv2zoo_075"]
    assert {name.partition(".")[0] for name in zoo.list_models(pretrained=True)} <= set(names)


def test_figures_are_those_of_the_weights_that_are_named():
    info = zoo.model_info("mnv2zoo_100_c20")
    assert (info.architecture, info.input_size, info.num_classes) == ("mnv2zoo_100_c20", (3, 64, 64), 20)
    assert info.weights[0] == "mnv2zoo_100_c20.cifar100_coarse"
    plain = zoo.model_info("mnv2zoo_140_c20")  # no weights are known
    assert (plain.weights, plain.input_size, plain.num_classes) == ((), (3, 224, 224), 20)
    assert zoo.model_info("mnv2zoo_035").feature_reductions == (2, 4, 8, 16, 32)


@pytest.mark.parametrize("name", ["mnv2zoo_100.nobody", "mnv2zoo_10", "."])
def test_an_unknown_name_is_an_error(name):
    for function in (zoo.model_info, zoo.transforms):
        with pytest.raises(UnknownModelError):
            function(name)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["mnv2zoo_100_c20", "mnv2zoo_100.ra_in1k", "mnv2zoo_050"])
def test_weights_carry_the_preprocessing_of_their_name(name, training):
    image = Image.open(ROOT / "examples/coffee.jpg")
    found = []
    for preprocess in (mnv2zoo.weights.entry(name).transforms(training), zoo.transforms(name, training)):
        torch.manual_seed(0)
        random.seed(0)
        found.append(preprocess(image))
    assert torch.equal(*found)
    assert found[0].shape == mnv2zoo.weights.entry(name).input_size


def test_options_replace_those_of_the_weights():
    image = Image.open(ROOT / "examples/coffee.jpg")
    assert mnv2zoo.weights.entry("mnv2zoo_100").transforms(input_size=(3, 96, 96))(image).shape == (3, 96, 96)

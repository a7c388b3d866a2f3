"""A backbone under a detection or segmentation head: no classifier, and only some of its layers trained."""

import pytest

from mnv2zoo import _backbone
from mnv2zoo.errors import ArgumentError, ConversionError, UnknownArgumentError


def trained(model):
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_a_backbone_has_no_classifier():
    assert _backbone.build("mnv2zoo_035", False).num_classes == 0


@pytest.mark.parametrize(
    ("layers", "first"),
    [(None, "conv_stem."), (6, "conv_stem."), (5, "blocks.1.0."), (2, "blocks.5.0."), (1, "conv_head."), (0, None)],
)
def test_layers_are_trained_from_the_head_down(layers, first):
    names = trained(_backbone.build("mnv2zoo_035", False, layers))
    assert (names[0].startswith(first) if names else None) == (None if first is None else True)


def test_more_layers_than_there_are_is_an_error():
    with pytest.raises(ArgumentError) as error:
        _backbone.build("mnv2zoo_035", False, 7)
    assert error.value.expected == "a whole number from 0 to 6"


def test_frozen_norms_train_no_parameters():
    names = trained(_backbone.build("mnv2zoo_035", False, freeze_norm=True))
    assert names
    assert not any("bn" in name for name in names)


def test_weights_of_another_architecture_are_refused():
    with pytest.raises(ConversionError) as error:
        _backbone.build("mnv2zoo_100", "mnv2zoo_035")
    assert (error.value.expected, error.value.found) == ("weights for mnv2zoo_100", "weights for mnv2zoo_035")


def test_the_last_bottleneck_at_each_reduction_is_named():
    model = _backbone.build("mnv2zoo_035", False)
    assert _backbone.last_at(model, 4, 8, 16, 32) == ["Bottleneck_3", "Bottleneck_6", "Bottleneck_13", "Bottleneck_17"]


def test_normalization_is_that_of_the_weights_on_0_to_1():
    model = _backbone.build("mnv2zoo_035", False)
    assert _backbone.normalization(model, 3) == {
        "image_mean": list(model.pretrained_cfg["mean"]),
        "image_std": list(model.pretrained_cfg["std"]),
    }


def test_an_unknown_argument_names_the_nearest():
    _backbone.check_arguments({"size": 1}, ("size",))
    with pytest.raises(UnknownArgumentError) as error:
        _backbone.check_arguments({"siz": 1}, ("size", "min_size"))
    assert (error.value.expected, error.value.found) == ("size", "'siz'")

"""What is taken, what is refused, and what a refusal says."""

import pytest
import torch

from mnv2zoo.convert import from_native, to_native
from mnv2zoo.errors import ConversionError, UnknownModelError
from tests.convert.networks import ours, theirs

NAME = "mnv2zoo_035"


@pytest.fixture
def tensors():
    return ours(NAME).state_dict()


@pytest.fixture
def torchvision_tensors():
    return theirs("torchvision", NAME).state_dict()


def refusal(call, *args) -> ConversionError:
    with pytest.raises(ConversionError) as caught:
        call(*args)
    return caught.value


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
def test_wrappers_of_training_are_taken_off(torchvision_tensors, prefix):
    wrapped = {prefix + key: value for key, value in torchvision_tensors.items()}
    assert to_native(wrapped, NAME).keys() == to_native(torchvision_tensors, NAME).keys()


@pytest.mark.parametrize("convert", [to_native, from_native])
def test_a_checkpoint_is_opened_and_its_averaged_weights_preferred(tensors, convert):
    def holding(mark):
        return {**tensors, "bn1.bias": torch.full_like(tensors["bn1.bias"], mark)}

    checkpoint = {"model": holding(1), "epoch": 3}
    for mark, key in enumerate(("model", "state_dict", "model_ema", "state_dict_ema"), 1):
        checkpoint[key] = holding(mark)
        assert convert(checkpoint, NAME, "timm")["bn1.bias"][0] == mark
    checkpoint["state_dict_ema"] = None
    assert convert(checkpoint, NAME, "timm")["bn1.bias"][0] == 3


@pytest.mark.parametrize("layout", ["timm", "torchvision", "transformers"])
def test_inputs_are_not_changed(layout):
    given = theirs(layout, NAME, num_classes=1001).state_dict()
    native = ours(NAME).state_dict()
    copies = [{key: value.clone() for key, value in each.items()} for each in (given, native)]
    to_native(given, NAME, layout)
    from_native(native, NAME, layout)
    for each, copy in zip((given, native), copies, strict=True):
        assert list(each) == list(copy)
        assert all(torch.equal(value, copy[key]) for key, value in each.items())


def test_parameters_come_out_as_plain_tensors():
    net = theirs("transformers", NAME)
    converted = to_native(dict(net.named_parameters()) | dict(net.named_buffers()), NAME)
    assert not any(value.requires_grad for value in converted.values())


def test_the_nearest_layout_and_the_first_keys_are_named(torchvision_tensors):
    bad = {key: value for key, value in torchvision_tensors.items() if not key.startswith("features.3.conv.0")}
    bad["features.3.conv.0.0.gamma"] = torch.ones(1)
    error = refusal(to_native, bad, NAME)
    assert "layout torchvision" in error.problem
    assert error.expected == (
        "features.3.conv.0.0.weight, features.3.conv.0.1.weight, features.3.conv.0.1.bias and 2 more"
    )
    assert error.found == "features.3.conv.0.0.gamma"
    assert error.fix == "The nearest layout is torchvision."


@pytest.mark.parametrize("layout", ["timm", "torchvision", "transformers"])
def test_the_nearest_layout_is_found_when_no_key_fits(layout):
    bad = {f"backbone.{key}": value for key, value in theirs(layout, NAME).state_dict().items()}
    error = refusal(to_native, bad, NAME)
    assert f"layout {layout}" in str(error)
    assert "backbone." in error.found


def test_a_missing_tensor_and_a_tensor_too_many_are_both_refused(tensors):
    del tensors["classifier.bias"]
    error = refusal(to_native, tensors, NAME)
    assert (error.expected, error.found) == ("classifier.bias", "no such keys")
    tensors = ours(NAME).state_dict() | {"head.weight": torch.ones(1)}
    error = refusal(to_native, tensors, NAME)
    assert (error.expected, error.found) == ("no further keys", "head.weight")


def test_an_empty_state_dict_is_refused():
    assert refusal(to_native, {}, NAME).found == "no such keys"


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
    assert error.fix == f"They are the tensors of mnv2zoo_050 in the layout {layout}."


def test_rows_and_biases_of_a_classifier_have_to_agree(tensors):
    tensors["classifier.weight"] = tensors["classifier.weight"][:10]
    error = refusal(to_native, tensors, NAME)
    assert (error.where, error.expected, error.found) == ("classifier.weight", (1000, 1280), (10, 1280))


@pytest.mark.parametrize("layout", ["torchvision", "transformers"])
def test_a_layout_without_such_a_network_is_refused(layout):
    tensors = theirs("seed", "mnv2zoo_050_c20").state_dict()
    for error in (
        refusal(to_native, tensors, "mnv2zoo_050_c20", layout),
        refusal(from_native, tensors, "mnv2zoo_050_c20", layout),
    ):
        assert error.problem == f"the layout {layout} cannot express mnv2zoo_050_c20"
        assert "an expansion in its first bottleneck" in error.found
        assert "mnv2zoo_100" in error.expected
        assert error.fix == "Layouts of mnv2zoo_050_c20: timm, seed."


def test_the_deeper_networks_are_refused_by_transformers():
    error = refusal(from_native, {}, "mnv2zoo_110d", "transformers")
    assert "stages that are not the paper's" in error.found


def test_tensors_of_another_network_are_recognised(torchvision_tensors):
    for wrong in ("mnv2zoo_100_c20", "mnv2zoo_110d", "mnv2zoo_140"):
        assert refusal(to_native, torchvision_tensors, wrong).fix == (
            f"They are the tensors of {NAME} in the layout torchvision."
        )


def test_the_wrong_layout_is_named_in_either_direction(tensors, torchvision_tensors):
    assert refusal(to_native, tensors, NAME, "torchvision").fix == f"They are the tensors of {NAME} in the layout timm."
    assert refusal(from_native, torchvision_tensors, NAME, "timm").fix == (
        f"They are the tensors of {NAME} in the layout torchvision."
    )


@pytest.mark.parametrize("convert", [to_native, from_native])
def test_an_unknown_layout_names_the_nearest(tensors, convert):
    error = refusal(convert, tensors, NAME, "torch_vision")
    assert (error.expected, error.found) == ("torchvision", "'torch_vision'")


def test_an_unknown_architecture_names_the_nearest(tensors):
    with pytest.raises(UnknownModelError, match="mnv2zoo_100"):
        to_native(tensors, "mnv2zoo_10")


@pytest.mark.parametrize("value", [1.0, None, [1, 2], {"nested": torch.ones(1)}])
def test_what_is_no_tensor_is_refused(tensors, value):
    error = refusal(to_native, {**tensors, "bn1.bias": value}, NAME)
    assert (error.found, error.where) == (type(value).__name__, "'bn1.bias'")
    assert "state_dict_ema" in error.fix


def test_a_checkpoint_with_a_whole_module_is_refused():
    error = refusal(to_native, {"model": ours(NAME)}, NAME)
    assert (error.found, error.where) == ("EfficientNet", "'model'")

"""The tensors are found in whatever holds them."""

import pytest
import torch

from mnv2zoo.convert import from_native, identify, state_dict, to_native, without_head
from tests.convert.conftest import NAME, refusal
from tests.convert.networks import SUPPORTED, ours, theirs


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


def test_parameters_come_out_as_plain_tensors():
    net = theirs("transformers", NAME)
    converted = to_native(dict(net.named_parameters()) | dict(net.named_buffers()), NAME)
    assert not any(value.requires_grad for value in converted.values())


@pytest.mark.parametrize("value", [1.0, None, [1, 2], {"nested": torch.ones(1)}])
def test_what_is_no_tensor_is_refused(tensors, value):
    error = refusal(to_native, {**tensors, "bn1.bias": value}, NAME)
    assert (error.found, error.where) == (type(value).__name__, "'bn1.bias'")
    assert "state_dict_ema" in error.fix


def test_a_checkpoint_with_a_whole_module_is_refused():
    error = refusal(to_native, {"model": ours(NAME)}, NAME)
    assert (error.found, error.where) == ("EfficientNet", "'model'")


def prefixed(tensors, prefix):
    return {f"{prefix}{key}": value for key, value in tensors.items()}


@pytest.mark.parametrize("layout", SUPPORTED)
@pytest.mark.parametrize("prefix", ["module.", "model.net._orig_mod.", "0.model."])
def test_a_prefix_is_found_in_every_layout(layout, prefix):
    name = SUPPORTED[layout][0]
    tensors = theirs(layout, name, num_classes=3).state_dict()
    found = state_dict.find(prefixed(tensors, prefix))
    assert (found.prefix, found.left_out) == (prefix, ())
    assert all(found.tensors[key] is tensors[key] or torch.equal(found.tensors[key], tensors[key]) for key in tensors)
    assert identify(prefixed(tensors, prefix)) == (name, layout)


def test_the_average_of_swa_leaves_its_counter_out():
    net = theirs("torchvision", NAME, num_classes=3)
    average = torch.optim.swa_utils.AveragedModel(net, use_buffers=True)
    found = state_dict.find({"epoch": 3, "swa": average.state_dict()})
    assert str(found) == "took 314 tensors in swa with prefix 'module.', left out n_averaged"
    assert found.tensors.keys() == net.state_dict().keys()
    assert to_native(average.state_dict(), NAME).keys() == to_native(net.state_dict(), NAME).keys()


@pytest.mark.parametrize("place", ["ema", "model_state_dict", "net", "a.b.c", "params_ema"])
def test_any_container_is_opened(tensors, place):
    checkpoint = tensors
    for key in reversed(place.split(".")):
        checkpoint = {key: checkpoint, "optimizer": {"state": {0: {"step": torch.ones(1)}}}, "lr": 0.1}
    found = state_dict.find(checkpoint)
    assert (found.taken, found.prefix, found.tensors.keys()) == (place, "", tensors.keys())


def test_what_a_lightning_module_holds_besides_its_network_is_left_out(tensors):
    others = {"loss.weight": torch.ones(3), "metric.confmat": torch.ones(3, 3)}
    found = state_dict.find({"state_dict": {**prefixed(tensors, "model."), **others}, "epoch": 3})
    assert (found.taken, found.prefix, found.left_out) == ("state_dict", "model.", tuple(others))
    assert found.layers_left_out == ("metric.confmat",)
    assert to_native({"state_dict": {**prefixed(tensors, "model."), **others}}, NAME).keys() == tensors.keys()


def test_a_head_outside_the_network_is_not_left_out_unasked(tensors):
    backbone = {key: value for key, value in tensors.items() if not key.startswith("classifier")}
    whole = {**prefixed(backbone, "backbone."), "head.weight": torch.ones(5, 1280), "head.bias": torch.ones(5)}
    error = refusal(to_native, whole, NAME)
    assert (error.expected, error.found) == ("a classifier with the prefix 'backbone.'", "head.weight")
    assert "--backbone" in error.fix
    assert to_native(without_head(whole), NAME).keys() == backbone.keys()


def test_averaged_weights_are_preferred_to_others_in_one_state_dict(tensors):
    averaged = {key: value + 1 for key, value in tensors.items()}
    found = state_dict.find(prefixed(tensors, "model.") | prefixed(averaged, "ema_model.module."))
    assert found.prefix == "ema_model.module."
    assert torch.equal(found.tensors["bn1.bias"], averaged["bn1.bias"])


def test_a_student_and_a_teacher_are_told_apart_by_nobody(tensors):
    error = refusal(to_native, prefixed(tensors, "student.") | prefixed(tensors, "teacher."), NAME)
    assert error.found == "models with the prefixes 'student.', 'teacher.'"


def test_a_whole_state_dict_is_taken_as_it_is(tensors):
    whole = {**prefixed(tensors, "backbone."), "head.weight": torch.ones(5, 1280)}
    assert state_dict.find(whole, whole=True).tensors.keys() == whole.keys()

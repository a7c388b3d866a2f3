"""What is taken, what is refused, and what a refusal says."""

import pytest
import torch

from mnv2zoo.convert import from_native, to_native
from mnv2zoo.errors import UnknownModelError
from tests.convert.conftest import NAME, refusal
from tests.convert.networks import ours, theirs


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


@pytest.mark.parametrize("layout", ["torchvision", "transformers"])
def test_a_layout_without_such_a_network_is_refused(layout):
    tensors = theirs("seed", "mnv2zoo_050_c20").state_dict()
    for error in (
        refusal(to_native, tensors, "mnv2zoo_050_c20", layout),
        refusal(from_native, tensors, "mnv2zoo_050_c20", layout),
    ):
        assert error.problem == f"the layout {layout} cannot express mnv2zoo_050_c20"
        assert "an expansion in the first bottleneck" in error.found
        assert "mnv2zoo_100" in error.expected
        assert error.fix == "Layouts that can express mnv2zoo_050_c20: timm, seed."


def test_the_deeper_networks_are_refused_by_transformers():
    error = refusal(from_native, {}, "mnv2zoo_110d", "transformers")
    assert "stages other than the paper's" in error.found


@pytest.mark.parametrize("convert", [to_native, from_native])
def test_an_unknown_layout_names_the_nearest(tensors, convert):
    error = refusal(convert, tensors, NAME, "torch_vision")
    assert (error.expected, error.found) == ("torchvision", "'torch_vision'")


def test_an_unknown_architecture_names_the_nearest(tensors):
    with pytest.raises(UnknownModelError, match="mnv2zoo_100"):
        to_native(tensors, "mnv2zoo_10")

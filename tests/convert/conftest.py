"""Tensors of one network in two layouts, and what a refusal says."""

import pytest

from mnv2zoo.errors import ConversionError
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

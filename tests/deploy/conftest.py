"""A small network with random weights, images for it, and its outputs."""

import pytest
import timm
import torch

from tests.conftest import random_state_dict

SMALL = "mnv2zoo_035"


def network(name=SMALL, **kwargs):
    model = timm.create_model(name, **kwargs).eval()
    model.load_state_dict(random_state_dict(name, **kwargs))
    return model


@pytest.fixture(scope="module")
def small():
    return network()


@pytest.fixture
def x():
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def expected(model, x):
    with torch.inference_mode():
        return model(x)

"""Folded batch norms leave the outputs as they are."""

import pytest
import timm
import torch
from torch import nn

import mnv2zoo
from mnv2zoo import deploy
from tests.conftest import random_state_dict

NAMES = list(mnv2zoo.architecture.CONFIGS)


SMALL = "mnv2zoo_035"


def network(name=SMALL, **kwargs):
    model = timm.create_model(name, **kwargs).eval()
    model.load_state_dict(random_state_dict(name, **kwargs))
    return model


@pytest.fixture
def x():
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def expected(model, x):
    with torch.inference_mode():
        return model(x)


@pytest.mark.parametrize("kwargs", [{}, {"pad_type": "same"}, {"num_classes": 0}], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_folding_leaves_no_batch_norm_and_the_same_outputs(name, kwargs, x):
    model = network(name, **kwargs)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = deploy.fold(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(expected(folded, x), expected(model, x), rtol=1e-3, atol=1e-3)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

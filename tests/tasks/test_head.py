"""The two parts of a network compute what the network computes."""

import pytest
import timm
import torch
from torch import nn

import mnv2zoo  # noqa: F401  registers the networks
from mnv2zoo.tasks import head
from tests.conftest import random_state_dict


@pytest.mark.parametrize(
    ("name", "options"), [("mnv2zoo_035", {}), ("mnv2zoo_035", {"classifier": "conv"}), ("mnv2zoo_050_c20", {})]
)
def test_the_head_of_the_features_gives_the_outputs_of_the_network(name, options):
    model = timm.create_model(name, num_classes=3, **options).eval()
    model.load_state_dict(random_state_dict(name, num_classes=3, **options))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    backbone, own = head.split(model)
    with torch.inference_mode():
        torch.testing.assert_close(own.eval()(backbone(images)), model(images))
    assert own.classifier is model.classifier


def test_a_network_that_is_not_of_the_zoo_has_no_such_parts():
    assert head.split(nn.Linear(2, 2)) is None

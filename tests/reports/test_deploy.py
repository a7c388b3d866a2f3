"""Reports about deployment: what users expected of `optimize`, `export` and the bundle, and did not get."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from tests.conftest import random_state_dict

SMALL = "mnv2zoo_035"


def network(name=SMALL, **kwargs):
    model = timm.create_model(name, **kwargs).eval()
    model.load_state_dict(random_state_dict(name, **kwargs))
    return model


def outputs(model, images):
    with torch.inference_mode():
        return model(images)


@pytest.mark.timeout(180)
def test_an_onnx_export_of_any_image_size_ends_and_agrees_with_same_padding():
    import onnxruntime

    model = network(pad_type="same")
    sizes = {"x": {0: "batch", 2: "height", 3: "width"}}
    program = torch.onnx.export(model, (torch.rand(2, 3, 96, 96),), dynamic_shapes=sizes, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    theirs = timm.create_model("mobilenetv2_035", pad_type="same").eval()
    theirs.load_state_dict(model.state_dict())
    for height, width in ((64, 64), (97, 101), (96, 33), (47, 130)):
        images = torch.rand(3, 3, height, width, generator=torch.Generator().manual_seed(height))
        (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        np.testing.assert_allclose(found, outputs(theirs, images).numpy(), rtol=1e-3, atol=1e-3)
        assert torch.equal(outputs(model, images), outputs(theirs, images))

"""A graph that is written from the config and the tensors computes what the network in PyTorch computes."""

import numpy as np
import pytest
import timm
import torch

from mnv2zoo import architecture
from mnv2zoo.runtimes import runners
from mnv2zoo.runtimes.mobilenetv2 import Classifier
from tests.conftest import random_state_dict

CASES = {
    "paper": ("mnv2zoo_035", {}, (3, 64, 64)),
    "same padding, odd sides": ("mnv2zoo_035", {"pad_type": "same"}, (3, 65, 96)),
    "dilated": ("mnv2zoo_035", {"output_stride": 8}, (3, 64, 96)),
    "dilated, same padding": ("mnv2zoo_050", {"output_stride": 16, "pad_type": "same"}, (3, 70, 64)),
    "tutorial": ("mnv2zoo_050_c20", {}, (3, 64, 64)),
    "convolution as classifier": ("mnv2zoo_050_c20", {"classifier": "conv"}, (3, 32, 32)),
    "one channel, 7 classes": ("mnv2zoo_050", {"in_chans": 1, "num_classes": 7}, (1, 64, 64)),
    "another epsilon": ("mnv2zoo_035", {"bn_eps": 1e-3}, (3, 64, 64)),
    "deeper": ("mnv2zoo_110d", {}, (3, 64, 64)),
    "deepest": ("mnv2zoo_120d", {}, (3, 32, 32)),
    "wide": ("mnv2zoo_140", {}, (3, 64, 64)),
}


def written(name, kwargs, size):
    """The network in PyTorch, and as it is written."""
    model = timm.create_model(name, **kwargs).eval()
    model.load_state_dict(random_state_dict(name, **kwargs))
    tensors = {key: value.numpy() for key, value in model.state_dict().items()}
    options = (kwargs.get("pad_type") == "same", kwargs.get("output_stride", 32), kwargs.get("bn_eps", 1e-5))
    return model, Classifier(model.arch_config, tensors, size, *options)


def distance(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize("case", CASES)
def test_graph_and_check_compute_what_pytorch_computes(case):
    model, classifier = written(*CASES[case])
    assert classifier.is_complete()
    images = np.random.default_rng(0).standard_normal((3, *classifier.input_size), np.float32)
    with torch.inference_mode():
        wanted = model(torch.from_numpy(images)).numpy()
    assert distance(classifier(images), wanted) < 1e-4
    document = classifier.onnx()
    for name, start in runners.RUNTIMES.items():
        pytest.importorskip(name)
        run = start({"model": document}, classifier.input_size, "fp32", 1)
        assert distance(run(images)[0], wanted) < 1e-4, name
        assert distance(run(images[:1])[0], wanted[:1]) < 1e-4, name


@pytest.mark.parametrize("name", architecture.CONFIGS)
def test_every_architecture_lists_the_tensors_of_its_state_dict_in_their_order(name):
    model = timm.create_model(name)
    own = {key: tuple(value.shape) for key, value in model.state_dict().items() if not key.endswith("batches_tracked")}
    classes = model.num_classes
    classifier = Classifier(model.arch_config, {"classifier.bias": np.zeros(classes, np.float32)}, (3, 64, 64))
    assert list(classifier.shapes().items()) == list(own.items())


def test_other_tensors_are_not_written():
    _, classifier = written("mnv2zoo_035", {}, (3, 64, 64))
    tensors = dict(classifier.tensors)

    def complete(**changed):
        now = {name: value for name, value in {**tensors, **changed}.items() if value is not None}
        return Classifier(classifier.config, now, classifier.input_size).is_complete()

    assert complete()
    assert not complete(**{"bn1.bias": None})
    assert not complete(**{"classifier.bias": None})
    assert not complete(**{"further.weight": np.zeros(3, np.float32)})
    assert not complete(**{"bn1.bias": tensors["bn1.bias"].astype(np.float16)})
    assert not complete(**{"bn1.bias": tensors["bn1.bias"][:-1]})
    assert not complete(**{"conv_stem.weight": tensors["conv_stem.weight"][:, :1]})

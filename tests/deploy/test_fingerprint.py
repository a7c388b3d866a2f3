"""The cache key: models that compute differently have different ones, and models that were built alike the same."""

import copy
import functools
import pickle
import subprocess
import sys
from types import MethodType

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

import mnv2zoo
from mnv2zoo.deploy.fingerprint import cache_key, fingerprint
from mnv2zoo.errors import DeployError
from tests.conftest import needs_torchscript, random_state_dict

SMALL = "mnv2zoo_035"


def network(**kwargs):
    torch.manual_seed(0)
    model = timm.create_model(SMALL, **kwargs).eval()
    model.load_state_dict(random_state_dict(SMALL))
    return model


class Net(nn.Module):
    """A convolution whose weights are always the same."""

    def __init__(self, act=None, function=functional.relu, **kwargs):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, **{"bias": False, **kwargs})
        nn.init.ones_(self.conv.weight)
        self.act = act or nn.ReLU()
        self.function = function

    def forward(self, x):
        return self.function(self.act(self.conv(x)))


class Louder(Net):
    def forward(self, x):
        return 2 * super().forward(x)


def double(module, inputs, output):
    return 2 * output


def first(module, inputs, output):
    return output[:1]


def also_keywords(module, inputs, keywords, output):
    return output


def hooked(*hooks, pre=False, **kwargs):
    model = Net()
    for hook in hooks:
        (model.conv.register_forward_pre_hook if pre else model.conv.register_forward_hook)(hook, **kwargs)
    return model


def with_forward(function):
    model = Net()
    model.forward = MethodType(function, model)
    return model


def with_attribute(value, where=None):
    model = Net()
    (model.conv if where == "conv" else model).setting = value
    return model


def once(self, x):
    return self.conv(x)


def twice(self, x):
    return self.conv(self.conv(x))


def with_buffer(persistent, value):
    model = Net()
    model.register_buffer("offset", torch.tensor(value), persistent=persistent)
    return model


ALL_DIFFERENT = {
    "plain": Net,
    "another activation": lambda: Net(nn.ReLU6()),
    "the activation's setting": lambda: Net(nn.LeakyReLU(0.1)),
    "another setting of it": lambda: Net(nn.LeakyReLU(0.2)),
    "another function": lambda: Net(function=functional.relu6),
    "a builtin function": lambda: Net(function=torch.relu),
    "a function with arguments": lambda: Net(function=functools.partial(functional.leaky_relu, negative_slope=0.1)),
    "the same with others": lambda: Net(function=functools.partial(functional.leaky_relu, negative_slope=0.2)),
    "stride": lambda: Net(stride=2),
    "padding": lambda: Net(padding=1),
    "padding mode": lambda: Net(padding=1, padding_mode="reflect"),
    "dilation": lambda: Net(dilation=2),
    "dropout": lambda: Net(nn.Dropout(0.1)),
    "more dropout": lambda: Net(nn.Dropout(0.2)),
    "a subclass": Louder,
    "a hook": lambda: hooked(double),
    "the same hook twice": lambda: hooked(double, double),
    "hooks in one order": lambda: hooked(double, first),
    "hooks in the other": lambda: hooked(first, double),
    "a hook that is called whatever happens": lambda: hooked(double, always_call=True),
    "a hook with keywords": lambda: hooked(also_keywords, with_kwargs=True),
    "a hook before": lambda: hooked(double, pre=True),
    "another forward": lambda: with_forward(once),
    "yet another forward": lambda: with_forward(twice),
    "an attribute": lambda: with_attribute(1),
    "the same as a float": lambda: with_attribute(1.0),
    "the same as a bool": lambda: with_attribute(True),
    "the same elsewhere": lambda: with_attribute(1, "conv"),
    "a tuple": lambda: with_attribute((1, 23)),
    "another tuple": lambda: with_attribute((12, 3)),
    "a list": lambda: with_attribute([1, 23]),
    "a dict": lambda: with_attribute({"a": 1}),
    "a set": lambda: with_attribute({"a", "b"}),
    "a dtype": lambda: with_attribute(torch.float16),
    "another dtype": lambda: with_attribute(torch.bfloat16),
    "a buffer": lambda: with_buffer(True, 1.0),
    "another buffer": lambda: with_buffer(True, 2.0),
    "a buffer that is not saved": lambda: with_buffer(False, 3.0),
    "another one": lambda: with_buffer(False, 4.0),
    "double precision": lambda: Net().double(),
    "within another module": lambda: nn.Sequential(Net()),
}


def test_models_that_compute_differently_have_different_fingerprints():
    found = {}
    for name, make in ALL_DIFFERENT.items():
        found.setdefault(fingerprint(make()), []).append(name)
    assert [names for names in found.values() if len(names) > 1] == []


@pytest.mark.parametrize("name", ALL_DIFFERENT)
def test_models_that_were_built_alike_have_the_same_fingerprint(name):
    make = ALL_DIFFERENT[name]
    assert fingerprint(make()) == fingerprint(make()) == fingerprint(copy.deepcopy(make()))


def test_zoo_models_with_the_same_weights_differ_by_what_they_were_built_with():
    models = [
        network(),
        network(pad_type="same"),
        network(act_layer=nn.ReLU),
        network(drop_rate=0.5),
        network(global_pool="max"),
        network(output_stride=16),
        mnv2zoo.features.BottleneckTaps(network(), ["C1", "Bottleneck_3"]),
        mnv2zoo.features.BottleneckTaps(network(), ["Bottleneck_3", "C1"]),
    ]
    assert len({fingerprint(model) for model in models}) == len(models)


def test_one_changed_weight_is_another_model():
    model = network()
    before = fingerprint(model)
    with torch.no_grad():
        model.conv_head.weight[0, 0] += 1e-6
    assert fingerprint(model) != before


def test_the_same_weights_loaded_twice_are_the_same_model():
    model = network()
    assert fingerprint(network()) == fingerprint(model)
    assert fingerprint(pickle.loads(pickle.dumps(model))) == fingerprint(model)
    assert fingerprint(network().to(memory_format=torch.channels_last)) == fingerprint(model)


def test_hooks_of_training_and_loading_do_not_count():
    model = network()
    model.conv_stem.register_full_backward_hook(lambda module, before, after: None)
    model.register_state_dict_post_hook(lambda module, tensors, prefix, metadata: None)
    assert fingerprint(model) == fingerprint(network())


CODE = """
from tests.deploy.test_fingerprint import *
others = hooked(double), with_attribute({"b", "a", "c"})
print(*map(fingerprint, (network(), *others)))
"""


@pytest.mark.slow
def test_another_process_finds_the_same_fingerprints():
    found = {
        subprocess.run(
            [sys.executable, "-c", CODE],
            env={"PYTHONHASHSEED": str(seed), "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        ).stdout
        for seed in (1, 2)
    }
    assert [text.split() for text in found] == [
        [fingerprint(model) for model in (network(), hooked(double), with_attribute({"b", "a", "c"}))]
    ]


@pytest.mark.parametrize("body", ["return x", "return x + 1"])
def test_the_source_of_a_users_own_class_counts(tmp_path, monkeypatch, body):
    found = []
    for number, text in enumerate(("return x", body)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "mine.py").write_text(
            f"from torch import nn\nclass Mine(nn.Module):\n def forward(self, x): {text}\n"
        )
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, "mine", raising=False)
        import mine

        found.append(fingerprint(mine.Mine()))
    assert (found[0] == found[1]) == (body == "return x")


def local_class():
    class Here(nn.Module):
        pass

    return Here()


def holds(value):
    return lambda: with_attribute(value)


@pytest.mark.parametrize(
    "make",
    [
        holds(lambda x: x),
        holds([lambda x: x]),
        holds(x for x in ()),
        lambda: hooked(lambda *given: None),
        local_class,
        pytest.param(lambda: torch.jit.script(Net()), marks=needs_torchscript),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
        holds(torch.zeros(2).to_sparse()),
    ],
    ids=["lambda", "lambda in a list", "generator", "hook", "local class", "TorchScript", "parametrized", "sparse"],
)
def test_a_model_that_cannot_be_told_from_another_is_refused(make):
    with pytest.raises(DeployError) as failure:
        fingerprint(make().eval())
    assert failure.value.fix == "Leave out cache=."


def test_a_model_that_holds_itself_has_a_fingerprint():
    def circle():
        model = Net()
        model.setting = [model, {"self": model}]
        return model

    assert fingerprint(circle()) == fingerprint(circle()) != fingerprint(with_attribute([1]))


def test_the_key_depends_on_the_kind_of_images_and_the_calibration():
    model, x = Net(), torch.zeros(2, 3, 32, 32)
    key = cache_key(model, x)
    assert cache_key(model, x[:1]) == key
    for other in (cache_key(model, x[..., :16]), cache_key(model, x.double()), cache_key(model, x, "images")):
        assert other.keys() == key.keys()
        assert other != key

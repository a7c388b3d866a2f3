"""Every bottleneck by name: what hooks on the whole network see, wherever such modules are taken."""

import copy
import os
from collections import OrderedDict

import pytest
import timm
import torch
import torch.distributed as dist
from torch import fx, nn

import mnv2zoo
from mnv2zoo.errors import TapError
from mnv2zoo.features import BottleneckTaps, bottleneck_names
from tests.conftest import needs_torchscript, random_state_dict

NAMES = list(mnv2zoo.architecture.CONFIGS)
SMALL = "mnv2zoo_035"


@pytest.fixture(scope="module")
def small():
    return with_statistics(timm.create_model(SMALL)).eval()


def with_statistics(model):
    """Batch norms that do something, as trained ones do."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def seen(model, x):
    """The outputs that hooks on the whole model see, by (name, location)."""
    maps, handles = {}, []

    def keep(key, which):
        def hook(module, args, output=None):
            maps[key] = (args[0] if which == "input" else output).clone()

        return hook

    for name, norm in (("C1", model.bn1), ("C2", model.bn2)):
        for location in ("output", "expansion"):
            handles.append(norm.register_forward_hook(keep((name, location), "output")))
    blocks = [block for stage in model.blocks for block in stage]
    for number, block in enumerate(blocks, 1):
        name = f"Bottleneck_{number}"
        handles.append(block.register_forward_hook(keep((name, "output"), "output")))
        handles.append(block.conv_dw.register_forward_pre_hook(keep((name, "expansion"), "input")))
    with torch.inference_mode():
        model(x)
    for handle in handles:
        handle.remove()
    return maps


@pytest.mark.parametrize("name", NAMES)
def test_every_level_is_what_the_network_computes(name):
    model = with_statistics(timm.create_model(name)).eval()
    x = torch.randn(1, 3, 64, 96)
    expected = seen(model, x)
    names = bottleneck_names(model)
    assert names == ["C1", *(f"Bottleneck_{i}" for i in range(1, len(names) - 1)), "C2"]
    for location in ("output", "expansion"):
        taps = BottleneckTaps(model, names, location)
        with torch.inference_mode():
            maps = taps(x)
        assert list(maps) == list(taps.channels) == list(taps.reductions) == names
        for level, found in maps.items():
            assert torch.equal(found, expected[level, location]), (level, location)
            assert found.shape[1] == taps.channels[level]
            assert found.shape[2:] == (64 // taps.reductions[level], 96 // taps.reductions[level])


@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilated_networks_too(output_stride):
    model = with_statistics(timm.create_model(SMALL, output_stride=output_stride)).eval()
    x = torch.randn(1, 3, 64, 64)
    expected = seen(model, x)
    for location in ("output", "expansion"):
        taps = BottleneckTaps(model, bottleneck_names(model), location)
        with torch.inference_mode():
            for level, found in taps(x).items():
                assert torch.equal(found, expected[level, location])
                assert 64 // found.shape[-1] == taps.reductions[level]
    assert max(taps.reductions.values()) == output_stride


@pytest.mark.parametrize("location", ["output", "expansion"])
def test_nothing_behind_the_deepest_level_is_there(small, location):
    names = bottleneck_names(small)
    for number, name in enumerate(names):
        taps = BottleneckTaps(small, [name], location)
        own, whole = taps.state_dict(), small.state_dict()
        assert all(own[key].data_ptr() == whole[key].data_ptr() for key in own)
        # Every parameter takes part, which DDP insists on.
        output = taps(torch.randn(1, 3, 32, 32))[name]
        used = torch.autograd.grad(output.square().sum(), list(taps.parameters()), allow_unused=True)
        assert all(gradient is not None for gradient in used), name
        last = -1 if number == len(names) - 1 else number
        assert len([b for stage in taps.blocks for b in stage]) <= (17 if last < 0 else number)


def test_the_paper_s_taps_for_ssdlite():
    model = timm.create_model("mnv2zoo_100")
    taps = BottleneckTaps(model, ["Bottleneck_14", "C2"], "expansion")
    assert taps.channels == OrderedDict(Bottleneck_14=576, C2=1280)
    assert taps.reductions == OrderedDict(Bottleneck_14=16, C2=32)


def test_the_maps_come_in_the_order_of_the_names(small):
    names = ["C2", "Bottleneck_3", "C1"]
    taps = BottleneckTaps(small, names)
    assert list(taps(torch.randn(1, 3, 32, 32))) == list(taps.channels) == names


def test_a_state_dict_of_the_whole_network_loads(small):
    taps = BottleneckTaps(copy.deepcopy(small), ["Bottleneck_5"])
    state = random_state_dict(SMALL)
    result = taps.load_state_dict(state, strict=False)
    assert not result.missing_keys
    assert all(torch.equal(value, state[key]) for key, value in taps.state_dict().items() if key in state)


@pytest.mark.parametrize("location", ["output", "expansion"])
@pytest.mark.parametrize("names", [["C1"], ["Bottleneck_1"], ["Bottleneck_3", "Bottleneck_14"], ["Bottleneck_6", "C2"]])
class TestOtherMachinery:
    """The same maps through everything that takes modules apart or moves them."""

    @pytest.fixture
    def taps(self, small, names, location):
        return BottleneckTaps(small, names, location)

    @pytest.fixture
    def x(self):
        return torch.randn(2, 3, 64, 64)

    def check(self, taps, other, x, rtol=1e-4):
        with torch.no_grad():
            expected, found = taps(x), other(x)
        assert list(found) == list(expected)
        for name in expected:
            torch.testing.assert_close(found[name].float(), expected[name], rtol=rtol, atol=rtol)

    @pytest.mark.slow
    def test_compile(self, taps, x):
        torch._dynamo.reset()
        self.check(taps, torch.compile(taps, fullgraph=True, backend="aot_eager"), x)

    def test_export(self, taps, x):
        self.check(taps, torch.export.export(taps, (x,)).module(), x)

    @needs_torchscript
    def test_torchscript(self, taps, x):
        self.check(taps, torch.jit.script(taps), x)
        self.check(taps, torch.jit.trace(taps, x, strict=False), x)

    def test_fx(self, taps, x):
        self.check(taps, fx.symbolic_trace(taps), x)

    @pytest.mark.slow
    def test_onnx(self, taps, x, tmp_path):
        onnxruntime = pytest.importorskip("onnxruntime")
        path = tmp_path / "taps.onnx"
        torch.onnx.export(taps, (x,), path, output_names=taps.names, verbose=False)
        session = onnxruntime.InferenceSession(path)
        found = dict(zip(taps.names, session.run(taps.names, {session.get_inputs()[0].name: x.numpy()}), strict=True))
        # ONNX Runtime adds in another order; 1.3e-4 was seen.
        self.check(taps, lambda _: {name: torch.from_numpy(value) for name, value in found.items()}, x, rtol=1e-3)

    def test_channels_last(self, taps, x):
        self.check(taps, copy.deepcopy(taps).to(memory_format=torch.channels_last), x)

    def test_autocast(self, small, taps, x, location):
        with torch.autocast("cpu", torch.bfloat16):
            expected = seen(small, x)
            with torch.inference_mode():
                found = taps(x)
        assert all(torch.equal(value, expected[name, location]) for name, value in found.items())


def test_ddp_trains_them(small, tmp_path):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        taps = BottleneckTaps(copy.deepcopy(small), ["Bottleneck_4", "Bottleneck_9"], "expansion").train()
        net = nn.parallel.DistributedDataParallel(taps)
        for _ in range(2):  # the second pass fails where a parameter took no part in the first
            sum(x.mean() for x in net(torch.randn(2, 3, 64, 64)).values()).backward()
        assert all(p.grad is not None for p in taps.parameters())
    finally:
        dist.destroy_process_group()


def test_a_pruned_network_has_fewer_levels(small):
    model = copy.deepcopy(small)
    model.prune_intermediate_layers([2])
    assert bottleneck_names(model)[-1] == "Bottleneck_6"
    with pytest.raises(TapError, match="Bottleneck_6"):
        BottleneckTaps(model, ["C2"])


@pytest.mark.parametrize(
    ("names", "location", "words"),
    [
        ([], "output", "a list of layer names"),
        ("Bottleneck_3", "output", "a list of layer names"),
        (["Bottleneck_21"], "output", "Bottleneck_1"),
        (["bottleneck_7"], "output", "Bottleneck_7"),
        (["C1", "C1"], "output", "once"),
        (["C1"], "input", "output or expansion"),
    ],
)
def test_wrong_names_are_told_from_near_ones(small, names, location, words):
    with pytest.raises(TapError, match=words):
        BottleneckTaps(small, names, location)


@pytest.mark.parametrize("training", [True, False])
def test_they_are_in_the_networks_mode(small, training):
    taps = BottleneckTaps(copy.deepcopy(small).train(training), ["Bottleneck_3", "Bottleneck_7"])
    assert {module.training for module in taps.modules()} == {training}


def test_other_networks_are_refused():
    with pytest.raises(TypeError, match="Sequential"):
        bottleneck_names(nn.Sequential())
    with pytest.raises(TypeError, match="features_only"):
        bottleneck_names(timm.create_model(SMALL, features_only=True))


@pytest.mark.parametrize("in_chans", [1, 4])
@pytest.mark.parametrize("size", [(1, 1), (33, 47)])
@pytest.mark.parametrize("batch", [0, 1])
def test_odd_images(in_chans, size, batch):
    model = timm.create_model(SMALL, in_chans=in_chans).eval()
    maps = BottleneckTaps(model, bottleneck_names(model))(torch.randn(batch, in_chans, *size))
    assert {x.shape[0] for x in maps.values()} == {batch}
    assert tuple(maps["C2"].shape[2:]) == tuple(-(-side // 32) for side in size)


def test_half_precision(small):
    taps = BottleneckTaps(copy.deepcopy(small).to(torch.bfloat16), ["Bottleneck_7"])
    assert taps(torch.randn(1, 3, 64, 64, dtype=torch.bfloat16))["Bottleneck_7"].dtype == torch.bfloat16


@pytest.mark.parametrize("location", ["output", "expansion"])
def test_feature_info_is_that_of_the_maps_in_their_order(small, location):
    names = ["C2", "Bottleneck_1", "C1", "Bottleneck_7"]
    taps = BottleneckTaps(small, names, location)
    maps = taps(torch.randn(1, 3, 64, 64))
    info = taps.feature_info
    assert isinstance(info, timm.models.FeatureInfo)
    assert info.channels() == [x.shape[1] for x in maps.values()] == list(taps.channels.values())
    assert info.reduction() == [64 // x.shape[-1] for x in maps.values()] == list(taps.reductions.values())
    assert info.get("level") == names
    assert [fact["num_chs"] for fact in info.get_dicts()] == info.channels()
    found = {}
    for name, module in zip(names, info.module_name(), strict=True):
        model = copy.deepcopy(small)
        model.get_submodule(module).register_forward_hook(lambda *args, name=name: found.update({name: args[2]}))
        model(torch.zeros(1, 3, 64, 64))
    assert {name: x.shape for name, x in found.items()} == {name: x.shape for name, x in maps.items()}


@pytest.mark.parametrize("location", ["output", "expansion"])
def test_gradient_checkpointing_computes_again_and_changes_no_gradient(small, location):
    x = torch.randn(2, 3, 64, 64)
    names = ["Bottleneck_3", "Bottleneck_9"]
    gradients, calls, saved = [], [], []
    for enable in (False, True):
        taps = BottleneckTaps(copy.deepcopy(small).train(), names, location)
        taps.set_grad_checkpointing(enable)
        counted = []
        taps.blocks[2][0].conv_dw.register_forward_hook(lambda *args, counted=counted: counted.append(args))
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            loss = sum(m.square().mean() for m in taps(x).values())
        saved.append(sum(sizes))
        loss.backward()
        gradients.append([p.grad for p in taps.parameters()])
        calls.append(len(counted))
    assert calls == [1, 2]
    assert saved[1] < saved[0] / 2
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
    taps.set_grad_checkpointing(False)
    assert not taps.grad_checkpointing

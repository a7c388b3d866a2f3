"""What every network of the zoo does, next to the networks that it must agree with."""

import copy
import pickle
import re

import pytest
import timm
import torch
from timm.models import group_parameters
from timm.models._efficientnet_builder import efficientnet_init_weights
from torch import nn

from mnv2zoo import architecture, convert
from mnv2zoo.errors import UnknownArgumentError
from mnv2zoo.models import mobilenetv2
from tests.conftest import needs_torchscript, random_state_dict
from tests.reference_c20 import TutorialNet

PAPER = [name for name in architecture.CONFIGS if not name.endswith("_c20")]
TUTORIAL = [name for name in architecture.CONFIGS if name.endswith("_c20")]
SETTINGS = [{}, {"pad_type": "same"}, {"output_stride": 16}, {"output_stride": 8, "pad_type": "same"}]


def assert_close(ours, theirs, relative=1e-5):
    """Equal to a relative error of the largest value, as floats of one map are comparable."""
    assert ours.shape == theirs.shape
    scale = theirs.abs().max().item()
    assert (ours - theirs).abs().max().item() <= relative * scale


@pytest.fixture
def images():
    return torch.randn(2, 3, 97, 130, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("paper", PAPER)
def test_paper_networks_compute_what_timm_computes(paper, settings, images):
    theirs_name = paper.replace("mnv2zoo", "mobilenetv2")
    state = random_state_dict(theirs_name)
    theirs, ours = timm.create_model(theirs_name, **settings), timm.create_model(paper, **settings)
    theirs.load_state_dict(state)
    ours.load_state_dict(state)
    for training in (True, False):
        # Both in train mode first: the running statistics that it leaves must agree as well.
        assert_close(ours.train(training)(images), theirs.train(training)(images))
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    for our_map, their_map in zip(
        ours.forward_intermediates(images)[1], theirs.forward_intermediates(images)[1], strict=True
    ):
        assert_close(our_map, their_map)
    assert ours.feature_info == [{k: info[k] for k in ours.feature_info[0]} for info in theirs.feature_info]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("paper", PAPER)
def test_features_only_is_timms(paper, settings, images):
    theirs = timm.create_model(paper.replace("mnv2zoo", "mobilenetv2"), features_only=True, **settings).eval()
    ours = timm.create_model(paper, features_only=True, **settings).eval()
    ours.load_state_dict(theirs.state_dict())
    assert ours.feature_info.channels() == theirs.feature_info.channels()
    assert ours.feature_info.reduction() == theirs.feature_info.reduction()
    for our_map, their_map in zip(ours(images), theirs(images), strict=True):
        assert_close(our_map, their_map)


@pytest.mark.parametrize("paper", PAPER)
def test_initialization_is_timms(paper):
    theirs, ours = timm.create_model(paper.replace("mnv2zoo", "mobilenetv2")), timm.create_model(paper)
    torch.manual_seed(0)
    efficientnet_init_weights(theirs)
    torch.manual_seed(0)
    ours.apply(mobilenetv2._init_as_tensorflow)
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name


@pytest.mark.parametrize("width", [0.5, 1.0, 1.4])
def test_tutorial_networks_compute_what_the_tutorial_computes(width, images):
    ours = timm.create_model({0.5: "mnv2zoo_050_c20", 1.0: "mnv2zoo_100_c20", 1.4: "mnv2zoo_140_c20"}[width])
    ours.load_state_dict(random_state_dict(ours.arch_config.name))
    theirs = TutorialNet(width=width)
    theirs.load_state_dict(convert.from_native(ours.state_dict(), ours.arch_config.name, "seed"))
    assert len(theirs.state_dict()) == 327
    assert torch.equal(ours.eval()(images), theirs.eval()(images).flatten(1))
    assert_close(ours.train()(images), theirs.train()(images).flatten(1))


def test_the_tutorial_network_has_the_tutorials_initialization():
    # PyTorch's own: uniform within 1 / sqrt(fan-in), where the paper's has variance 2 / fan-out.
    weight = timm.create_model("mnv2zoo_100_c20").conv_head.weight
    assert weight.abs().max() <= 320**-0.5
    assert weight.std().item() == pytest.approx((3 * 320) ** -0.5, rel=0.02)


@pytest.mark.parametrize("tutorial", TUTORIAL)
@pytest.mark.parametrize(("classifier", "modules"), [("conv", 1), ("conv_bn", 2), ("conv_bn_act", 2)])
def test_the_last_activation_and_batch_norm_can_be_dropped(tutorial, classifier, modules, images):
    net = timm.create_model(tutorial, classifier=classifier).eval()
    head = net.get_classifier()
    assert (len(head) if isinstance(head, nn.Sequential) else 1) == modules
    assert (net(images).min() < 0) == (classifier != "conv_bn_act")


def test_the_classifiers_batch_norm_goes_with_the_classifier():
    net = timm.create_model("mnv2zoo_100_c20").eval()
    groups = group_parameters(net, net.group_matcher(), reverse=True)
    assert groups["classifier.weight"] == groups["classifier_bn.weight"] == max(groups.values())
    net.reset_classifier(7)
    assert net.classifier_bn.num_features == 7
    assert not net.classifier_bn.training
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    net.reset_classifier(0)
    assert isinstance(net.get_classifier(), nn.Identity)
    assert not any(key.startswith("classifier") for key in net.state_dict())
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 1280)


def test_a_classifier_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="conv_bn_act"):
        timm.create_model("mnv2zoo_100", classifier="conv_relu")


@pytest.mark.parametrize("pooling", ["avg", "max", "avgmax", "catavgmax", ""])
def test_every_pooling_works(name, pooling, images):
    net = timm.create_model(name, num_classes=0, global_pool=pooling).eval()
    shape = net(images).shape
    assert shape[1] == net.head_hidden_size
    assert len(shape) == (2 if pooling else 4)


def test_groups_follow_the_depth(name):
    net = timm.create_model(name)
    fine = group_parameters(net, net.group_matcher(coarse=False), reverse=True)
    coarse = group_parameters(net, net.group_matcher(coarse=True), reverse=True)
    # Stem, bottlenecks (or stages) and classifier; the head belongs to the last of them, as in timm.
    assert len(set(fine.values())) == len(architecture.bottlenecks(net.arch_config)) + 2
    assert len(set(coarse.values())) == len(net.arch_config.stages) + 2
    for groups in (fine, coarse):
        depths = [groups[key] for key, _ in net.named_parameters()]
        assert depths == sorted(depths)


def test_stochastic_depth_and_dropout_act_in_training_only(name, images):
    net = timm.create_model(name, drop_rate=0.5, drop_path_rate=0.5)
    net.eval()
    assert torch.equal(net(images), net(images))
    net.train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    assert not torch.equal(net.forward_features(images), net.forward_features(images))


def test_batch_norm_options_reach_every_batch_norm(name):
    net = timm.create_model(name, bn_eps=1e-3, bn_momentum=0.01)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.01)}
    assert len(norms) == sum(layer.norm for layer in architecture.layers(net.arch_config))


def test_other_norms_and_activations_can_be_had(name, images):
    net = timm.create_model(name, act_layer="silu", norm_layer="groupnorm1")
    assert not any(isinstance(m, nn.BatchNorm2d | nn.ReLU) for m in net.modules())
    assert torch.isfinite(net(images)).all()


def test_any_number_of_input_channels(name):
    assert timm.create_model(name, in_chans=5).eval()(torch.zeros(1, 5, 64, 64)).shape[0] == 1


def test_an_unknown_argument_is_a_type_error_that_names_the_nearest(name):
    with pytest.raises(TypeError, match="num_classes"):
        timm.create_model(name, num_clases=3)
    with pytest.raises(UnknownArgumentError):
        timm.create_model(name, init_weights=False)


def test_factory_arguments_reach_every_tensor(name):
    net = timm.create_model(name, device="meta", dtype=torch.float64)
    assert {t.device.type for t in net.state_dict().values()} == {"meta"}
    assert {t.dtype for t in net.state_dict().values() if t.is_floating_point()} == {torch.float64}


def test_it_trains_with_recomputed_activations(name):
    torch.manual_seed(0)
    net, images = timm.create_model(name), torch.randn(2, 3, 64, 64)
    plain = copy.deepcopy(net)
    net.set_grad_checkpointing()
    net(images).sum().backward()
    plain(images).sum().backward()
    for (key, ours), (_, theirs) in zip(net.named_parameters(), plain.named_parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4, msg=key)


def test_channels_last_and_bfloat16(name, images):
    net = timm.create_model(name).eval()
    net.load_state_dict(random_state_dict(name))
    expected = net(images)
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    assert_close(last(images.to(memory_format=torch.channels_last)), expected, 1e-4)
    # Random statistics magnify bfloat16's rounding through up to seventy layers, by how much depends on the
    # processor's kernels: 0.003 to 0.25 of the output's norm were seen. Another network's output is at 1.4.
    half = net.to(torch.bfloat16)(images.to(torch.bfloat16)).float()
    assert (half - expected).norm() < 0.5 * expected.norm()


@needs_torchscript
@pytest.mark.slow
def test_torchscript_takes_it_whole(name, images):
    net = timm.create_model(name).eval()
    net.load_state_dict(random_state_dict(name))
    with torch.no_grad():
        assert_close(torch.jit.script(net)(images), net(images))


@pytest.mark.slow
def test_compilers_take_it_whole(name, images):
    torch.compiler.reset()  # the limit of recompilations is for one network, not for ten
    net = timm.create_model(name).eval()
    net.load_state_dict(random_state_dict(name))
    with torch.no_grad():
        expected = net(images)
        assert_close(torch.fx.symbolic_trace(net)(images), expected)
        assert_close(torch.export.export(net, (images,)).module()(images), expected)
        # The graph is captured whole; the backend that generates machine code would take minutes here.
        assert_close(torch.compile(net, fullgraph=True, backend="aot_eager")(images), expected)


@pytest.mark.slow
def test_machine_code_of_the_compiler_agrees(images):
    torch.compiler.reset()
    net = timm.create_model("mnv2zoo_035").eval()
    net.load_state_dict(random_state_dict("mnv2zoo_035"))
    with torch.no_grad():
        assert_close(torch.compile(net, fullgraph=True)(images), net(images), 1e-4)


@pytest.mark.parametrize("feature_cls", [None, "list", "dict", "hook", "fx", "getter"])
def test_every_feature_class_gives_the_same_maps(name, feature_cls, images):
    options = {} if feature_cls is None else {"feature_cls": feature_cls}
    expected = timm.create_model(name).eval()
    expected.load_state_dict(random_state_dict(name))
    features = timm.create_model(name, features_only=True, out_indices=(1, 3), **options).eval()
    own = features.state_dict()
    # Wrappers differ in the names they give to the parts: `blocks_0` for `blocks.0`, and a name before them.
    source = expected.state_dict()
    bare = {key: re.sub(r"^(model|body|graph_module)\.", "", key).replace("blocks_", "blocks.") for key in own}
    features.load_state_dict({key: source[bare[key]] for key in own})
    maps = features(images)
    maps = list(maps.values()) if isinstance(maps, dict) else maps
    for ours, theirs in zip(maps, expected.forward_intermediates(images, indices=[1, 3])[1], strict=True):
        assert_close(ours, theirs)
    assert features.feature_info.reduction() == [4, 16]


def test_feature_indices_may_be_negative_or_a_count(name, images):
    all_maps = timm.create_model(name, features_only=True)
    assert timm.create_model(name, features_only=True, out_indices=(-1,)).feature_info.reduction() == [32]
    last_two = timm.create_model(name, features_only=True, out_indices=2)
    assert last_two.feature_info.channels() == all_maps.feature_info.channels()[-2:]
    assert [m.shape[1] for m in last_two(images)] == last_two.feature_info.channels()


def test_the_deepest_map_is_the_last_thing_computed(name):
    features = timm.create_model(name, features_only=True, out_indices=(0, 1))
    assert len(features.blocks) == 2
    assert not hasattr(features, "conv_head")


@pytest.mark.parametrize("features_only", [False, True])
def test_it_can_be_pickled(name, features_only, images):
    net = timm.create_model(name, features_only=features_only).eval()
    again = pickle.loads(pickle.dumps(net))
    for ours, theirs in zip(again(images), net(images), strict=True):
        assert torch.equal(ours, theirs)

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.layers import make_divisible

import mnv2zoo  # noqa: F401  # registers the networks
from mnv2zoo import architecture
from mnv2zoo.errors import UnknownModelError

# Of the issue that the project began with; timm's own figures.
PUBLISHED = {
    "mnv2zoo_035": (1_677_128, 0.0593, (8, 8, 16, 32, 112), 16, 1280),
    "mnv2zoo_050": (1_968_680, 0.0971, (8, 16, 16, 48, 160), 16, 1280),
    "mnv2zoo_075": (2_636_424, 0.2091, (16, 24, 24, 72, 240), 24, 1280),
    "mnv2zoo_100": (3_504_872, 0.3008, (16, 24, 32, 96, 320), 32, 1280),
    "mnv2zoo_110d": (4_516_520, 0.4305, (16, 24, 32, 104, 352), 32, 1280),
    "mnv2zoo_120d": (5_831_144, 0.6689, (24, 32, 40, 112, 384), 32, 1280),
    "mnv2zoo_140": (6_108_776, 0.5822, (24, 32, 48, 136, 448), 48, 1792),
    "mnv2zoo_100_c20": (2_251_932, 0.4279, (16, 24, 64, 96, 320), 32, 1280),
}


@pytest.mark.parametrize("published", PUBLISHED)
def test_figures_are_the_published_ones(published):
    config = architecture.CONFIGS[published]
    params, gmacs, channels, stem, head = PUBLISHED[published]
    assert architecture.parameters(config) == params
    assert round(architecture.macs(config) / 1e9, 4) == gmacs
    assert tuple(m.channels for m in architecture.features(config)) == channels
    assert (config.stem_channels, config.head_channels) == (stem, head)


def test_counts_are_those_of_the_built_network(name):
    model = timm.create_model(name)
    assert architecture.parameters(architecture.CONFIGS[name]) == sum(p.numel() for p in model.parameters())


def test_multiply_adds_are_those_that_run(name):
    # Counted by hooks on what really runs, at a size that no stride divides.
    import torch
    from torch import nn

    model, counted = timm.create_model(name, device="meta").eval(), []

    def count(module, inputs, output):
        kernel = module.weight[0].numel()
        counted.append(kernel * output.numel())

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model(torch.empty(1, 3, 97, 130, device="meta"))
    assert architecture.macs(architecture.CONFIGS[name], (97, 130)) == sum(counted)


@given(st.floats(0.1, 5000, allow_nan=False))
def test_channels_round_as_in_timm(channels):
    assert architecture.round_channels(channels) == make_divisible(channels, 8)


@given(st.floats(1, 5000, allow_nan=False))
def test_rounded_channels_are_multiples_of_eight_and_lose_at_most_a_tenth(channels):
    rounded = architecture.round_channels(channels)
    assert rounded % 8 == 0
    assert 0.9 * channels <= rounded <= max(8, channels + 8)


@pytest.mark.parametrize("output_stride", architecture.OUTPUT_STRIDES)
def test_no_bottleneck_exceeds_the_output_stride(name, output_stride):
    blocks = architecture.bottlenecks(architecture.CONFIGS[name], output_stride)
    assert max(b.reduction for b in blocks) == output_stride
    # What strides lost, dilations carry: the last bottlenecks see as far as they did.
    assert blocks[-1].dilation == 32 // output_stride


def test_an_impossible_output_stride_is_refused():
    with pytest.raises(ValueError, match="8, 16 or 32"):
        architecture.bottlenecks(architecture.CONFIGS["mnv2zoo_100"], 4)


def test_an_unknown_name_names_the_nearest():
    with pytest.raises(UnknownModelError, match="mnv2zoo_110d"):
        architecture.get("mnv2zoo_110")


def test_timm_has_the_networks_that_have_a_name_there():
    for theirs, ours in architecture.TIMM_NAMES.items():
        with torch.device("meta"):
            state, own = (timm.create_model(name).state_dict() for name in (theirs, ours))
        assert {key: value.shape for key, value in state.items()} == {key: value.shape for key, value in own.items()}
    missing = set(architecture.CONFIGS) - set(architecture.TIMM_NAMES.values())
    assert not [name for name in missing if timm.is_model(name.replace("mnv2zoo", "mobilenetv2"))]

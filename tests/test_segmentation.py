"""Segmenters: torchvision's heads on our networks, and our networks in other libraries."""

import pytest
import segmentation_models_pytorch as smp
import torch
from torch.nn import functional

import mnv2zoo
from mnv2zoo.errors import ConversionError, UnknownModelError
from mnv2zoo.segmentation import deeplabv3, lraspp

SMALL = "mnv2zoo_035"
BUILDERS = {
    "deeplabv3-16": (deeplabv3, {}),
    "deeplabv3-8": (deeplabv3, {"output_stride": 8}),
    "deeplabv3-mobile": (deeplabv3, {"aspp": False}),
    "lraspp": (lraspp, {}),
}


@pytest.fixture(params=BUILDERS)
def build(request):
    builder, values = BUILDERS[request.param]
    return lambda name=SMALL, **more: builder(name, 5, **values, **more)


@pytest.mark.parametrize("size", [(64, 64), (65, 97)])
def test_it_trains_and_every_parameter_takes_part(build, size):
    model = build()
    out = model(torch.rand(2, 3, *size))["out"]
    assert out.shape == (2, 5, *size)
    functional.cross_entropy(out, torch.randint(0, 5, (2, *size))).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize("name", mnv2zoo.architecture.CONFIGS)
def test_every_network_carries_every_segmenter(name):
    for builder, values in BUILDERS.values():
        with torch.inference_mode():
            assert builder(name, 2, **values).eval()(torch.rand(1, 3, 64, 64))["out"].shape == (1, 2, 64, 64)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_deeplab_stands_on_the_last_bottleneck(output_stride):
    model = deeplabv3("mnv2zoo_100", 21, output_stride=output_stride).eval()
    maps = model.backbone(torch.rand(1, 3, 64, 64))
    assert {key: tuple(m.shape) for key, m in maps.items()} == {
        "out": (1, 320, 64 // output_stride, 64 // output_stride)
    }


def test_the_mobile_variant_is_much_smaller():
    def size(model):
        return sum(p.numel() for p in model.classifier.parameters())

    assert size(deeplabv3(SMALL, 21, aspp=False)) < size(deeplabv3(SMALL, 21)) / 5


def test_lraspp_sees_eighths_and_sixteenths():
    maps = lraspp("mnv2zoo_100", 21).eval().backbone(torch.rand(1, 3, 64, 64))
    assert {key: tuple(m.shape[1:]) for key, m in maps.items()} == {"low": (32, 8, 8), "high": (320, 4, 4)}


def test_layers_can_be_frozen(build):
    parameters = dict(build(trainable_backbone_layers=0).named_parameters())
    assert not any(p.requires_grad for name, p in parameters.items() if name.startswith("backbone"))
    assert all(p.requires_grad for name, p in parameters.items() if name.startswith("classifier"))


@pytest.mark.parametrize("in_chans", [1, 4])
def test_other_than_rgb_images(build, in_chans):
    assert build(in_chans=in_chans)(torch.rand(2, in_chans, 64, 64))["out"].shape == (2, 5, 64, 64)


@pytest.mark.parametrize("shape", [(0, 3, 64, 64), (1, 3, 1, 1), (1, 3, 33, 71)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_odd_batches(build, shape, dtype):
    out = build().eval().to(dtype)(torch.rand(shape, dtype=dtype))["out"]
    assert out.shape == (shape[0], 5, *shape[2:])
    assert out.dtype == dtype


def test_wrong_arguments_are_told(build):
    with pytest.raises(UnknownModelError, match="mnv2zoo_035"):
        build("mnv2zoo_036")
    with pytest.raises(ConversionError, match="mnv2zoo_035"):
        build(pretrained_backbone="mnv2zoo_100.ra_in1k")
    with pytest.raises(ValueError, match="16 or 8"):
        deeplabv3(SMALL, 5, output_stride=32)


@pytest.mark.parametrize("decoder", ["Unet", "FPN", "DeepLabV3Plus", "Linknet", "PAN", "MAnet"])
def test_smp_takes_our_networks_as_encoders(decoder):
    model = getattr(smp, decoder)("tu-mnv2zoo_100", encoder_weights=None, classes=3)
    out = model(torch.rand(2, 3, 128, 128))
    assert out.shape == (2, 3, 128, 128)
    out.mean().backward()


def test_transformers_takes_our_networks_as_backbones():
    from transformers import TimmBackbone, TimmBackboneConfig

    config = TimmBackboneConfig(backbone="mnv2zoo_100", use_pretrained_backbone=False, out_indices=(1, 2, 3))
    maps = TimmBackbone(config).eval()(torch.rand(1, 3, 64, 64)).feature_maps
    assert [tuple(m.shape[1:]) for m in maps] == [(24, 16, 16), (32, 8, 8), (96, 4, 4)]

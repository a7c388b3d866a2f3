"""Segmenters: torchvision's heads on our models, and our models in other libraries."""

import json
import sys

import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import timm
import torch
from torch.nn import functional

import mnv2zoo
from mnv2zoo import segmentation
from mnv2zoo.errors import (
    ArgumentError,
    ConversionError,
    IntegrityError,
    MissingExtraError,
    UnknownModelError,
    WeightsUnavailableError,
)
from mnv2zoo.models import names
from mnv2zoo.segmentation import deeplabv3, lraspp
from mnv2zoo.system.installation import install_command
from mnv2zoo.tasks.segment.model import model_files

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


LABELS = ("sky", "road", "car")
PREPROCESSING = {"input_size": (3, 64, 96), "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bilinear"}


def segmenter(head="lraspp", **given):
    torch.manual_seed(0)
    described = {"name": head}
    network = names.describe(SMALL).build(pretrained=False, **given, **segmentation.backbone_arguments(described))
    return segmentation.on_backbone(network, given, described, LABELS)


@pytest.fixture
def run(tmp_path):
    """A model directory with a segmenter, and the segmenter."""

    def save(head="lraspp", **given):
        model = segmenter(head, **given)
        folder = tmp_path / "run"
        folder.mkdir()
        for name, content in model_files(model, PREPROCESSING, LABELS).items():
            (folder / name).write_bytes(content)
        return folder, model.eval()

    return save


@pytest.mark.parametrize("head", segmentation.HEADS)
def test_every_head_is_loaded_as_it_was_written(run, head):
    folder, model = run(head, pad_type="same")
    loaded = segmentation.load(folder, "cpu")
    images = torch.rand(2, 3, 72, 104)  # no multiple of 32
    with torch.inference_mode():
        found = loaded(images)
        assert torch.equal(found, model(images))
    assert found.shape == (2, 3, 72, 104)
    assert not loaded.training
    assert (loaded.label_names, loaded.num_classes, loaded.head) == (LABELS, 3, {"name": head})
    assert loaded.arguments == {"pad_type": "same"}
    assert tuple(loaded.pretrained_cfg["input_size"]) == (3, 64, 96)


@pytest.mark.parametrize("head", segmentation.HEADS)
def test_the_encoder_has_the_weights_and_the_padding_of_the_network(head):
    network = timm.create_model(SMALL, pad_type="same", num_classes=0).eval()
    described = {"name": head}
    carried = names.describe(SMALL).build(
        pretrained=False, pad_type="same", **segmentation.backbone_arguments(described)
    )
    carried.load_state_dict(network.state_dict())
    model = segmentation.on_backbone(carried, {"pad_type": "same"}, described, LABELS)
    own, known = model.backbone.state_dict(), network.state_dict()
    assert len(own) > 100
    assert all(torch.equal(tensor, known[name]) for name, tensor in own.items())
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        stem = model.eval().backbone.bn1(model.backbone.conv_stem(image))
        assert torch.equal(stem, network.bn1(network.conv_stem(image)))  # symmetric padding gives another map


def test_the_sum_of_the_pyramid_is_that_of_segmentation_models_pytorch():
    model = segmenter("smp:FPN").eval()
    theirs = smp.FPN(f"tu-{SMALL}", encoder_weights=None, classes=len(LABELS)).eval()
    theirs.load_state_dict(model.net.state_dict())
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        wanted = theirs(images)
        assert wanted.std() > 0.01
        torch.testing.assert_close(model(images), wanted)


@pytest.mark.parametrize("head", ["smp:Unet", "smp:PAN"])
def test_padding_is_cut_off_again(head):
    model = segmenter(head).eval()
    images = torch.rand(1, 3, model.multiple, 2 * model.multiple)
    with torch.inference_mode():
        assert torch.equal(model(images), model.net(images))
        part = functional.pad(images[..., :-8, :-24], (0, 24, 0, 8))
        assert torch.equal(model(images[..., :-8, :-24]), model.net(part)[..., :-8, :-24])


@pytest.mark.parametrize(
    ("head", "where"),
    [
        ({"name": "__class__"}, "head"),
        ({"name": "smp:losses"}, "head"),
        ({"name": "smp:create_model"}, "head"),
        ({"name": ["lraspp"]}, "head"),
        ({"classes": 3}, "head"),
        ({"name": "lraspp", "inter_channels": 10**9}, "head"),
        ({"name": "lraspp", "output_stride": 16}, "output_stride"),
        ({"name": "deeplabv3", "output_stride": True}, "output_stride"),
        ({"name": "deeplabv3", "output_stride": 1}, "output_stride"),
        ({"name": "deeplabv3", "output_stride": [16]}, "output_stride"),
    ],
    ids=str,
)
def test_a_head_from_a_file_is_checked(run, head, where):
    with pytest.raises(ArgumentError) as refused:
        segmentation.check_head(head)
    assert refused.value.where == where
    folder, _ = run()
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(document | {"head": head}))
    with pytest.raises(WeightsUnavailableError) as error:
        segmentation.load(folder, "cpu")
    assert error.value.where == f"{folder}, config.json, {where}"


def test_a_file_with_too_many_classes_is_refused(run):
    folder, _ = run()
    document = json.loads((folder / "config.json").read_text())
    names_of_classes = [str(number) for number in range(1000)]
    document |= {"num_classes": 1000, "label_names": names_of_classes}
    document["model_args"]["num_classes"] = document["pretrained_cfg"]["num_classes"] = 1000
    (folder / "config.json").write_text(json.dumps(document))
    with pytest.raises(WeightsUnavailableError) as error:
        segmentation.load(folder, "cpu")
    assert error.value.found == 1000


def test_weights_that_do_not_fit_are_refused(run, tmp_path):
    folder, model = run()
    state = model.state_dict()
    name = "net.classifier.low_classifier.weight"
    broken = {
        "missing": {key: tensor for key, tensor in state.items() if key != name},
        "unexpected": state | {"more": torch.ones(1)},
        "with another shape": state | {name: torch.ones(4, 16, 1, 1)},
    }
    for kind, tensors in broken.items():
        safetensors.torch.save_file(tensors, folder / "model.safetensors")
        with pytest.raises(ConversionError) as error:
            segmentation.load(folder, "cpu")
        assert f"1 {kind}" in error.value.found
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(IntegrityError):
        segmentation.load(folder, "cpu")


def test_only_segmenters_are_loaded(run, tmp_path):
    with pytest.raises(ConversionError) as error:
        segmentation.load("mnv2zoo_100")
    assert error.value.found == "the task 'classify'"
    folder, _ = run()
    with pytest.raises(ConversionError) as error:
        timm.create_model(SMALL) and names.describe(str(folder)).build()
    assert "mnv2zoo.segmentation.load" in error.value.fix


def test_without_segmentation_models_pytorch_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    segmentation.check_head({"name": "lraspp"})
    with pytest.raises(MissingExtraError) as error:
        segmentation.check_head({"name": "smp:Unet"})
    assert error.value.fix == f"Run: {install_command('segment')}"


def test_a_segmenter_comes_from_the_hub(hub, run):
    folder, model = run()
    for name in ("config.json", "model.safetensors"):
        hub.add("zoo/streets", name, (folder / name).read_bytes())
    loaded = segmentation.load("hf-hub:zoo/streets", "cpu")
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())

"""Detectors: torchvision's behaviour, on our networks."""

import hashlib

import pytest
import timm
import torch
from timm.layers import FrozenBatchNormAct2d
from timm.models import save_for_hf
from torch import nn

import mnv2zoo
from mnv2zoo.detection import fasterrcnn, retinanet, ssdlite
from mnv2zoo.errors import ConversionError, TapError, UnknownArgumentError, UnknownModelError
from tests.conftest import as_bytes, random_state_dict, raw_entry

SMALL = "mnv2zoo_035"
BUILDERS = {
    "ssdlite": (ssdlite, {"size": (96, 96)}),
    "retinanet": (retinanet, {"min_size": 96, "max_size": 96}),
    "fasterrcnn": (fasterrcnn, {"min_size": 96, "max_size": 96}),
}


@pytest.fixture(params=BUILDERS)
def build(request):
    builder, values = BUILDERS[request.param]
    return lambda name=SMALL, num_classes=3, **more: builder(name, num_classes, **{**values, **more})


def images(count=2):
    return [torch.rand(3, 80 + 10 * i, 96) for i in range(count)]


def targets(count=2):
    boxes = torch.tensor([[8.0, 8.0, 40.0, 50.0], [30.0, 20.0, 90.0, 70.0]])
    return [{"boxes": boxes.clone(), "labels": torch.tensor([1, 2])} for _ in range(count)]


@pytest.fixture
def source(overlay, tmp_path):
    """Index entries with random weights."""
    state = random_state_dict(SMALL)
    data = as_bytes(state)
    (tmp_path / "own.safetensors").write_bytes(data)
    entry = raw_entry(bundled="own.safetensors", sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    for field in ("repo_id", "revision", "filename"):
        del entry[field]
    overlay({f"{SMALL}.own": {**entry, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}})
    return state


def test_it_trains_and_then_detects(build):
    torch.manual_seed(0)
    model = build()
    losses = model(images(), targets())
    sum(losses.values()).backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None and p.requires_grad]
    assert not unused
    found = model.eval()(images())
    assert [set(row) for row in found] == [{"boxes", "labels", "scores"}] * 2
    assert all(((row["labels"] > 0) & (row["labels"] < 3)).all() for row in found)


def test_pretrained_weights_carry_it_and_their_normalisation(build, source):
    model = build(pretrained_backbone=True)
    state = model.backbone.state_dict()
    own = {key.removeprefix("taps."): value for key, value in state.items() if key.startswith("taps.")}
    shared = [key for key in own if key in source and "num_batches" not in key]
    assert len(shared) > 100
    assert all(torch.equal(own[key], source[key]) for key in shared)
    assert model.transform.image_mean == [0.1, 0.2, 0.3]
    assert model.transform.image_std == [0.4, 0.5, 0.6]


def test_norms_are_frozen_where_torchvision_freezes_them(source):
    for builder, values in (BUILDERS["retinanet"], BUILDERS["fasterrcnn"]):
        for pretrained in (True, False):
            modules = list(builder(SMALL, 3, pretrained_backbone=pretrained, **values).backbone.taps.modules())
            assert any(isinstance(m, FrozenBatchNormAct2d) for m in modules) is pretrained
            assert any(isinstance(m, nn.BatchNorm2d) for m in modules) is not pretrained


@pytest.mark.parametrize("layers", range(7))
def test_trainable_layers_count_from_the_head(layers):
    taps = ssdlite("mnv2zoo_100", 3, trainable_backbone_layers=layers).backbone.taps
    firsts = ["", "conv_head", "blocks.5.0", "blocks.3.0", "blocks.2.0", "blocks.1.0", "conv_stem"]  # C2, then strides
    trained = [name for name, p in taps.named_parameters() if p.requires_grad]
    assert bool(trained) is bool(layers)
    if layers:
        assert trained[0].startswith(firsts[layers])


def test_ssdlite_has_the_papers_maps():
    model = ssdlite("mnv2zoo_100", 91).eval()
    maps = model.backbone(torch.rand(1, 3, 320, 320))
    assert [tuple(m.shape[1:]) for m in maps.values()] == [
        *((576, 20, 20), (1280, 10, 10), (512, 5, 5), (256, 3, 3)),
        *((256, 2, 2), (128, 1, 1)),
    ]


@pytest.mark.parametrize("builder", [retinanet, fasterrcnn])
def test_the_pyramid_stands_on_chosen_levels(builder):
    model = builder(SMALL, 3, levels=["Bottleneck_5", "Bottleneck_12"], min_size=96, max_size=96).eval()
    assert list(model.backbone.taps.channels) == ["Bottleneck_5", "Bottleneck_12"]
    assert len(model([torch.rand(3, 96, 96)])) == 1
    with pytest.raises(TapError, match="Bottleneck_5"):
        builder(SMALL, 3, levels=["Bottleneck_55"])


@pytest.mark.parametrize("name", mnv2zoo.architecture.CONFIGS)
def test_every_network_carries_every_detector(name):
    for builder, values in BUILDERS.values():
        model = builder(name, 2, **values).eval()
        with torch.inference_mode():
            assert len(model([torch.rand(3, 64, 64)])) == 1


def test_no_boxes_at_all_is_a_lesson_too(build):
    nothing = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)} for _ in range(2)]
    losses = build()(images(), nothing)
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_boxes_without_area_are_refused(build):
    bad = targets()
    bad[1]["boxes"][0] = torch.tensor([40.0, 8.0, 8.0, 50.0])
    with pytest.raises(AssertionError, match="positive height and width"):
        build()(images(), bad)


def test_boxes_beyond_the_image_train_as_in_torchvision(build):
    beyond = targets()
    beyond[0]["boxes"][0] = torch.tensor([-20.0, -5.0, 200.0, 300.0])
    assert all(torch.isfinite(loss) for loss in build()(images(), beyond).values())


@pytest.mark.parametrize("in_chans", [1, 4])
def test_other_than_rgb_images(build, source, in_chans):
    model = build(in_chans=in_chans, pretrained_backbone=True)
    assert len(model.transform.image_mean) == in_chans
    assert all(0.1 <= mean <= 0.3 for mean in model.transform.image_mean)
    x = [torch.rand(in_chans, 64, 64) for _ in range(2)]
    assert all(torch.isfinite(loss) for loss in model(x, targets()).values())
    assert len(model.eval()(x)) == 2


def test_odd_batches(build):
    model = build().eval()
    assert len(model([torch.rand(3, 1, 1), torch.rand(3, 33, 71)])) == 2
    with torch.autocast("cpu", torch.bfloat16):
        assert len(model(images(1))) == 1
    with pytest.raises(IndexError):  # as torchvision's own
        model([])


def test_a_run_folder_is_a_backbone(build, tmp_path):
    run = timm.create_model(SMALL, num_classes=4)
    run.load_state_dict(random_state_dict(SMALL, num_classes=4))
    save_for_hf(run, tmp_path, model_config={"pretrained_cfg": {**run.pretrained_cfg, "mean": (0.1, 0.1, 0.1)}})
    model = build(pretrained_backbone=tmp_path)
    assert torch.equal(model.backbone.taps.conv_stem.weight, run.conv_stem.weight)
    assert model.transform.image_mean == [0.1, 0.1, 0.1]
    with pytest.raises(ConversionError, match="mnv2zoo_100"):
        build("mnv2zoo_100", pretrained_backbone=tmp_path)


def test_wrong_arguments_are_told(build):
    with pytest.raises(UnknownArgumentError, match="score_thresh"):
        build(score_tresh=0.5)
    with pytest.raises(UnknownModelError, match="mnv2zoo_035"):
        build("mnv2zoo_036")
    with pytest.raises(ConversionError, match="mnv2zoo_035"):
        build(pretrained_backbone="mnv2zoo_100.ra_in1k")
    with pytest.raises(ValueError, match="0 to 6"):
        build(trainable_backbone_layers=7)

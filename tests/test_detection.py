"""Detectors: torchvision's behavior, on our networks."""

import hashlib
import json

import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import ModelCard
from timm.layers import FrozenBatchNormAct2d
from timm.models import save_for_hf
from torch import nn
from torchvision.models.detection.ssd import SSD

import mnv2zoo
from mnv2zoo.detection import Head, fasterrcnn, retinanet, ssdlite
from mnv2zoo.errors import ConversionError, IntegrityError, TapError, UnknownArgumentError, UnknownModelError
from mnv2zoo.model_dir import files, packaging
from mnv2zoo.models.names import describe
from tests.conftest import as_bytes, random_state_dict, raw_entry
from tests.training.runs import save_run

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


def test_pretrained_weights_carry_it_and_their_normalization(build, source):
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


def anchors_of(model, side=320):
    """The stride of each map, and the sides of its anchors."""
    maps = list(model.backbone(torch.rand(2, 3, side, side)).values())
    strides = [side / m.shape[-1] for m in maps]
    generator = getattr(model, "anchor_generator", None) or model.rpn.anchor_generator
    if hasattr(generator, "scales"):
        return strides, [scale * side for scale in generator.scales]
    return strides, list(generator.sizes)


@pytest.mark.parametrize(("stride", "count", "first"), [(16, 6, [16, 32]), (8, 7, [8, 16, 32]), (4, 8, [4, 8, 16, 32])])
def test_finer_maps_come_before_the_papers(stride, count, first):
    model = ssdlite("mnv2zoo_100", 3, stride=stride).eval()
    strides, sides = anchors_of(model)
    assert (len(strides), strides[: len(first)]) == (count, first)
    assert sides[:1] == pytest.approx([0.2 * 320 * stride / 16])
    assert sides[-2:] == pytest.approx([0.95 * 320, 320])
    # The map at a stride is the expansion of the bottleneck that halves it, as that at 16 is.
    names = {16: ["Bottleneck_14"], 8: ["Bottleneck_7", "Bottleneck_14"]}.get(stride)
    assert names is None or model.backbone.taps.names == [*names, "C2"]


@pytest.mark.parametrize(("threshold", "candidates"), [(0.001, 300), (0.02, 300), (0.02, 5), (0.999, 300)])
def test_all_classes_at_once_give_torchvisions_boxes(threshold, candidates):
    torch.manual_seed(0)
    detector = ssdlite("mnv2zoo_035", 21, score_thresh=threshold, topk_candidates=candidates).eval()
    anchors = torch.rand(500, 2).repeat(1, 2) * 300 + torch.tensor([0, 0, 40, 40])
    outputs = {"cls_logits": 2 * torch.randn(2, 500, 21), "bbox_regression": torch.randn(2, 500, 4)}
    arguments = (outputs, [anchors] * 2, [(320, 320), (200, 300)])
    found, expected = detector.postprocess_detections(*arguments), SSD.postprocess_detections(detector, *arguments)
    assert (len(expected[0]["scores"]) > 0) == (threshold < 0.9)
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("labels", "scores", "boxes"):
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0)


def test_the_smallest_anchors_of_ssdlite_are_asked_for():
    _, sides = anchors_of(ssdlite("mnv2zoo_035", 3, stride=8, anchor_size=12))
    assert sides == pytest.approx([12, 24, 48, 96, 192, 304, 304, 320])
    model = ssdlite("mnv2zoo_035", 3, stride=8, anchor_size=12)
    boxes = []
    model.anchor_generator.register_forward_hook(lambda module, inputs, outputs: boxes.append(outputs[0]))
    model.eval()([torch.rand(3, 320, 320)])
    assert (boxes[0][0, 2:] - boxes[0][0, :2]).tolist() == pytest.approx([12, 12])


@pytest.mark.parametrize(
    ("builder", "values", "strides", "smallest"),
    [
        (retinanet, {}, [8, 16, 32, 64, 128], [32, 64, 128, 256, 512]),
        (retinanet, {"stride": 4, "anchor_size": 16}, [4, 8, 16, 32, 64, 128], [16, 32, 64, 128, 256, 512]),
        (retinanet, {"stride": 16}, [16, 32, 64, 128], [64, 128, 256, 512]),
        (fasterrcnn, {}, [4, 8, 16, 32, 64], [32, 64, 128, 256, 512]),
        (fasterrcnn, {"stride": 8, "anchor_size": 20}, [8, 16, 32, 64], [20, 40, 80, 160]),
    ],
)
def test_the_anchors_of_a_pyramid_double_with_its_strides(builder, values, strides, smallest):
    found, sides = anchors_of(builder("mnv2zoo_035", 3, fpn_channels=32, **values), side=512)
    assert found == strides
    assert [side[0] for side in sides] == smallest


def test_a_pyramid_has_the_channels_that_are_asked_for():
    for builder in (retinanet, fasterrcnn):
        maps = builder(SMALL, 3, fpn_channels=48).backbone(torch.rand(2, 3, 64, 64))
        assert {m.shape[1] for m in maps.values()} == {48}


@pytest.mark.parametrize("values", [{"stride": 5}, {"stride": 32}], ids=str)
def test_strides_that_there_are_not_are_refused(build, values):
    with pytest.raises(ValueError, match="4 or 8 or 16"):
        build(**values)
    with pytest.raises(ValueError, match="None if you pass levels"):
        retinanet(SMALL, 3, stride=8, levels=["Bottleneck_5"])


def test_anchors_are_no_coarser_in_bfloat16(build):
    model, (image,) = build().eval(), images(1)
    generator = getattr(model, "anchor_generator", None) or model.rpn.anchor_generator
    made = []
    generator.register_forward_hook(lambda module, inputs, outputs: made.append(outputs[0]))
    with torch.inference_mode():
        model([image])
        with torch.autocast("cpu", torch.bfloat16):
            model([image])
    assert made[1].dtype == torch.float32
    assert torch.equal(*made)


def test_a_built_network_carries_a_detector_too(build):
    network = timm.create_model(SMALL, num_classes=0, pad_type="same")
    model = build(network)
    assert model.backbone.taps.conv_stem is network.conv_stem
    assert model.network is network
    assert not any(name.startswith("network") for name in model.state_dict())


@pytest.fixture
def run(tmp_path):
    """The folder of a detector, as a run leaves it."""
    return saved(tmp_path / "run")


def saved(folder, head=None, labels=("a", "b")):
    folder.mkdir()
    torch.manual_seed(0)
    head = head or Head("retinanet", fpn_channels=16)
    network = timm.create_model(SMALL, num_classes=0)
    detector = head.build(network, len(labels), (3, 160, 96))
    data = {"input_size": (3, 160, 96), "mean": (0.5, 0.4, 0.3), "std": (0.2,) * 3, "crop_mode": "border"}
    recorded = {"task": "detect", "head": head.to_json()}
    for name, content in files.model_files(network, data, labels, whole=detector, **recorded).items():
        (folder / name).write_bytes(content)
    return folder


def change(run, **values):
    document = json.loads((run / "config.json").read_text())
    document["head"] |= values
    (run / "config.json").write_text(json.dumps(document))


def test_a_run_folder_is_loaded_in_one_call(run):
    detector = mnv2zoo.detection.load(run, "cpu")
    state = safetensors.torch.load_file(run / "model.safetensors")
    assert all(torch.equal(value, state[name]) for name, value in detector.state_dict().items())
    assert (detector.label_names, detector.training) == (("a", "b"), False)
    assert detector.transform.image_mean == [0.5, 0.4, 0.3]
    (found,) = detector([torch.rand(3, 200, 300)])  # of any size
    assert set(found) == {"boxes", "labels", "scores"}


@pytest.mark.parametrize(
    "head",
    [Head(stride=8, anchor_size=12.0), Head("fasterrcnn", stride=8, fpn_channels=16, frozen_norm=True)],
    ids=lambda head: head.name,
)
def test_the_arguments_of_the_head_are_loaded(tmp_path, head):
    detector = mnv2zoo.detection.load(saved(tmp_path / "run", head), "cpu")
    assert detector.built_with == head


@pytest.mark.parametrize(
    "values",
    [
        {"name": "yolo"},
        {"name": 3},
        {"fpn_channels": 10**9},
        {"fpn_channels": True},
        {"anchor_size": float("inf")},
        {"stride": 1},
        {"max_detections": 10**12},
        {"score_threshold": -1},
        {"nms_threshold": "0.5"},
        {"code": "import os"},
        {"fpn_channels": 32},  # within bounds, but not that of the tensors
        {"name": "fasterrcnn"},
    ],
    ids=str,
)
def test_a_head_from_others_is_checked(run, values):
    change(run, **values)
    with pytest.raises(ConversionError) as error:
        mnv2zoo.detection.load(run, "cpu")
    assert str(error.value.where) == str(run)


def test_a_number_of_classes_that_no_file_fills_is_refused_before_memory_is_allocated(run, monkeypatch):
    document = json.loads((run / "config.json").read_text())
    document |= {"num_classes": 900_000, "label_names": [str(number) for number in range(900_000)]}
    document["pretrained_cfg"]["num_classes"] = 900_000
    (run / "config.json").write_text(json.dumps(document))
    monkeypatch.setattr(mnv2zoo.detection, "untrained", lambda description: pytest.fail("it was built"))
    with pytest.raises(ConversionError) as error:
        mnv2zoo.detection.load(run, "cpu")
    assert "900000" in error.value.expected


def test_files_that_are_no_detectors_are_clear_errors(run, tmp_path):
    (run / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(IntegrityError):
        mnv2zoo.detection.load(run, "cpu")
    classifier = save_run(tmp_path / "classifier")
    with pytest.raises(ConversionError) as error:
        mnv2zoo.detection.load(classifier, "cpu")
    assert "classify" in error.value.found
    with pytest.raises(ConversionError) as error:
        describe(str(run)).build()
    assert "mnv2zoo.detection.load" in error.value.fix


def test_a_repository_on_the_hub_is_loaded_by_its_name(run, hub):
    for name in ("config.json", "model.safetensors"):
        hub.add("someone/cells", name, (run / name).read_bytes(), lfs=name.endswith("tensors"))
    detector, own = mnv2zoo.detection.load("hf-hub:someone/cells", "cpu"), mnv2zoo.detection.load(run, "cpu")
    assert all(torch.equal(value, own.state_dict()[name]) for name, value in detector.state_dict().items())
    assert detector.label_names == ("a", "b")


def test_a_package_of_a_run_is_a_detector_too(run, tmp_path):
    package = packaging.pack(run, f"{SMALL}.cells", "MIT", tmp_path / "package")
    assert package.beyond["head"]["name"] == "retinanet"
    assert package.index_entry() == {}
    card = ModelCard.load(tmp_path / "package/README.md")
    assert card.data.pipeline_tag == "object-detection"
    assert "mnv2zoo.detection.load" in str(card)
    detector = mnv2zoo.detection.load(tmp_path / "package", "cpu")
    assert detector.label_names == ("a", "b")
    state = safetensors.torch.load_file(run / "model.safetensors")
    del state["head.regression_head.bbox_reg.weight"]
    safetensors.torch.save_file(state, run / "model.safetensors")
    with pytest.raises(ConversionError) as error:
        packaging.pack(run, f"{SMALL}.cells", "MIT", tmp_path / "other")
    assert "bbox_reg" in error.value.where

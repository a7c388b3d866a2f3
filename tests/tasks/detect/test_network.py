"""The detector that a training starts from: its head, its sizes, its weights and what is frozen; smaller batches."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from timm.layers import FrozenBatchNormAct2d

from mnv2zoo.data.layout import Layout
from mnv2zoo.errors import RecipeError
from mnv2zoo.tasks import initialization
from mnv2zoo.tasks.detect import Detect, network, objects
from mnv2zoo.tasks.recipe import Recipe
from tests.conftest import GOOGLE, needs_google
from tests.tasks.detect.scenes import MODEL, fill_voc
from tests.training.runs import save_run, weights


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return objects.find(fill_voc(tmp_path_factory.mktemp("network") / "cells", 4, 2), Layout())


def build(data, model=MODEL, **values):
    recipe = Recipe(**{"init": "random", **values})
    target, source = initialization.find(str(model), recipe)
    return network.build(target, source, recipe, data)


@pytest.mark.parametrize(
    ("values", "size"),
    [
        ({}, (3, 320, 320)),
        ({"input_size": 224}, (3, 224, 224)),
        ({"head": "retinanet"}, (3, 800, 480)),
        ({"head": "fasterrcnn", "input_size": 240}, (3, 400, 240)),
        ({"head": "retinanet", "input_size": 4096}, (3, 4096, 4096)),
    ],
    ids=str,
)
def test_the_size_is_that_of_the_head_or_of_the_recipe(data, values, size):
    start = build(data, **values)
    assert start.preprocessing["input_size"] == start.test_preprocessing["input_size"] == size
    transform = start.model.transform
    if "head" in values:
        assert (transform.min_size, transform.max_size) == ((size[2],), size[1])
    else:
        assert transform.fixed_size == size[1:]


def test_the_thresholds_reach_torchvision(data):
    values = {"score_threshold": 0.2, "nms_threshold": 0.3, "max_detections": 7}
    for head in ("ssdlite", "retinanet"):
        model = build(data, head=head, **values).model
        assert (model.score_thresh, model.nms_thresh, model.detections_per_img) == (0.2, 0.3, 7)
    own = build(data, head="fasterrcnn", **values).model.roi_heads
    assert (own.score_thresh, own.nms_thresh, own.detections_per_img) == (0.2, 0.3, 7)


@needs_google
def test_padding_and_colors_reach_the_backbone(data):
    values = {"init": str(GOOGLE), "pad_type": "same", "mean": (0.5,) * 3, "std": (0.4,) * 3}
    model = build(data, "mnv2zoo_100", **values).model
    assert (model.transform.image_mean, model.transform.image_std) == ([0.5] * 3, [0.4] * 3)
    own = weights(GOOGLE.parent)
    assert torch.equal(model.backbone.taps.conv_stem.weight, own["conv_stem.weight"])
    # Padded as TensorFlow does, the first pixel of the stem's map sees the image's first three pixels.
    image = torch.zeros(1, 3, 32, 32)
    image[..., 2, 2] = 1
    assert model.backbone.taps.conv_stem(image)[0, :, 0, 0].abs().max() > 0
    plain = build(data, "mnv2zoo_100", init=str(GOOGLE)).model
    assert plain.backbone.taps.conv_stem(image)[0, :, 0, 0].abs().max() == 0


@pytest.mark.parametrize(("head", "frozen"), [("ssdlite", False), ("retinanet", True)])
def test_norms_of_pretrained_backbones_are_frozen_under_a_pyramid_alone(data, tmp_path, head, frozen):
    run = save_run(tmp_path / "run")  # a classifier
    model = build(data, run, init="pretrained", head=head).model
    assert any(isinstance(m, FrozenBatchNormAct2d) for m in model.modules()) is frozen
    assert torch.equal(model.backbone.taps.conv_stem.weight, weights(run)["conv_stem.weight"])


@pytest.mark.parametrize("head", ["ssdlite", "retinanet"])
def test_what_the_recipe_does_not_train_is_frozen(data, head):
    task = Detect()
    for train, first in (("head", None), ("Bottleneck_12", "blocks.4.1"), ("all", "conv_stem")):
        model = build(data, head=head).model
        task.freeze(model, Recipe(train=train))
        taps = [name for name, p in model.backbone.taps.named_parameters() if p.requires_grad]
        assert all(p.requires_grad for name, p in model.named_parameters() if "taps" not in name)
        assert not taps if first is None else taps[0].startswith(first)
        assert task.backbone(model) is model.backbone.taps


def test_statistics_are_kept_on_request(data):
    model = build(data).model
    frozen = Detect().freeze(model, Recipe(keep_statistics=True, init="pretrained"))
    initialization.set_training(model, frozen)
    norms = {n: m.training for n, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert not any(training for name, training in norms.items() if "taps" in name)
    assert all(training for name, training in norms.items() if "taps" not in name)


def test_a_batch_shrinks_with_its_boxes():
    image = torch.zeros(3, 60, 80)
    image[:, 12:36, 20:60] = 1
    targets = [{"boxes": torch.tensor([[20.0, 12, 60, 36]]), "labels": torch.tensor([1])}]
    (small,), (target,) = network.shrink([image], targets, 30, 60)
    assert small.shape == (3, 30, 40)
    assert target["boxes"].tolist() == [[10, 6, 30, 18]]
    assert small[:, 7:17, 11:29].min() == 1
    assert targets[0]["boxes"].tolist() == [[20, 12, 60, 36]]


def test_a_detector_trains_on_the_size_that_images_have(data):
    for head in ("ssdlite", "retinanet"):
        model = build(data, head=head, input_size=320).model
        Detect().freeze(model, Recipe())
        images, _ = model.transform([torch.rand(3, 96, 128)], [{"boxes": torch.zeros(0, 4)}])
        assert images.image_sizes == [(96, 128)]


def test_batches_are_lists_of_images_and_targets():
    pairs = [(torch.rand(3, 4, 5), {"boxes": torch.zeros(n, 4)}) for n in (2, 0)]
    images, targets = Detect.collate(pairs)
    assert [image.shape for image in images] == [(3, 4, 5)] * 2
    assert [len(target["boxes"]) for target in targets] == [2, 0]


def test_the_head_of_another_detector_is_taken_over_and_bad_ones_are_refused():
    former = network.head_of(Recipe(head="retinanet", fpn_channels=64, stride=4), frozen_norm=True)
    assert network.head_of(Recipe(), former) == former
    assert network.head_of(Recipe(head="ssdlite"), former).to_json().keys() == {
        *("name", "score_threshold", "nms_threshold", "max_detections", "frozen_norm")
    }
    with pytest.raises(RecipeError) as error:
        network.head_of(Recipe(fpn_channels=64))
    assert (error.value.where, error.value.found) == ("fpn_channels", "64")


def test_the_transform_of_a_loaded_detector_resizes_as_its_preprocessing(tmp_path, data):
    start = build(data, input_size=64)
    files = Detect().model_files(start.model, start.preprocessing, data.class_names)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert set(files) == {"model.safetensors", "config.json", "labels.txt"}
    net = Detect().load_model(str(tmp_path), "cpu")
    image = Image.open(Path(data.splits["val"][0].place)).convert("RGB")
    fast = net.fast.batch([net.fast.prepare(image)], torch.device("cpu"))[0]
    assert torch.equal(net.transform(image), fast)
    assert net.label_names == ("disk", "square")

"""Reports about the parts of models, their outputs, and the images they take."""

import copy
import io
import json
import pickle

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from timm.models import group_parameters
from torch import nn
from torchvision.transforms.functional import pil_to_tensor

import mnv2zoo
from mnv2zoo import architecture
from mnv2zoo.data import preprocessing
from mnv2zoo.errors import (
    ArgumentError,
    DataError,
    ImageReadError,
    RecipeError,
    TapError,
    UnknownArgumentError,
    WeightsError,
    WeightsUnavailableError,
)
from mnv2zoo.features import BottleneckTaps
from mnv2zoo.model_dir import files, from_checkpoint, packaging
from mnv2zoo.models import names, pretrained
from mnv2zoo.tasks import initialization, recipe
from tests.conftest import needs_torchscript, random_state_dict

SMALL = "mnv2zoo_035"
PAPER = [name for name in architecture.CONFIGS if not name.endswith("_c20")]
TUTORIAL = [name for name in architecture.CONFIGS if name.endswith("_c20")]
DETECTORS = [mnv2zoo.detection.ssdlite, mnv2zoo.detection.retinanet, mnv2zoo.detection.fasterrcnn]
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def write_run(folder, in_chans=3, mean=(0.5,), std=(0.25,), labels=("a", "b"), side=64, edit=None):
    """A folder as fine-tuning leaves it; `edit` changes its config.json."""
    folder.mkdir()
    state = random_state_dict(SMALL, num_classes=len(labels), in_chans=in_chans)
    model = timm.create_model(SMALL, num_classes=len(labels), in_chans=in_chans)
    model.load_state_dict(state)
    data = {
        "input_size": (in_chans, side, side),
        "mean": mean,
        "std": std,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
    }
    for name, content in files.model_files(model, data, labels).items():
        (folder / name).write_bytes(content)
    if edit:
        document = json.loads((folder / "config.json").read_text())
        edit(document)
        (folder / "config.json").write_text(json.dumps(document))
    return folder, model.eval()


# Children and names


@pytest.mark.parametrize("name", PAPER)
def test_children_are_those_of_timms_network(name):
    theirs, ours = timm.create_model(name.replace("mnv2zoo", "mobilenetv2")).eval(), timm.create_model(name).eval()
    ours.load_state_dict(theirs.state_dict())
    assert [key for key, _ in ours.named_children()] == [key for key, _ in theirs.named_children()]
    cut = nn.Sequential(*list(ours.children())[:-1])
    with torch.no_grad():
        expected = nn.Sequential(*list(theirs.children())[:-1])(IMAGES)
        torch.testing.assert_close(cut(IMAGES), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
        assert torch.equal(cut(IMAGES), ours.forward_head(ours.forward_features(IMAGES), pre_logits=True))


@pytest.mark.parametrize("name", TUTORIAL)
def test_all_but_the_last_child_give_the_pooled_feature_of_20_class_networks(name):
    model = timm.create_model(name).eval()
    model.load_state_dict(random_state_dict(name))
    *body, last = model.children()
    with torch.no_grad():
        pooled = nn.Sequential(*body)(IMAGES)
        assert torch.equal(pooled, model.forward_features(IMAGES).mean((2, 3), keepdim=True))
        assert pooled.shape == (2, model.num_features, 1, 1)
        assert torch.equal(last(pooled).flatten(1), model(IMAGES))
    assert [type(layer) for layer in last] == [nn.Conv2d, type(model.bn1)]


@pytest.mark.parametrize(("num_classes", "pool"), [(0, None), (7, None), (0, ""), (5, "max"), (3, "catavgmax")])
@pytest.mark.parametrize("name", [SMALL, "mnv2zoo_050_c20"])
def test_the_last_child_is_the_classifier_after_each_reset(name, num_classes, pool):
    model = timm.create_model(name).eval()
    for before in (0, 4):
        model.reset_classifier(before)
        model.reset_classifier(num_classes, pool)
        *body, last = model.children()
        assert len(body) == 6
        assert last is model.get_classifier()
        with torch.no_grad():
            feature = nn.Sequential(*body)(IMAGES)
            expected = model.forward_head(model.forward_features(IMAGES), pre_logits=True)
            assert torch.equal(feature.flatten(1), expected.flatten(1))


NAMES = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


def test_the_classifier_and_its_norm_keep_their_names_everywhere():
    model = timm.create_model("mnv2zoo_100_c20")
    keys = ["classifier.weight", "classifier.bias", *(f"classifier_bn.{name}" for name in NAMES)]
    state = model.state_dict()
    assert list(state)[-7:] == keys
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert named.keys() == state.keys()
    modules = dict(model.named_modules())
    assert modules["classifier"] is model.classifier is model.get_submodule("classifier")
    assert modules["classifier_bn"] is model.classifier_bn is model.get_submodule("classifier_bn")
    assert {"classifier", "classifier_bn"} <= state._metadata.keys()
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    assert groups["classifier.weight"] == groups["classifier_bn.weight"] == max(groups.values())
    assert model.state_dict(destination={}).keys() == state.keys()
    # Within another module too.
    outer = nn.ModuleDict({"net": model})
    assert outer.state_dict().keys() == {f"net.{key}" for key in state}
    assert {name for name, _ in outer.named_parameters()} == {f"net.{name}" for name, _ in model.named_parameters()}


@pytest.mark.parametrize("where", ["cpu", "meta"])
def test_state_dicts_load_strictly_and_report_outer_names(where):
    state = random_state_dict("mnv2zoo_100_c20")
    model = timm.create_model("mnv2zoo_100_c20", device=where)
    assert not any(model.load_state_dict(state, strict=True, assign=True))
    assert torch.equal(model.state_dict()["classifier_bn.running_var"], state["classifier_bn.running_var"])
    outer = nn.ModuleDict({"net": model})
    assert not any(outer.load_state_dict({f"net.{key}": value for key, value in state.items()}, assign=True))
    del state["classifier_bn.bias"]
    state["classifier.scale"] = torch.zeros(1)
    report = model.load_state_dict(state, strict=False, assign=True)
    assert report.missing_keys == ["classifier_bn.bias"]
    assert report.unexpected_keys == ["classifier.scale"]
    assert "classifier_bn.weight" in state  # the caller's dict is left alone


@pytest.mark.parametrize(
    "through",
    [
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        pytest.param(torch.jit.script, marks=needs_torchscript),
        torch.fx.symbolic_trace,
        lambda model: torch.export.export(model, (IMAGES,)).module(),
        lambda model: lambda x: torch.func.functional_call(model, dict(model.state_dict()), (x,)),
        mnv2zoo.deploy.fold,
    ],
    ids=["deepcopy", "pickle", "script", "fx", "export", "functional_call", "fold"],
)
def test_20_class_networks_go_through_pytorchs_machinery(through):
    model = timm.create_model("mnv2zoo_050_c20").eval()
    model.load_state_dict(random_state_dict("mnv2zoo_050_c20"))
    with torch.no_grad():
        torch.testing.assert_close(through(model)(IMAGES), model(IMAGES), rtol=1e-3, atol=1e-3)


def test_replaced_layers_take_part():
    model = timm.create_model("mnv2zoo_050_c20").eval()
    model.classifier_bn = nn.Identity()
    model.classifier = nn.Conv2d(1280, 3, 1)
    assert model(IMAGES).shape == (2, 3)
    assert len(list(model.children())) == 7
    with pytest.raises(AttributeError, match="classifier_bn"):
        _ = timm.create_model(SMALL).classifier_bn


def test_no_public_attribute_collides_with_the_ecosystem():
    # transformers, PEFT, Accelerate and Lightning read or set these on any module.
    taken = ["config", "device", "dtype", "generate", "hf_device_map", "name_or_path", "quantization_method", "trainer"]
    model = timm.create_model(SMALL)
    parts = [
        model,
        timm.create_model(SMALL, features_only=True),
        BottleneckTaps(model, ["C2"]),
        mnv2zoo.segmentation.lraspp(SMALL, 2),
        mnv2zoo.detection.ssdlite(SMALL, 2),
    ]
    assert not [(type(part).__name__, name) for part in parts for name in taken if hasattr(part, name)]
    assert model.arch_config == architecture.get(SMALL)


# Feature maps


def agrees(model):
    maps = model(IMAGES)
    assert [m.shape[1] for m in maps] == model.feature_info.channels()
    assert [64 // m.shape[-1] for m in maps] == model.feature_info.reduction()
    return maps


@pytest.mark.parametrize("feature_cls", [None, "getter"])
@pytest.mark.parametrize("indices", [(4, 2), (1, 1), (2, 0, 4), (-1, -3), [3, 1], (0, -1), 2, (-5,), np.array([4, 0])])
def test_maps_come_in_the_order_that_feature_info_tells(indices, feature_cls):
    options = {"feature_cls": feature_cls} if feature_cls else {}
    model = timm.create_model(SMALL, features_only=True, exportable=True, out_indices=indices, **options).eval()
    whole = timm.create_model(SMALL).eval()
    whole.load_state_dict(random_state_dict(SMALL))
    own = model.model if feature_cls else model
    own.load_state_dict({key: value for key, value in whole.state_dict().items() if key in own.state_dict()})
    every = whole.forward_intermediates(IMAGES, intermediates_only=True)
    wanted = [3, 4] if isinstance(indices, int) else [range(5)[i] for i in indices]
    for found, index in zip(agrees(model), wanted, strict=True):
        assert torch.equal(found, every[index])


@needs_torchscript
@pytest.mark.parametrize("indices", [(4, 2), (1, 1), (-1, -3), 2])
def test_networks_that_give_maps_can_be_scripted(indices):
    model = timm.create_model(SMALL, features_only=True, exportable=True, out_indices=indices).eval()
    for found, wanted in zip(torch.jit.script(model)(IMAGES), model(IMAGES), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("indices", [(), (5,), (-6,), 6, 0, -1, (1.5,), "12", True, (None,), [True], 2.0])
def test_maps_that_there_are_not_are_refused(indices):
    with pytest.raises(ArgumentError, match="out_indices"):
        timm.create_model(SMALL, features_only=True, out_indices=indices)
    model = timm.create_model(SMALL)
    with pytest.raises(ValueError, match="indices"):
        model.forward_intermediates(IMAGES, indices=indices)
    with pytest.raises(ValueError, match="indices"):
        model.prune_intermediate_layers(indices)


@pytest.mark.parametrize("feature_cls", ["list", "dict", "hook", "fx"])
@pytest.mark.parametrize("indices", [(4, 2), (1, 1)])
def test_timms_wrappers_that_sort_refuse_other_orders(feature_cls, indices):
    with pytest.raises(ArgumentError) as error:
        timm.create_model(SMALL, features_only=True, feature_cls=feature_cls, out_indices=indices)
    assert str(tuple(sorted(set(indices)))) in error.value.expected


def test_intermediates_come_in_the_order_of_the_indices():
    model = timm.create_model(SMALL).eval()
    every = model.forward_intermediates(IMAGES, extra_blocks=True, intermediates_only=True)
    for indices in ([7, 0, 3], [2, 2]):
        found = model.forward_intermediates(
            IMAGES, indices=indices, extra_blocks=True, intermediates_only=True, stop_early=True
        )
        assert all(torch.equal(m, every[i]) for m, i in zip(found, indices, strict=True))


def test_out_indices_without_features_only_is_an_error():
    with pytest.raises(UnknownArgumentError, match="features_only"):
        timm.create_model(SMALL, out_indices=(1, 2))


def test_taps_take_any_iterable_of_names():
    taps = BottleneckTaps(timm.create_model(SMALL), (name for name in ("C2", "Bottleneck_3")))
    assert [m.shape[1] for m in taps(IMAGES).values()] == list(taps.channels.values())
    with pytest.raises(TapError):
        BottleneckTaps(timm.create_model(SMALL), iter(()))


# Arguments


@pytest.mark.parametrize(
    ("name", "value", "near"),
    [
        ("pad_type", "smae", "same"),
        ("pad_type", "symetric", "symmetric"),
        ("pad_type", "valid", "symmetric"),
        ("pad_type", 1, ""),
        ("global_pool", "agv", "avg"),
        ("global_pool", 1, ""),
        ("global_pool", "fastfoo", "fast"),
        ("act_layer", "reluu", "relu"),
        ("act_layer", nn.ReLU(), "class"),
        ("act_layer", 5, "class"),
        ("norm_layer", "batchnrom", "batchnorm"),
        ("norm_layer", nn.InstanceNorm2d, "class"),
        ("output_stride", 4, "8 or 16 or 32"),
        ("output_stride", "16", "8 or 16 or 32"),
        ("classifier", "conv_b", "conv_bn"),
        ("drop_rate", 1.5, "from 0 to 1"),
        ("drop_path_rate", float("nan"), "from 0 to 1"),
        ("drop_rate", True, "from 0 to 1"),
        ("bn_eps", -1, "from 0 to 1"),
        ("bn_momentum", "0.1", "from 0 to 1"),
        ("in_chans", 0, "1 or more"),
        ("in_chans", 3.0, "1 or more"),
        ("num_classes", -1, "0 or more"),
        ("num_classes", True, "0 or more"),
    ],
)
def test_a_value_that_cannot_be_is_a_value_error_that_names_the_nearest(name, value, near):
    for build in (
        lambda: timm.create_model(SMALL, **{name: value}),
        lambda: mnv2zoo.models.mobilenetv2.MobileNetV2(architecture.get(SMALL), **{name: value}),
        lambda: timm.create_model("mnv2zoo_100.ra_in1k", pretrained=True, **{name: value}),  # before it is fetched
    ):
        with pytest.raises(ValueError, match=name) as error:
            build()
        assert isinstance(error.value, ArgumentError)
        assert near in error.value.expected
        assert error.value.where == name


@pytest.mark.parametrize("arguments", [(5, "agv"), (5, 1), (-1,), ("5",), (2.5,), (True,)])
def test_reset_classifier_refuses_the_same_and_changes_nothing(arguments):
    model = timm.create_model(SMALL, num_classes=3).eval()
    before = model(IMAGES)
    with pytest.raises(ArgumentError):
        model.reset_classifier(*arguments)
    assert model.num_classes == 3
    assert torch.equal(model(IMAGES), before)


@pytest.mark.parametrize("builder", [*DETECTORS, mnv2zoo.segmentation.lraspp, mnv2zoo.segmentation.deeplabv3])
def test_heads_refuse_the_same(builder):
    for wrong in ({"num_classes": 0}, {"num_classes": True}, {"num_classes": 2, "in_chans": 0}):
        with pytest.raises(ArgumentError):
            builder(SMALL, **wrong)
    with pytest.raises(ArgumentError):
        builder(SMALL, 2, trainable_backbone_layers=1.5)


def test_padding_has_one_spelling(tmp_path):
    state = random_state_dict(SMALL)
    images = torch.rand(1, 3, 64, 64)  # of odd sides, both pad alike
    outputs = {}
    for pad_type in ("symmetric", "", "same", "SAME"):
        model = timm.create_model(SMALL, pad_type=pad_type).eval()
        model.load_state_dict(state)
        outputs[pad_type] = model(images)
    theirs = timm.create_model("mobilenetv2_035").eval()
    theirs.load_state_dict(state)
    assert torch.equal(outputs["symmetric"], outputs[""])
    assert torch.equal(outputs["same"], outputs["SAME"])
    assert not torch.allclose(outputs["symmetric"], outputs["same"], rtol=1e-2)
    torch.testing.assert_close(outputs["symmetric"], theirs(images), rtol=1e-4, atol=1e-3)
    for written in ("", "symmetric"):
        run, _ = write_run(tmp_path / f"run{written}", edit=lambda d, w=written: d["model_args"].update(pad_type=w))
        assert names.describe(str(run)).arguments["pad_type"] == "symmetric"
        assert recipe.make(pad_type=written).pad_type == "symmetric"
    with pytest.raises(RecipeError, match="same"):
        recipe.make(pad_type="smae")


# Normalization and channels


@pytest.mark.parametrize(
    ("mean", "channels", "expected"),
    [
        ((0.1, 0.2, 0.3, 0.9), 4, (0.1, 0.2, 0.3, 0.9)),
        ((0.1, 0.2, 0.3, 0.9), 3, (0.1, 0.2, 0.3)),
        ((0.1, 0.2, 0.3), 5, (0.1, 0.2, 0.3, 0.1, 0.2)),
        ((0.1, 0.2, 0.6), 1, (0.3,)),
        ((0.4,), 3, (0.4, 0.4, 0.4)),
        ((0.4,), 1, (0.4,)),
        ((0.1, 0.2), 2, (0.1, 0.2)),
        ((0.1, 0.2), 3, (0.1, 0.2, 0.1)),
    ],
)
@pytest.mark.parametrize("builder", DETECTORS)
def test_detectors_normalize_as_the_weights_say_at_any_number_of_channels(tmp_path, builder, mean, channels, expected):
    own = len(mean)
    run, _ = write_run(tmp_path / "run", own, mean, tuple(m + 1 for m in mean))
    transform = builder(SMALL, 2, pretrained_backbone=str(run), in_chans=channels).transform
    assert transform.image_mean == pytest.approx(expected)
    assert transform.image_std == pytest.approx([m + 1 for m in expected])
    image = torch.rand(channels, 32, 32)
    by_hand = (image - torch.tensor(expected).view(-1, 1, 1)) / torch.tensor([m + 1 for m in expected]).view(-1, 1, 1)
    torch.testing.assert_close(transform.normalize(image), by_hand)


def test_repeated_weights_and_numbers_belong_together():
    # A stem that timm repeats for six channels, on an image twice over, gives what it gave for three.
    weight = torch.rand(8, 3, 3, 3)
    image, mean = torch.rand(1, 3, 9, 9), (0.2, 0.4, 0.7)
    normalized = [
        torch.cat([image] * (channels // 3), 1)
        - torch.tensor(preprocessing.per_channel(mean, channels)).view(1, -1, 1, 1)
        for channels in (3, 6)
    ]
    wide = timm.models.adapt_input_conv(6, weight)
    torch.testing.assert_close(
        nn.functional.conv2d(normalized[1], wide), nn.functional.conv2d(normalized[0], weight), rtol=1e-4, atol=1e-5
    )


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(("in_chans", "mean", "std"), [(1, (0.3,), (0.2,)), (3, (0.3,), (0.2,))])
def test_one_number_normalizes_every_channel(tmp_path, photo, in_chans, mean, std, exact):
    shorten = {"mean": list(mean), "std": list(std)}
    run, model = write_run(
        tmp_path / "run", in_chans, mean, std, edit=lambda document: document["pretrained_cfg"].update(shorten)
    )
    # The luminance, for one channel.
    image = Image.open(photo).convert("RGB" if in_chans == 3 else "L")
    with torch.no_grad():
        expected = model((pil_to_tensor(image)[None] / 255 - mean[0]) / std[0]).softmax(1)[0]
    [row] = mnv2zoo.predict([photo], str(run), device="cpu", exact=exact)
    found = {p["class"]: p["score"] for p in row["predictions"]}
    assert [found[0], found[1]] == pytest.approx(expected.tolist(), abs=1e-3)


def test_evaluation_and_calibration_see_gray_images_as_prediction_does(tmp_path, photo):
    run, _ = write_run(tmp_path / "run", 1)
    expected = (pil_to_tensor(Image.open(photo).convert("L")) / 255 - 0.5) / 0.25
    torch.testing.assert_close(pretrained.load(str(run), "cpu").transform(Image.open(photo)), expected)
    built = names.describe(str(run)).build().eval()
    for label in ("a", "b"):
        (tmp_path / "data" / label).mkdir(parents=True)
        Image.open(photo).save(tmp_path / "data" / label / "1.png")
    scores = mnv2zoo.evaluate(tmp_path / "data", str(run), device="cpu")
    assert scores.top1 == 50.0  # the same photo in both classes
    folder = mnv2zoo.deploy.calibration.prepare(tmp_path / "data", built, expected[None])
    torch.testing.assert_close(folder.images, torch.stack([expected, expected]))


def test_photos_are_refused_before_they_are_read_where_a_network_takes_more_channels_than_files_have(tmp_path):
    run, _ = write_run(tmp_path / "run", 9, (0.5,) * 9, (0.5,) * 9)
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    with pytest.raises(DataError) as error:
        list(mnv2zoo.predict([tmp_path / "broken.jpg"], str(run), device="cpu"))
    assert error.value.found == "in_chans=9"


@pytest.mark.parametrize("in_chans", [2, 4])
def test_a_photo_with_other_channels_than_the_network_takes_is_left_out(photo, tmp_path, in_chans):
    run, _ = write_run(tmp_path / "run", in_chans, (0.5,) * in_chans, (0.5,) * in_chans)
    (left_out,) = mnv2zoo.predict([photo], str(run), device="cpu")
    assert isinstance(left_out, ImageReadError)
    assert f"{in_chans} channels" in str(left_out)


@pytest.mark.parametrize("in_chans", [1, 4])
def test_a_teacher_that_sees_other_channels_is_refused_before_anything_is_made(tmp_path, in_chans):
    run, _ = write_run(tmp_path / "run", in_chans)
    with pytest.raises(RecipeError) as error:
        initialization.find(SMALL, recipe.make(init="random", teacher=str(run)))
    assert error.value.where == "teacher"


@pytest.mark.parametrize("mean", [[0.5, 0.5], [], 0.5, [0.5] * 4, ["0.5"]])
def test_a_mean_for_other_channels_is_refused(tmp_path, mean):
    run, _ = write_run(tmp_path / "run", edit=lambda document: document["pretrained_cfg"].update(mean=mean))
    with pytest.raises(WeightsUnavailableError, match="mean"):
        names.describe(str(run))


def test_converted_one_channel_weights_get_a_normalization_for_one_channel(tmp_path):
    state = random_state_dict(SMALL, num_classes=2, in_chans=1)
    safetensors.torch.save_file(state, tmp_path / "gray.safetensors")
    made = from_checkpoint.convert_checkpoint(
        tmp_path / "gray.safetensors",
        tmp_path / "out",
        preprocessing={"input_size": 96, "mean": (0.3,)},
    )
    assert made.preprocessing["input_size"] == (1, 96, 96)
    assert made.preprocessing["mean"] == pytest.approx((0.3,))
    cfg = json.loads((tmp_path / "out" / "config.json").read_text())["pretrained_cfg"]
    assert cfg["mean"] == pytest.approx([0.3])
    assert cfg["std"] == pytest.approx([(0.229 + 0.224 + 0.225) / 3], abs=1e-6)  # the average of the usual ones
    assert cfg["input_size"] == [1, 96, 96]


# Heads


SEGMENTERS = pytest.mark.parametrize(
    ("builder", "options"),
    [
        (mnv2zoo.segmentation.lraspp, {}),
        (mnv2zoo.segmentation.deeplabv3, {}),
        (mnv2zoo.segmentation.deeplabv3, {"aspp": False, "output_stride": 8}),
    ],
)


@needs_torchscript
@SEGMENTERS
def test_segmenters_can_be_scripted(builder, options):
    segmenter = builder(SMALL, 3, **options).eval()
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(segmenter), buffer)
    buffer.seek(0)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(buffer)(IMAGES)["out"], segmenter(IMAGES)["out"])


@SEGMENTERS
def test_segmenters_can_be_exported(builder, options):
    segmenter = builder(SMALL, 3, **options).eval()
    with torch.no_grad():
        expected = segmenter(IMAGES)["out"]
        torch.testing.assert_close(torch.export.export(segmenter, (IMAGES,)).module()(IMAGES)["out"], expected)


@pytest.mark.parametrize("builder", DETECTORS[1:])
def test_levels_of_a_pyramid_are_in_order_or_refused(builder):
    for wrong in (["Bottleneck_14", "Bottleneck_7"], ["Bottleneck_7", "Bottleneck_7"], []):
        with pytest.raises(TapError):
            builder(SMALL, 2, levels=wrong)
    detector = mnv2zoo.detection.retinanet(SMALL, 2, levels=["Bottleneck_3", "Bottleneck_17"])
    # Four times the reductions of the levels (4, 32) and of the two that are added.
    assert [sizes[0] for sizes in detector.anchor_generator.sizes] == [16, 128, 256, 512]


# config.json and names of classes


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"architecture": [], "pretrained_cfg": {}}', "architecture = []"),
        ('{"architecture": {"a": 1}}', "architecture"),
        ('{"pretrained_cfg": {}}', "architecture = None"),
        ("[]", "list"),
        ("null", "NoneType"),
        ("", "JSONDecodeError"),
        ("[" * 100_000, "RecursionError"),
        ('{"architecture": "mnv2zoo_035", "pretrained_cfg": []}', "pretrained_cfg = []"),
        ('{"architecture": "mnv2zoo_035", "pretrained_cfg": {}, "model_args": "x"}', "model_args = 'x'"),
    ],
)
def test_a_config_file_with_the_wrong_kind_of_value_is_named(tmp_path, photo, text, found):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(text)
    for use in (names.describe, lambda name: list(mnv2zoo.predict([photo], name, device="cpu"))):
        with pytest.raises(WeightsUnavailableError) as error:
            use(str(tmp_path / "run"))
        assert found in error.value.found
        assert error.value.fix


@pytest.mark.parametrize("value", [[], {}, None, 5])
def test_packing_a_run_with_another_kind_of_architecture_is_a_clear_error(tmp_path, value):
    run, _ = write_run(tmp_path / "run", edit=lambda document: document.update(architecture=value))
    with pytest.raises(WeightsError) as error:
        packaging._document(run / "config.json", architecture.get(SMALL), f"{SMALL}.own")
    assert error.value.found == repr(value)


@pytest.mark.parametrize("name", ["a\nb", "a\r", "\x0b", "x\u2028y", "end\n", "\x85"])
def test_a_class_name_with_a_line_end_is_refused(tmp_path, name):
    model = timm.create_model(SMALL, num_classes=2).eval()
    with pytest.raises(DataError) as error:
        files.model_files(model, {}, ["fine", name])
    assert error.value.found == repr(name)
    target = names.describe(SMALL)
    with pytest.raises(DataError):
        initialization.build(target, None, recipe.make(init="random"), ["fine", name], [])
    model.pretrained_cfg["label_names"] = ["fine", name]
    with pytest.raises(DataError):
        mnv2zoo.deploy.export(model, tmp_path / "bundle", format="onnx")
    assert not (tmp_path / "bundle").exists()
    edit = {"label_names": ["fine", name]}
    run, _ = write_run(tmp_path / "run", edit=lambda document: document.update(edit))
    with pytest.raises(WeightsUnavailableError, match="label_names with a line break"):
        names.describe(str(run))


def test_class_names_of_one_line_are_kept(tmp_path):
    labels = ["Żółw", "family 👨‍👩‍👧", "tab\tand space "]
    run, _ = write_run(tmp_path / "run", labels=labels)
    assert list(names.describe(str(run)).label_names) == labels
    assert (run / "labels.txt").read_text(encoding="utf-8").splitlines() == labels

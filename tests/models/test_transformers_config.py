"""What transformers saves opens as it is: the same logits, names and preprocessing."""

import hashlib
import json
import warnings

import pytest
import safetensors.torch
import timm
import torch
from PIL import Image

import mnv2zoo
from mnv2zoo import convert
from mnv2zoo.data import preprocessing
from mnv2zoo.errors import ConversionError, UnpinnedWeightsError, WeightsUnavailableError
from mnv2zoo.models import names, pretrained, transformers_config
from mnv2zoo.weights import store
from tests.conftest import GOOGLE, ROOT, needs_google
from tests.convert.networks import theirs

transformers = pytest.importorskip("transformers")
REPOSITORY = "google/mobilenet_v2_1.0_224"
IMAGENET = ["background", *mnv2zoo.weights.entry("mnv2zoo_100").label_names]


def save(folder, model, **processor):
    model.float().save_pretrained(folder)
    transformers.MobileNetV2ImageProcessor(**processor).save_pretrained(folder)
    return folder


def with_names(model, label_names):
    model.config.id2label = dict(enumerate(label_names))
    model.config.label2id = {name: index for index, name in enumerate(label_names)}
    return model


@pytest.fixture(scope="session")
def google(made_once):
    """Google's weights as transformers saves them, with the background as class 0."""

    def make(folder):
        state = convert.read(GOOGLE).tensors
        # The statistics were measured on few photos; transformers' batch norms need a variance of epsilon or more.
        state = {key: value.clamp(min=1e-3) if key.endswith("running_var") else value for key, value in state.items()}
        there = convert.from_native(state, "mnv2zoo_100", "transformers")
        for key in ("classifier.weight", "classifier.bias"):
            there[key] = torch.cat([there[key].mean(0, keepdim=True), there[key]])
        model = transformers.MobileNetV2ForImageClassification(transformers.MobileNetV2Config(num_labels=1001))
        model.load_state_dict(there)
        save(folder, with_names(model, IMAGENET))

    return made_once("google", make)


@pytest.fixture
def google_hub(hub, google):
    for file in google.iterdir():
        hub.add(REPOSITORY, file.name, file.read_bytes(), lfs=file.suffix == ".safetensors")
    return hub


def theirs_in(folder, images):
    model = transformers.MobileNetV2ForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(images).logits


@needs_google
@pytest.mark.parametrize("place", ["hub", "local-dir", "folder"])
def test_googles_repository_gives_the_logits_that_transformers_gives(google, google_hub, place):
    name = {"hub": f"hf-hub:{REPOSITORY}", "local-dir": f"local-dir:{google}", "folder": str(google)}[place]
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # trusted on first use
        net = pretrained.load(name, "cpu")
    with torch.no_grad():
        found = net.model(images)
    expected = theirs_in(google, images)[:, 1:]
    assert expected.std() > 0.5
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert list(net.label_names) == IMAGENET[1:]
    told = {key: net.config[key] for key in ("input_size", "mean", "std", "interpolation", "crop_pct")}
    assert told == {
        **{"input_size": (3, 224, 224), "mean": (0.5,) * 3, "std": (0.5,) * 3},
        **{"interpolation": "bilinear", "crop_pct": 0.875},
    }


@needs_google
def test_the_index_entry_of_googles_repository_is_the_same_network(google, google_hub):
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="trusted on first use"):
        net = timm.create_model("mnv2zoo_100.google_in1k", pretrained=True).eval()
    assert type(net.conv_stem).__name__ == "Conv2dSame"
    with torch.no_grad():
        torch.testing.assert_close(net(images), theirs_in(google, images)[:, 1:], rtol=1e-4, atol=1e-4)
    described, on_hub = names.describe("mnv2zoo_100.google_in1k"), names.describe(f"hf-hub:{REPOSITORY}")
    assert described.arguments == on_hub.arguments == {"pad_type": "same"}
    assert described.preprocessing == preprocessing.from_cfg(on_hub.cfg)
    assert list(described.label_names) == list(on_hub.label_names) == IMAGENET[1:]


@needs_google
def test_a_photo_gets_the_label_and_the_score_that_transformers_gives_it(google, google_hub):
    photo = ROOT / "examples/coffee.jpg"
    (row,) = mnv2zoo.predict([photo], f"local-dir:{google}", device="cpu")
    processor = transformers.MobileNetV2ImageProcessor.from_pretrained(google)
    scores = theirs_in(google, processor(Image.open(photo), return_tensors="pt")["pixel_values"])[0, 1:].softmax(0)
    best = row["predictions"][0]
    assert (best["class"], best["label"]) == (int(scores.argmax()), IMAGENET[1:][int(scores.argmax())])
    assert best["score"] == pytest.approx(
        float(scores.max()), abs=0.02
    )  # the filters that resize differ in the last bit


@needs_google
def test_later_commits_are_refused_and_pinning_can_be_demanded(google, google_hub, monkeypatch):
    with pytest.warns(UserWarning, match="trusted on first use"):
        names.describe(f"hf-hub:{REPOSITORY}").build()
    google_hub.add(REPOSITORY, "model.safetensors", safetensors.torch.save({"a": torch.ones(1)}))
    again = names.describe(f"hf-hub:{REPOSITORY}").build()
    assert again.num_classes == 1000  # the first commit's
    monkeypatch.setenv("MNV2ZOO_REQUIRE_PINNED", "1")
    with pytest.raises(UnpinnedWeightsError):
        names.describe(f"hf-hub:{REPOSITORY}").build()


@needs_google
def test_pinning_the_entry_gives_commit_and_hash(google, google_hub):
    entry = store.pin(mnv2zoo.weights.entry("mnv2zoo_100.google_in1k"))
    data = (google / "model.safetensors").read_bytes()
    assert (entry.sha256, entry.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert len(entry.revision) == 40


def test_a_repository_without_safetensors_is_an_error_that_names_the_file(small, hub, tmp_path):
    small()
    for file in (tmp_path / "config.json", tmp_path / transformers_config.PREPROCESSOR):
        hub.add("google/old", file.name, file.read_bytes(), lfs=False)
    hub.add("google/old", "pytorch_model.bin", b"data")
    with pytest.raises(WeightsUnavailableError) as error:
        names.describe("hf-hub:google/old").build()
    assert error.value.expected == "model.safetensors of google/old on the Hub"


def test_a_repository_is_read_at_one_commit(small, hub, tmp_path):
    small()
    for file in sorted(tmp_path.glob("*.json")):
        hub.add("google/small", file.name, file.read_bytes(), lfs=False)
    hub.add("google/small", "model.safetensors", (tmp_path / "model.safetensors").read_bytes())
    described = names.describe("hf-hub:google/small")
    assert (list(described.label_names), described.cfg["hf_hub_id"]) == (["cat", "dog"], "google/small")
    paths = [request.path for request in hub.requests if request.path.endswith(".json")]
    (commit,) = {path.split("/")[4] for path in paths if "preprocessor" in path}
    assert len(commit) == 40


@pytest.mark.parametrize(("width", "name"), [(0.35, "mnv2zoo_035"), (0.75, "mnv2zoo_075"), (1.4, "mnv2zoo_140")])
@pytest.mark.parametrize("tf_padding", [True, False])
def test_every_width_and_either_padding_opens(tmp_path, width, name, tf_padding):
    model = theirs("transformers", name, num_classes=3, tf_padding=tf_padding)
    side = {"height": 96, "width": 96}
    folder = save(tmp_path, with_names(model, ["a", "b", "c"]), size={"shortest_edge": 128}, crop_size=side)
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    described = names.describe(str(folder))
    assert (described.config.name, list(described.label_names)) == (name, ["a", "b", "c"])
    assert described.arguments["pad_type"] == ("same" if tf_padding else "symmetric")
    assert (described.cfg["input_size"], described.cfg["crop_pct"]) == ([3, 96, 96], 0.75)
    with torch.no_grad():
        torch.testing.assert_close(described.build().eval()(images), theirs_in(folder, images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("output_stride", [16, 8])
def test_dilated_networks_open(tmp_path, output_stride):
    folder = save(tmp_path, theirs("transformers", "mnv2zoo_035", num_classes=3, output_stride=output_stride))
    images = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = names.describe(str(folder)).build().eval()(images)
    torch.testing.assert_close(found, theirs_in(folder, images), rtol=1e-3, atol=1e-4)


def test_unnamed_classes_are_numbered(tmp_path):
    folder = save(tmp_path, theirs("transformers", "mnv2zoo_035", num_classes=3))
    assert list(names.describe(str(folder)).label_names) == ["0", "1", "2"]


def test_a_backbone_opens_without_classifier(tmp_path):
    folder = save(tmp_path, theirs("transformers", "mnv2zoo_035").mobilenet_v2)
    built = names.describe(str(folder)).build()
    assert built.num_classes == 0
    expected = convert.to_native(convert.read(folder / "model.safetensors").tensors, "mnv2zoo_035")
    assert all(torch.equal(value, expected[key]) for key, value in built.state_dict().items())


@pytest.fixture
def small(tmp_path):
    """A folder of transformers, and a function that changes its two documents."""
    save(tmp_path, with_names(theirs("transformers", "mnv2zoo_035", num_classes=2), ["cat", "dog"]))

    def change(file="config.json", **fields):
        document = json.loads((tmp_path / file).read_text())
        (tmp_path / file).write_text(json.dumps({**document, **fields}))
        return str(tmp_path)

    return change


@pytest.mark.parametrize(
    ("fields", "expected", "found"),
    [
        ({"model_type": "vit"}, "model_type 'mobilenet_v2'", "'vit'"),
        ({"model_type": "mobilenet_v1"}, "model_type 'mobilenet_v2'", "'mobilenet_v1'"),
        ({"architectures": ["MobileNetV2ForSemanticSegmentation"]}, None, "MobileNetV2ForSemanticSegmentation"),
        ({"depth_multiplier": 1.3}, "0.35, 0.5, 0.75, 1, 1.4", "1.3"),
        ({"num_channels": 10**9}, "1 to 1000000", "1000000000"),
        ({"id2label": None, "num_labels": 10**9}, "1 to 1000000", "1000000000"),
        ({"hidden_act": "gelu"}, "hidden_act = 'relu6'", "'gelu'"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps = 0.001", "1e-05"),
        ({"id2label": {"1": "cat", "2": "dog"}}, None, "{'1': 'cat', '2': 'dog'}"),
        ({"id2label": {str(n): f"class {n}" for n in range(1001)}}, "'background' as class 0", "'class 0'"),
    ],
    ids=str,
)
def test_another_network_is_refused_by_what_it_is(small, fields, expected, found):
    with pytest.raises(WeightsUnavailableError) as error:
        names.describe(small(**fields))
    assert (expected or error.value.expected, found) == (error.value.expected, error.value.found)
    assert error.value.fix


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"do_resize": False}, "do_resize = False"),
        ({"do_normalize": False}, "do_normalize = False"),
        ({"rescale_factor": 1 / 127.5}, f"rescale_factor = {1 / 127.5}"),
        ({"resample": 9}, "resample = 9"),
        ({"do_center_crop": False}, "do_center_crop = False"),
        ({"crop_size": {"height": 224, "width": 192}}, "crop_size = {'height': 224, 'width': 192}"),
        ({"size": {"shortest_edge": 200}}, "size = {'shortest_edge': 200}"),
    ],
    ids=str,
)
def test_preprocessing_that_cannot_be_followed_is_refused(small, fields, found):
    with pytest.raises(WeightsUnavailableError) as error:
        names.describe(small(transformers_config.PREPROCESSOR, **fields))
    assert error.value.found == found


@pytest.mark.parametrize(
    ("fields", "size", "crop_pct", "mode"),
    [
        ({"size": 192, "crop_size": 160}, [3, 160, 160], 160 / 192, None),
        ({"size": {"height": 96, "width": 64}, "do_center_crop": False}, [3, 96, 64], 1.0, "squash"),
    ],
    ids=str,
)
def test_sizes_are_read_in_every_form(small, fields, size, crop_pct, mode):
    cfg = names.describe(small(transformers_config.PREPROCESSOR, **fields)).cfg
    assert (cfg["input_size"], cfg["crop_pct"], cfg.get("crop_mode")) == (size, pytest.approx(crop_pct), mode)


def test_every_share_gives_back_the_side_that_it_was_made_of():
    for side in range(32, 300, 16):
        for short in range(side, side + 80):
            stored = {"size": {"shortest_edge": short}, "crop_size": {"height": side, "width": side}}
            assert int(side / transformers_config._size(stored, 3, None)["crop_pct"]) == short


def test_unknown_preprocessing_is_refused(small, tmp_path):
    (tmp_path / transformers_config.PREPROCESSOR).unlink()
    with pytest.raises(WeightsUnavailableError) as error:
        names.describe(small())
    assert "preprocessor_config.json" in error.value.expected
    assert "save_pretrained" in error.value.fix


def test_weights_of_other_classes_than_the_names_are_refused(small):
    with pytest.raises(ConversionError):
        names.describe(small(id2label={"0": "a", "1": "b", "2": "c"})).build()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model_type": "mobilenet_v2", "id2label": 5}'])
def test_damaged_files_are_one_error(small, tmp_path, text):
    folder = small()
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(WeightsUnavailableError):
        names.describe(folder)

"""From a run to a package: what is refused, what is written, and that it loads again."""

import hashlib
import inspect
import json
import shutil

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from timm.models._hub import save_config_for_hf

from mnv2zoo import weights
from mnv2zoo.errors import ConversionError, UnknownModelError, WeightsIndexError
from mnv2zoo.model_dir import packaging
from mnv2zoo.models import registry
from mnv2zoo.models.mobilenetv2 import MobileNetV2
from mnv2zoo.weights import index
from tests.conftest import as_bytes, random_state_dict, raw_entry

NAME = "mnv2zoo_035.flowers"
LABELS = ("daisy", 'rosé "d\'or"', "- tulip: #1")
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
RESULTS = {"val": {"images": 8, "loss": 0.2, "top1": 93.75, "top5": 100.0}, "test": {"top1": 87.5, "top5": 100.0}}


def make_run(folder, name="mnv2zoo_035", labels=LABELS, results=RESULTS, card=True, **arguments):
    """A folder as fine-tuning leaves it, with random weights. The arguments go to the model."""
    folder.mkdir(parents=True)
    model = timm.create_model(name, num_classes=len(labels), **arguments)
    save_config_for_hf(model, folder / "config.json", model_config={"label_names": labels})
    tensors = random_state_dict(name, num_classes=len(labels), **arguments)
    (folder / "model.safetensors").write_bytes(as_bytes(tensors))
    (folder / "labels.txt").write_text("\n".join(labels))
    (folder / "recipe.json").write_text("{}")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/last.pt").write_bytes(b"not to be packed")
    if results is not None:
        (folder / "results.json").write_text(json.dumps(results))
    if card:
        found = EvalResult("image-classification", "imagefolder", "flowers", "accuracy", 1.0, metric_name="top-1")
        data = ModelCardData(
            tags=["flowers"], base_model="timm/mobilenetv2_035", model_name="run", eval_results=[found]
        )
        (folder / "README.md").write_text(f"---\n{data.to_yaml()}\n---\n\n# Flowers — 3 of them\n", encoding="utf-8")
    return folder


@pytest.fixture
def flowers(tmp_path):
    return make_run(tmp_path / "run")


def change(path, function):
    """Edits a JSON file."""
    document = json.loads(path.read_text())
    function(document)
    path.write_text(json.dumps(document))


def reference(run, images=IMAGES, name="mnv2zoo_035", **arguments):
    """The logits that a run's own network gives."""
    model = timm.create_model(name, num_classes=len(LABELS), **arguments).eval()
    model.load_state_dict(safetensors.torch.load_file(run / "model.safetensors"))
    return model(images)


def test_a_package_holds_the_runs_own_bytes_and_their_true_hash(flowers):
    package = packaging.pack(flowers, NAME, "CC-BY-4.0", description="three flowers")
    assert package.directory == flowers / "package"
    assert {path.name for path in package.directory.iterdir()} == {
        "model.safetensors",
        "config.json",
        "README.md",
        "index_entry.json",
    }
    data = (package.directory / "model.safetensors").read_bytes()
    assert data == (flowers / "model.safetensors").read_bytes()
    entry = package.entry
    assert (entry.sha256, entry.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert (entry.license, entry.description, entry.origin) == ("CC-BY-4.0", "three flowers", None)
    assert (entry.num_classes, entry.label_names, entry.layout) == (3, LABELS, "timm")
    assert json.loads((package.directory / "index_entry.json").read_text()) == {NAME: entry.to_json()}


def test_the_figures_are_those_of_the_test_images_where_there_are_any(tmp_path):
    def metrics(name, results):
        return packaging.pack(make_run(tmp_path / name, results=results), NAME, "MIT").entry.metrics

    assert metrics("both", RESULTS) == {"top1": 87.5, "top5": 100.0}
    assert metrics("val", {"val": RESULTS["val"]}) == {"top1": 93.75, "top5": 100.0}
    assert metrics("empty", {"test": None, "val": {"loss": 0.1}}) == {}
    assert metrics("none", None) == {}


def test_the_entry_tells_of_the_size_that_was_evaluated(flowers):
    change(
        flowers / "config.json",
        lambda document: document["pretrained_cfg"].update(test_input_size=[3, 256, 256], test_crop_pct=1.0),
    )
    entry = packaging.pack(flowers, NAME, "MIT").entry
    assert (entry.input_size, entry.crop_pct) == ((3, 256, 256), 1.0)


def test_the_config_says_nothing_of_the_weights_that_the_run_started_from(flowers):
    facts = {
        "tag": "ra_in1k",
        "license": "Apache-2.0",
        "origin_url": "https://example.org",
        "description": "ImageNet",
        "hf_hub_filename": "other.safetensors",
    }
    change(flowers / "config.json", lambda document: document["pretrained_cfg"].update(facts))
    package = packaging.pack(flowers, NAME, "MIT")
    cfg = json.loads((package.directory / "config.json").read_text())["pretrained_cfg"]
    assert (cfg["tag"], cfg["license"]) == ("flowers", "MIT")
    assert not {"origin_url", "description", "hf_hub_filename"} & cfg.keys()


@pytest.mark.parametrize("license", ["CC-BY-4.0", "House License 1"])
def test_the_card_is_the_runs_with_license_name_and_figures(flowers, license):
    package = packaging.pack(flowers, NAME, license)
    card = ModelCard.load(package.directory / "README.md")
    assert card.text.startswith(ModelCard.load(flowers / "README.md").text)
    assert (card.data.base_model, card.data.model_name) == ("timm/mobilenetv2_035", NAME)
    assert set(card.data.tags) == {"flowers", "image-classification", "timm", "mnv2zoo"}
    # The Hub knows a license by its own name only.
    named = ("cc-by-4.0", None) if license == "CC-BY-4.0" else ("other", license)
    assert (card.data.license, card.data.get("license_name")) == named
    found = {(e.dataset_name, e.dataset_split, e.metric_name): e.metric_value for e in card.data.eval_results}
    assert found == {
        ("flowers", "validation", "top-1 accuracy (%)"): 93.75,
        ("flowers", "validation", "top-5 accuracy (%)"): 100.0,
        ("flowers", "test", "top-1 accuracy (%)"): 87.5,
        ("flowers", "test", "top-5 accuracy (%)"): 100.0,
    }


def test_a_run_without_card_gets_one(tmp_path):
    run = make_run(tmp_path / "run", card=False)
    package = packaging.pack(run, NAME, "MIT", repo_id="zoo/flowers", description="three flowers")
    card = ModelCard.load(package.directory / "README.md")
    assert (card.data.license, card.data.model_name, card.data.library_name) == ("mit", NAME, "timm")
    assert len(card.data.eval_results) == 4
    for text in (NAME, "three flowers", "hf-hub:zoo/flowers", *LABELS):
        assert text in card.text


def test_a_card_that_cannot_be_read_is_told(flowers):
    (flowers / "README.md").write_text("---\ntags: [\n---\n")
    with pytest.raises(weights.WeightsError, match=r"README\.md"):
        packaging.pack(flowers, NAME, "MIT")


@pytest.mark.parametrize("labels", [LABELS, ("Straße/Ärger", "日本語 🌷", "null")])
def test_a_package_on_the_hub_loads_and_gives_the_same_logits(hub, overlay, tmp_path, labels):
    run = make_run(tmp_path / "a run, with spaces", labels=labels)
    package = packaging.pack(run, NAME, "MIT", repo_id="zoo/flowers")
    for name in packaging.PUSHED:
        hub.add("zoo/flowers", name, (package.directory / name).read_bytes(), lfs=name == packaging.WEIGHTS)

    with pytest.warns(UserWarning, match=package.entry.sha256):
        model = timm.create_model("hf-hub:zoo/flowers", pretrained=True).eval()
    torch.testing.assert_close(model(IMAGES), reference(run), rtol=0, atol=0)
    assert model.pretrained_cfg["label_names"] == list(labels)

    overlay(package.index_entry())
    by_name = timm.create_model(NAME, pretrained=True).eval()
    torch.testing.assert_close(by_name(IMAGES), reference(run), rtol=0, atol=0)
    assert weights.entry(NAME).label_names == labels


def test_without_a_repository_the_file_lies_beside_the_index(flowers, overlay, tmp_path):
    package = packaging.pack(flowers, NAME, "MIT")
    shutil.copy(package.directory / "model.safetensors", tmp_path / f"{NAME}.safetensors")
    assert overlay(package.index_entry()).parent == tmp_path
    model = timm.create_model(NAME, pretrained=True).eval()
    torch.testing.assert_close(model(IMAGES), reference(flowers), rtol=0, atol=0)
    model = timm.create_model(f"local-dir:{package.directory}", pretrained=True).eval()
    torch.testing.assert_close(model(IMAGES), reference(flowers), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("mnv2zoo_035", {"pad_type": "same"}),
        ("mnv2zoo_035", {"bn_eps": 1e-3}),
        ("mnv2zoo_035", {"in_chans": 1}),
        ("mnv2zoo_035", {"act_layer": "hard_swish"}),
        ("mnv2zoo_035", {"output_stride": 16}),
        ("mnv2zoo_035", {"global_pool": "max"}),
        ("mnv2zoo_050_c20", {"classifier": "conv"}),
    ],
    ids=str,
)
def test_what_an_entry_cannot_say_makes_no_entry(tmp_path, architecture, arguments):
    run = make_run(tmp_path / "run", architecture, **arguments)
    package = packaging.pack(run, f"{architecture}.own", "MIT")
    assert package.beyond == arguments
    assert json.loads((package.directory / "index_entry.json").read_text()) == package.index_entry() == {}
    # The folder carries it.
    model = timm.create_model(f"local-dir:{package.directory}", pretrained=True).eval()
    images = IMAGES[:, : arguments.get("in_chans", 3)]
    torch.testing.assert_close(model(images), reference(run, images, architecture, **arguments), rtol=0, atol=0)


def test_a_run_of_plain_timm_is_packed_under_our_name(flowers):
    change(flowers / "config.json", lambda document: document.update(architecture="mobilenetv2_035"))
    package = packaging.pack(flowers, NAME, "MIT")
    assert package.entry.architecture == "mnv2zoo_035"
    document = json.loads((package.directory / "config.json").read_text())
    assert (document["architecture"], document["label_names"]) == ("mobilenetv2_035", list(LABELS))
    assert document["pretrained_cfg"]["notes"] == ["mnv2zoo"]


def test_what_only_training_uses_or_is_the_default_stands_in_no_entrys_way(tmp_path):
    arguments = {"bn_momentum": 0.01, "drop_rate": 0.2, "pad_type": "", "act_layer": "relu6", "classifier": "linear"}
    assert packaging.pack(make_run(tmp_path / "run", **arguments), NAME, "MIT").beyond == {}


def test_a_crop_that_an_entry_cannot_say_makes_no_entry(flowers):
    change(flowers / "config.json", lambda document: document["pretrained_cfg"].update(crop_mode="squash"))
    assert packaging.pack(flowers, NAME, "MIT").beyond == {"crop_mode": "squash"}


def test_the_arguments_that_are_told_apart_are_the_networks_own():
    known = {*packaging.AS_PUBLISHED, *packaging.FROM_CONFIG, *packaging.NO_DEFAULT, *packaging.NOT_COMPUTED}
    assert known == set(registry.MODEL_ARGUMENTS) - {"device", "dtype"}  # timm records no placement
    defaults = {name: p.default for name, p in inspect.signature(MobileNetV2).parameters.items()}
    model = timm.create_model("mnv2zoo_035")
    published = {name: defaults[name] for name in packaging.AS_PUBLISHED}
    assert published | {"bn_eps": model.bn1.eps} == packaging.AS_PUBLISHED


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_folder_that_is_no_run_is_told(flowers, file):
    (flowers / file).unlink()
    with pytest.raises(weights.WeightsError, match=f"is not a finished run\n  expected: a {file} from "):
        packaging.pack(flowers, NAME, "MIT")
    assert not (flowers / "package").exists()


def damaged(tensors, key, value):
    tensors[key].view(-1)[-1] = value
    return as_bytes(tensors)


def without(tensors, key):
    del tensors[key]
    return as_bytes(tensors)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda t: as_bytes(t)[:-1], weights.IntegrityError, "not a safetensors file"),
        (lambda t: b"", weights.IntegrityError, "not a safetensors file"),
        (lambda t: damaged(t, "bn2.running_var", float("nan")), weights.WeightsError, r"(?s)NaN .* bn2\.running_var\n"),
        (lambda t: damaged(t, "blocks.0.0.conv_dw.weight", -float("inf")), weights.WeightsError, "conv_dw"),
        (
            lambda t: without(t, "classifier.bias"),
            ConversionError,
            r"(?s)expected: a tensor \(3,\)\n  found: no such tensor\n.*bias",
        ),
        (lambda t: without(t, "conv_head.weight"), ConversionError, "conv_head"),
        (lambda t: as_bytes(t | {"extra": torch.zeros(1)}), ConversionError, "(?s)expected: no such tensor\n.* extra"),
        (lambda t: as_bytes({f"module.{k}": v for k, v in t.items()}), ConversionError, r"conv_stem\.weight"),
        (lambda t: as_bytes(random_state_dict("mnv2zoo_035", num_classes=4)), ConversionError, r"classifier\.weight"),
        (lambda t: as_bytes(random_state_dict("mnv2zoo_050", num_classes=3)), ConversionError, "expected: a tensor"),
    ],
    ids=["short", "empty", "nan", "inf", "no-bias", "no-head", "extra", "wrapped", "classes", "architecture"],
)
def test_weights_that_are_not_the_networks_are_refused(flowers, make, error, message):
    (flowers / "model.safetensors").write_bytes(make(random_state_dict("mnv2zoo_035", num_classes=3)))
    with pytest.raises(error, match=message) as raised:
        packaging.pack(flowers, NAME, "MIT")
    assert str(flowers / "model.safetensors") in str(raised.value)
    assert raised.value.fix
    assert not (flowers / "package").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "mnv2zoo_100"}, r"(?s)expected: mnv2zoo_035, .* Use the name mnv2zoo_100\.flowers\."),
        ({"architecture": "resnet18"}, "found: 'resnet18'"),
        ({"architecture": None}, "found: None"),
        ({"num_classes": 4}, "model_args"),
        ({"num_classes": 4, "model_args": {}}, "pretrained_cfg"),
        ({"num_classes": 4, "model_args": {}, "pretrained_cfg": {}}, r"classifier\.weight"),
        ({"model_args": [3]}, "expected: an object"),
        ({"model_args": {"width": 2}}, "found: 'width'"),
        ({"pretrained_cfg": None}, "expected: an object"),
        ({"label_names": ["daisy", "rose"]}, "expected: 3 different names\n  found: 2"),
        ({"label_names": ["daisy", "rose", "daisy"]}, "expected: 3 different names\n  found: 2"),
        ({"label_names": ["daisy", "rose", "tu\nlip"]}, "label_names"),
        ({"label_names": {"0": "daisy", "1": "rose", "2": "tulip"}}, "expected: a list of names"),
        ({"pretrained_cfg": {"interpolation": "bicubic"}}, "input_size"),
    ],
    ids=str,
)
def test_a_config_that_fits_not_is_refused(flowers, changes, message):
    change(flowers / "config.json", lambda document: document.update(changes))
    with pytest.raises((weights.WeightsError, ConversionError), match=message) as raised:
        packaging.pack(flowers, NAME, "MIT")
    assert raised.value.fix
    assert not (flowers / "package").exists()


@pytest.mark.parametrize("file", ["config.json", "results.json"])
@pytest.mark.parametrize("text", ["{", "[1]", "", '{"val": {"top1": NaN}, "num_classes": 3}', "\xff", "[" * 10**5])
def test_a_file_that_is_no_json_object_is_told(flowers, file, text):
    (flowers / file).write_bytes(text.encode("latin-1"))
    with pytest.raises(weights.WeightsError, match=f"cannot read {file}\n  expected: a JSON object"):
        packaging.pack(flowers, NAME, "MIT")


@pytest.mark.parametrize("results", [{"test": 87.5}, {"test": {"top1": 101}}, {"test": {"top1": "87.5"}}])
def test_figures_that_are_no_percents_are_refused(flowers, results):
    (flowers / "results.json").write_text(json.dumps(results))
    with pytest.raises(weights.WeightsError, match=r"expected: (metrics by name|numbers from 0 to 100)"):
        packaging.pack(flowers, NAME, "MIT")


@pytest.mark.parametrize(
    ("name", "license", "options", "message"),
    [
        ("mnv2zoo_035", "MIT", {}, r"expected: architecture\.tag"),
        ("mnv2zoo_035.", "MIT", {}, r"expected: architecture\.tag"),
        ("mnv2zoo_035.a/../b", "MIT", {}, r"expected: architecture\.tag"),
        ("mnv2zoo_035.tulpe ü", "MIT", {}, r"expected: architecture\.tag"),
        (NAME, " ", {}, "expected: the name of a license"),
        (NAME, "MIT", {"repo_id": "flowers"}, "expected: owner/name"),
        (NAME, "MIT", {"repo_id": "../flowers"}, "expected: owner/name"),
        (NAME, "MIT", {"description": "two\nlines"}, "expected: one line of text"),
    ],
)
def test_names_that_no_index_takes_are_refused(flowers, name, license, options, message):
    with pytest.raises(weights.WeightsIndexError, match=message):
        packaging.pack(flowers, name, license, **options)
    assert not (flowers / "package").exists()


def test_a_name_of_no_architecture_is_told_with_the_nearest(flowers):
    with pytest.raises(UnknownModelError, match="mnv2zoo_035"):
        packaging.pack(flowers, "mnv2zoo_035x.flowers", "MIT")


def test_a_folder_with_other_things_is_left_alone(flowers, tmp_path):
    for other in (flowers, tmp_path / "other"):
        other.mkdir(exist_ok=True)
        (other / "notes.txt").write_text("mine")
        before = {path: path.read_bytes() for path in other.rglob("*") if path.is_file()}
        with pytest.raises(weights.WeightsError, match="the folder contains other files"):
            packaging.pack(flowers, NAME, "MIT", other)
        assert {path: path.read_bytes() for path in other.rglob("*") if path.is_file()} == before


def test_a_former_package_is_replaced(flowers, tmp_path):
    first = packaging.pack(flowers, NAME, "MIT", tmp_path / "deep/package")
    (flowers / "model.safetensors").write_bytes(as_bytes(random_state_dict("mnv2zoo_035", seed=1, num_classes=3)))
    second = packaging.pack(flowers, NAME, "Apache-2.0", tmp_path / "deep/package")
    assert second.entry.sha256 != first.entry.sha256
    written = json.loads((second.directory / "index_entry.json").read_text())
    assert written == {NAME: second.entry.to_json()}
    data = (second.directory / "model.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == second.entry.sha256


def test_a_package_can_be_packed_again(flowers, tmp_path):
    first = packaging.pack(flowers, NAME, "MIT")
    shutil.copy(flowers / "results.json", first.directory)
    again = packaging.pack(first.directory, NAME, "MIT", tmp_path / "again")
    assert again.entry.to_json() == first.entry.to_json()
    for name in packaging.PUSHED:
        assert (again.directory / name).read_bytes() == (first.directory / name).read_bytes()


@pytest.mark.parametrize("place", ["file", "file/package", "link"])
def test_a_folder_that_cannot_be_written_is_told(flowers, tmp_path, place):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere/at/all/..")
    with pytest.raises(weights.WeightsError, match="cannot write the package") as raised:
        packaging.pack(flowers, NAME, "MIT", tmp_path / place)
    assert str(tmp_path / place) in str(raised.value)


def test_a_read_only_folder_is_told(flowers, tmp_path, monkeypatch):
    # Tests may run as root, whom no mode stops.
    def refuse(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    with pytest.raises(weights.WeightsError, match="found: PermissionError: Permission denied"):
        packaging.pack(flowers, NAME, "MIT")


def test_a_write_that_failed_half_way_can_be_done_again(flowers, monkeypatch):
    whole_file = packaging.whole_file

    def full(path):
        if path.name == "model.safetensors":
            raise OSError(28, "No space left on device", str(path))
        return whole_file(path)

    with monkeypatch.context() as patch:
        patch.setattr(packaging, "whole_file", full)
        with pytest.raises(weights.WeightsError, match="No space left on device"):
            packaging.pack(flowers, NAME, "MIT")
    package = packaging.pack(flowers, NAME, "MIT")
    assert {*packaging.PUSHED, packaging.ENTRY} == {path.name for path in package.directory.iterdir()}


def test_packing_asks_the_hub_nothing(flowers, hub):
    packaging.pack(flowers, NAME, "MIT", repo_id="zoo/flowers")
    assert hub.requests == []


def test_a_package_of_an_index_file_is_one_of_the_index(flowers, overlay):
    entry = packaging.pack(flowers, NAME, "MIT", repo_id="zoo/flowers").entry
    overlay({"mnv2zoo_035.other": raw_entry(), NAME: entry.to_json()})
    assert index.entry(NAME).to_json() == entry.to_json()


def test_offline_nothing_is_pushed(flowers, hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    package = packaging.pack(flowers, NAME, "MIT", repo_id="zoo/flowers")
    with pytest.raises(weights.WeightsError, match=r"(?s)cannot push .*OfflineModeIsEnabled"):
        packaging.push(package)
    assert hub.requests == []


def test_a_package_carries_the_temperature_and_older_runs_have_none(flowers, tmp_path):
    assert "temperature" not in packaging.pack(flowers, NAME, "MIT", tmp_path / "plain").entry.to_json()
    change(flowers / "config.json", lambda config: config.update(temperature=1.25))
    package = packaging.pack(flowers, NAME, "MIT", tmp_path / "package")
    assert package.index_entry()[NAME]["temperature"] == 1.25
    assert json.loads((tmp_path / "package/config.json").read_text())["temperature"] == 1.25
    change(flowers / "config.json", lambda config: config.update(temperature=-1))
    with pytest.raises(WeightsIndexError):
        packaging.pack(flowers, NAME, "MIT", tmp_path / "bad")

"""What a name stands for."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

import mnv2zoo
from mnv2zoo import architecture
from mnv2zoo.errors import UnknownModelError
from mnv2zoo.models import names
from tests.conftest import ROOT, as_bytes, random_state_dict, raw_entry


def test_where_weights_are_is_not_for_the_file_to_say(run_folder):
    elsewhere = {"url": "http://localhost:9/x", "hf_hub_id": "a/b", "file": "/etc/passwd", "custom_load": True}
    description = names.describe(run_folder({**elsewhere, "state_dict": {}}))
    assert description.cfg["file"] == run_folder()
    assert not any(description.cfg[name] for name in ("url", "hf_hub_id", "custom_load", "state_dict"))


WITHOUT_TORCH = """
import sys
import _mnv2zoo_entry

_mnv2zoo_entry.is_command_line = True  # else the package registers its models with timm
from mnv2zoo.models import names

described = [names.describe(name) for name in {names!r}]
assert not {{"torch", "timm"}} & sys.modules.keys()
print([(d.name, d.config.name, d.in_chans, d.preprocessing and d.preprocessing.input_size[1]) for d in described])
"""


def test_a_name_or_a_folder_is_described_without_pytorch_and_timm(run_folder):
    folder = run_folder({"mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9, "interpolation": "bilinear"})
    program = WITHOUT_TORCH.format(names=["mnv2zoo_100_c20", "mnv2zoo_140_c20", "mobilenetv2_140.ra_in1k", folder])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    expected = [
        ("mnv2zoo_100_c20.cifar100_coarse", "mnv2zoo_100_c20", 3, 64),
        ("mnv2zoo_140_c20", "mnv2zoo_140_c20", 3, None),
        ("mnv2zoo_140.ra_in1k", "mnv2zoo_140", 3, 224),
        (folder, "mnv2zoo_035", 3, 64),
    ]
    assert (done.stderr, done.stdout) == ("", f"{expected}\n")


def test_every_kind_of_name_has_its_source(run_folder):
    folder = run_folder({"label_names": ["cat", "dog"]})
    entry = names.describe("mnv2zoo_100.ra_in1k")
    assert entry.source == mnv2zoo.weights.entry("mnv2zoo_100.ra_in1k")
    assert (len(entry.label_names), entry.label_names[0]) == (1000, "tench, Tinca tinca")
    assert names.describe("mnv2zoo_100") == entry
    assert names.describe("mnv2zoo_140_c20").source is None
    for place in (folder, f"local-dir:{folder}"):
        described = names.describe(place)
        assert (described.source, described.label_names) == (Path(folder), ["cat", "dog"])
        assert (described.cfg["num_classes"], described.cfg["input_size"]) == (2, [3, 64, 64])
    with pytest.raises(UnknownModelError) as error:
        names.describe("mnv2zoo_100.nobody")
    assert error.value.found == "'mnv2zoo_100.nobody'"


def test_the_hub_is_asked_only_where_it_may_be(hub):
    config = {"architecture": "mnv2zoo_035", "num_classes": 5, "pretrained_cfg": {}}
    hub.add("someone/mine", "config.json", json.dumps(config).encode(), lfs=False)
    assert names.describe_local("hf-hub:someone/mine") is None
    assert not hub.requests
    described = names.describe("hf-hub:someone/mine")
    assert (described.name, described.cfg["num_classes"], described.cfg["hf_hub_id"]) == (
        "hf-hub:someone/mine",
        5,
        "someone/mine",
    )
    assert described.preprocessing is None


def test_arguments_of_a_description_are_those_of_the_model(run_folder):
    description = names.describe(run_folder(model_args={"in_chans": 3, "pad_type": "same", "drop_rate": None}))
    assert description.arguments == {"in_chans": 3, "pad_type": "same"}
    model = description.build(num_classes=4)
    assert (model.num_classes, model.arch_config.name) == (4, "mnv2zoo_035")
    assert type(model.conv_stem).__name__ == "Conv2dSame"


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("mobilenetv2_140.ra_in1k", "mnv2zoo_140.ra_in1k"),
        ("mobilenetv2_100", "mnv2zoo_100"),
        ("mobilenetv2_110d", "mnv2zoo_110d.ra_in1k"),
        ("hf-hub:timm/mobilenetv2_100.ra_in1k", "mnv2zoo_100.ra_in1k"),
        ("hf_hub:timm/mobilenetv2_050.lamb_in1k", "mnv2zoo_050.lamb_in1k"),
    ],
)
def test_timms_names_mean_the_same_weights_under_our_names(hub, theirs, ours):
    assert names.describe(theirs) == names.describe(ours)
    assert names.weights_of(ours) == names.describe(theirs).source
    assert not hub.requests


def test_every_network_of_timms_family_is_known_by_timms_name():
    for name in timm.list_models("mobilenetv2_*"):
        assert architecture.get(name).name == name.replace("mobilenetv2", "mnv2zoo")
    with pytest.raises(UnknownModelError):
        architecture.get("mobilenetv2_100_c20")


def test_a_repository_that_an_index_pins_is_taken_at_that_commit(hub, overlay, monkeypatch):
    state = random_state_dict("mnv2zoo_035")
    config = {"architecture": "mobilenetv2_035", "num_classes": 1000, "pretrained_cfg": {"num_classes": 1000}}
    hub.add("zoo/mine", "config.json", json.dumps(config).encode(), lfs=False)
    data = as_bytes(state)
    commit = hub.add("zoo/mine", "model.safetensors", data)
    sha256 = hashlib.sha256(data).hexdigest()
    overlay({"mnv2zoo_035.mine": raw_entry(repo_id="zoo/mine", revision=commit, sha256=sha256, size=len(data))})
    hub.add("zoo/mine", "model.safetensors", as_bytes(random_state_dict("mnv2zoo_035", seed=9)))
    hub.add("zoo/mine", "config.json", b"{}", lfs=False)
    monkeypatch.setenv("MNV2ZOO_REQUIRE_PINNED", "1")
    described = names.describe("hf-hub:zoo/mine")
    assert (described.name, described.cfg["hf_hub_id"]) == ("hf-hub:zoo/mine", f"zoo/mine@{commit}")
    built = described.build()
    assert all(torch.equal(value, state[key]) for key, value in built.state_dict().items())
    assert names.describe(f"hf-hub:zoo/mine@{commit}").cfg == described.cfg


@pytest.mark.parametrize("serialization", [True, "both", False])
@pytest.mark.parametrize(("name", "prefix"), [("mobilenetv2_035", ""), ("mobilenetv2_110d", "local-dir:")])
def test_what_plain_timm_saved_opens_under_our_name(tmp_path, serialization, name, prefix):
    source = timm.create_model(name, num_classes=3, drop_rate=0.1).eval()
    source.load_state_dict(random_state_dict(name, num_classes=3))
    timm.models.save_for_hf(
        *(source, tmp_path),
        model_config={"label_names": ["a", "b", "c"]},
        safe_serialization=serialization,
    )
    described = names.describe(f"{prefix}{tmp_path}")
    assert (described.config.name, described.label_names) == (name.replace("mobilenetv2", "mnv2zoo"), ["a", "b", "c"])
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    built = described.build().eval()
    assert type(built).__module__ == "mnv2zoo.models.mobilenetv2"
    with torch.no_grad():
        torch.testing.assert_close(built(images), source(images))


@pytest.mark.parametrize("name", ["resnet18", "resnet50.a1_in1k", "mobilenetv3_large_100", "efficientnet_b0.ra_in1k"])
def test_timms_other_families_are_told_apart_from_misspelt_names(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": name.partition(".")[0], "pretrained_cfg": {}}))
    for given in (name, str(tmp_path)):
        with pytest.raises(UnknownModelError) as error:
            names.describe(given)
        assert error.value.problem == f"{given} is a timm model of another family"
        assert error.value.found.strip("'").partition(".")[0] == name.partition(".")[0]
    with pytest.raises(UnknownModelError, match="unknown architecture"):
        names.describe("mobilenetv2_10")

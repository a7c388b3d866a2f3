"""What a name stands for."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import mnv2zoo
from mnv2zoo.errors import UnknownModelError
from mnv2zoo.models import names
from tests.conftest import ROOT


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
    program = WITHOUT_TORCH.format(names=["mnv2zoo_100_c20", "mnv2zoo_050_c20", "mobilenetv2_140.ra_in1k", folder])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    expected = [
        ("mnv2zoo_100_c20.cifar100_coarse", "mnv2zoo_100_c20", 3, 64),
        ("mnv2zoo_050_c20", "mnv2zoo_050_c20", 3, None),
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
    assert names.describe("mnv2zoo_050_c20").source is None
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

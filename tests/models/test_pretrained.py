"""What a `config.json` may say."""

import json

import pytest

from mnv2zoo.errors import ConversionError, IntegrityError, WeightsUnavailableError
from mnv2zoo.models import names, pretrained, registry
from tests.conftest import as_bytes, random_state_dict


@pytest.fixture
def run_folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(as_bytes(random_state_dict("mnv2zoo_035", num_classes=2)))

    def write(pretrained_cfg=None, **fields):
        cfg = {"num_classes": 2, "input_size": [3, 64, 64], **(pretrained_cfg or {})}
        document = {"architecture": "mnv2zoo_035", "num_classes": 2, "pretrained_cfg": cfg, **fields}
        (tmp_path / "config.json").write_text(json.dumps(document))
        return str(tmp_path)

    return write


def test_a_sound_one_is_taken(run_folder):
    found = pretrained.load(run_folder({"label_names": ["cat", "dog"]}), "cpu")
    assert found.label_names == ["cat", "dog"]


@pytest.mark.parametrize(
    "cfg",
    [
        {"input_size": [3, 10**6, 10**6]},
        {"input_size": [3, -1, 64]},
        {"test_input_size": [3, 64]},
        {"mean": ["red"]},
        {"std": [0.0]},
        {"std": [float("nan")]},
        {"crop_pct": 0},
        {"interpolation": "cubic"},
        {"label_names": ["cat"]},
        {"label_names": [1, 2]},
        {"label_descriptions": ["cat"]},
        {"label_offset": 10**9},
        {"fixed_input_size": True},
        {"hf_hub_filename": "../model.safetensors"},
        {"unheard_of": 1},
    ],
    ids=str,
)
def test_what_is_out_of_bounds_is_refused_and_named(run_folder, cfg):
    with pytest.raises(WeightsUnavailableError, match=next(iter(cfg))):
        pretrained.load(run_folder(cfg), "cpu")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"in_chans": 10**9}, "input_size"),  # which timm makes of it
        ({"num_classes": 10**9}, "num_classes"),
        ({"act_layer": "os.system"}, "os.system"),
        ({"drop_rate": float("inf")}, "drop_rate"),
        ({"eval": 1}, "eval"),
    ],
    ids=str,
)
def test_arguments_out_of_bounds_are_refused_and_named(run_folder, arguments, named):
    with pytest.raises(WeightsUnavailableError, match=named):
        pretrained.load(run_folder(model_args=arguments), "cpu")


@pytest.mark.parametrize(
    ("cfg", "fields"),
    [
        ({}, {"num_classes": 3, "model_args": {"num_classes": 2}}),
        ({}, {"model_args": {"num_classes": 3}}),
        ({}, {"num_classes": None}),  # 1000, says timm
        ({"num_classes": None}, {"num_classes": None, "model_args": {"num_classes": 1000}}),
    ],
    ids=str,
)
def test_the_classifier_is_the_weights_or_the_file_is_refused(run_folder, cfg, fields):
    with pytest.raises((WeightsUnavailableError, ConversionError), match=r"num_classes = |1000 classes"):
        pretrained.load(run_folder(cfg, **fields), "cpu")


def test_memory_is_not_taken_for_a_million_classes_that_the_weights_have_not(run_folder, monkeypatch):
    monkeypatch.setattr(registry, "MobileNetV2", lambda *_, **__: pytest.fail("was built"))
    with pytest.raises(ConversionError, match="does not fit mnv2zoo_035 with 1000000 classes"):
        pretrained.load(run_folder({"num_classes": 10**6}, num_classes=10**6), "cpu")


def test_nor_for_weights_without_a_classifier(run_folder, tmp_path, monkeypatch):
    place = run_folder({"num_classes": 10**6}, num_classes=10**6)
    (tmp_path / "model.safetensors").write_bytes(as_bytes(random_state_dict("mnv2zoo_035", num_classes=0)))
    monkeypatch.setattr(registry, "MobileNetV2", lambda *_, **__: pytest.fail("was built"))
    with pytest.raises(ConversionError, match="does not fit mnv2zoo_035 with 1000000 classes"):
        pretrained.load(place, "cpu")


def test_names_for_a_billion_classes_are_not_made(run_folder):
    with pytest.raises(WeightsUnavailableError, match="num_classes"):
        names.describe(run_folder(num_classes=10**9))


def test_where_weights_are_is_not_for_the_file_to_say(run_folder):
    elsewhere = {"url": "http://localhost:9/x", "hf_hub_id": "a/b", "file": "/etc/passwd", "custom_load": True}
    description = names.describe(run_folder({**elsewhere, "state_dict": {}}))
    assert description.cfg["file"] == run_folder()
    assert not any(description.cfg[name] for name in ("url", "hf_hub_id", "custom_load", "state_dict"))


def test_weights_that_cannot_be_read_are_an_integrity_error(run_folder, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(IntegrityError, match="cannot read the checkpoint"):
        pretrained.load(run_folder(), "cpu")

"""The files of a model directory are what timm reads."""

import json

import pytest
import safetensors.torch
import timm
import torch

from mnv2zoo.errors import DataError
from mnv2zoo.model_dir import files

SMALL = "mnv2zoo_035"
CONFIG = {"input_size": (3, 64, 64), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "interpolation": "bilinear"}


def test_timm_loads_the_directory_with_its_weights_and_preprocessing(tmp_path):
    model = timm.create_model(SMALL, num_classes=2).eval()
    for name, content in files.model_files(model, CONFIG, ["ant", "bee"]).items():
        (tmp_path / name).write_bytes(content)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "labels.txt", "model.safetensors"]
    assert (tmp_path / "labels.txt").read_bytes() == b"ant\nbee\n"
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))
    cfg = timm.data.resolve_model_data_config(loaded)
    assert (cfg["input_size"], [*cfg["mean"]], cfg["interpolation"]) == ((3, 64, 64), [0.1, 0.2, 0.3], "bilinear")


def test_the_origin_of_the_weights_is_not_said_of_others():
    model = timm.create_model(SMALL)
    model.pretrained_cfg |= {"license": "MIT", "tag": "google", "origin_url": "https://example.org"}
    cfg = json.loads(files.model_files(model, CONFIG)["config.json"])["pretrained_cfg"]
    assert {key: cfg.get(key) for key in ("license", "tag", "origin_url")} == dict.fromkeys(
        ("license", "tag", "origin_url"), ""
    )


def test_statistics_and_size_have_the_channels_of_the_model():
    model = timm.create_model(SMALL, in_chans=1)
    made = files.model_files(model, {**CONFIG, "test_input_size": (3, 96, 96)})
    cfg = json.loads(made["config.json"])["pretrained_cfg"]
    assert cfg["mean"] == pytest.approx([0.2])
    assert cfg["std"] == pytest.approx([0.5])
    assert (cfg["input_size"], cfg["test_input_size"]) == ([1, 64, 64], [1, 96, 96])
    assert "labels.txt" not in made
    assert safetensors.torch.load(made["model.safetensors"])["conv_stem.weight"].shape[1] == 1


@pytest.mark.parametrize("name", ["two\nlines", "two\rlines"])
def test_a_class_name_has_one_line(name):
    with pytest.raises(DataError):
        files.model_files(timm.create_model(SMALL, num_classes=2), CONFIG, ["ant", name])

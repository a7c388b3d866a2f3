"""What a `config.json` may say."""

import pytest

from mnv2zoo.errors import ConversionError, WeightsUnavailableError
from mnv2zoo.models import names, pretrained


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


def test_names_for_a_billion_classes_are_not_made(run_folder):
    with pytest.raises(WeightsUnavailableError, match="num_classes"):
        names.describe(run_folder(num_classes=10**9))

"""What a `config.json` may say."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
import timm
from timm.models import PretrainedCfg
from timm.models import _hub as timm_hub

from mnv2zoo import architecture
from mnv2zoo.errors import ConversionError, WeightsUnavailableError
from mnv2zoo.models import config_file, names, pretrained


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


def test_every_field_of_timms_description_is_known():
    known = {*config_file.CFG_RULES, *config_file._FREE}
    assert {field.name for field in fields(PretrainedCfg)} == known


@pytest.mark.parametrize(
    "document",
    [
        {"pretrained_cfg": {"num_classes": 3, "input_size": [3, 64, 64]}, "num_classes": 5, "num_features": 1280},
        {"pretrained_cfg": {"test_input_size": [3, 96, 96]}, "model_args": {"in_chans": 1}},
        {"pretrained_cfg": {"input_size": [3, 64, 64]}, "model_args": {"in_chans": 4}, "label_names": ["a", "b"]},
        {"pretrained_cfg": {}, "label_names": ["a"], "label_descriptions": {"a": "ant"}},
        {"num_classes": 2, "labels": ["a", "b"], "num_features": 1280, "mean": [0.5, 0.5, 0.5]},
    ],
    ids=str,
)
def test_a_file_is_read_as_timm_reads_it(tmp_path, document):
    document = {"architecture": "mnv2zoo_035", **document}
    (tmp_path / "config.json").write_text(json.dumps(document))
    theirs, architecture, arguments = timm_hub.load_model_config_from_path(tmp_path)
    found = config_file._parts(document)
    assert found == ({k: v for k, v in theirs.items() if k not in ("file", "source")}, arguments)
    assert architecture == "mnv2zoo_035"


@pytest.mark.parametrize(
    "cfg",
    [
        {"crop_pct": True},
        {"crop_pct": "0.9"},
        {"num_classes": 2.0},
        {"num_classes": True},
        {"input_size": [3, 64.0, 64]},
        {"mean": []},
        {"mean": [0.5, 0.5]},
        {"mean": {"0.5": 1}},
        {"tag": 5},
        {"label_descriptions": {"cat": 1}},
        {"hf_hub_filename": "a/../model.safetensors"},
        {"hf_hub_filename": "model.safetensors\n"},
    ],
    ids=str,
)
def test_a_value_of_another_type_is_refused_and_named(cfg):
    with pytest.raises(ValueError, match=next(iter(cfg))):
        config_file.check_config(cfg, {})


def test_null_is_the_default(run_folder):
    nothing = dict.fromkeys(config_file.CFG_RULES)
    found = names.describe(run_folder({**nothing, "num_classes": 2}))
    assert None not in [found.cfg.get(name, 0) for name in config_file.CFG_RULES if name != "hf_hub_filename"]


@pytest.mark.parametrize("temperature", [0, -1, 0.01, 100, "1", True, [1.0], float("nan")], ids=str)
def test_a_temperature_out_of_bounds_is_refused(run_folder, temperature):
    folder = run_folder({})
    config = json.loads((Path(folder) / "config.json").read_text())
    (Path(folder) / "config.json").write_text(json.dumps(config | {"temperature": temperature}))
    with pytest.raises(WeightsUnavailableError) as error:
        names.describe(folder)
    assert "temperature" in str(error.value.found)


def test_a_temperature_is_read_and_timm_reads_the_same_folder(run_folder):
    folder = run_folder({})
    assert names.describe(folder).temperature is None
    config = json.loads((Path(folder) / "config.json").read_text())
    (Path(folder) / "config.json").write_text(json.dumps(config | {"temperature": 1.5}))
    assert names.describe(folder).temperature == 1.5
    assert timm.create_model(f"local-dir:{folder}", pretrained=True).num_classes


def test_thresholds_are_one_per_label(run_folder):
    assert names.describe(run_folder()).thresholds == ()
    found = names.describe(run_folder(task="multilabel", thresholds=[0, 0.25]))
    assert (found.task, found.thresholds) == ("multilabel", (0, 0.25))


@pytest.mark.parametrize("thresholds", [[0.5], [0.5, 1.5], [0.5, "x"], 0.5, {"a": 0.5}], ids=str)
def test_thresholds_that_do_not_fit_are_refused(run_folder, thresholds):
    with pytest.raises(WeightsUnavailableError, match="thresholds"):
        names.describe(run_folder(thresholds=thresholds))


def document(**fields):
    return {
        "architecture": "mnv2zoo_035",
        "num_classes": 2,
        "model_args": {"num_classes": 2},
        "pretrained_cfg": {},
    } | fields


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, ""),
        ({"architecture": "mobilenetv2_140"}, ""),
        ({"model_args": {"classifier": "linear", "pad_type": "same"}}, ""),
        ({"architecture": "mnv2zoo_100_c20"}, "mnv2zoo_100_c20"),
        ({"model_args": {"classifier": "conv_bn"}}, "'conv_bn'"),
        ({"task": "segment", "head": {"name": "lraspp"}}, "segmenters"),
    ],
    ids=str,
)
def test_the_name_is_timms_where_timm_has_the_network(fields, reason):
    given = document(**fields)
    assert reason in config_file.obstacle(given)
    assert bool(config_file.obstacle(given)) == bool(reason)
    written = config_file.portable(given)
    own = architecture.native_name(given["architecture"])
    assert written["architecture"] == (own if reason else own.replace("mnv2zoo", "mobilenetv2"))
    assert config_file.is_marked(written["pretrained_cfg"]) == (not reason)
    assert config_file.portable(written) == written
    assert given == document(**fields)


def test_a_detectors_file_stays_as_it_is():
    given = document(task="detect", head={"name": "ssdlite"})
    assert config_file.portable(given) == given


def test_names_and_the_kind_of_scores_are_where_transformers_looks():
    names = ["ant", "bee"]
    written = config_file.portable(document(task="multilabel", pretrained_cfg={"label_names": names, "notes": ["own"]}))
    assert (written["label_names"], written["num_classes"], written["model_args"]) == (names, 2, {})
    assert written["problem_type"] == "multi_label_classification"
    assert written["pretrained_cfg"]["notes"] == ["own", "mnv2zoo"]


def test_what_has_no_effect_and_timm_refuses_is_left_out():
    given = {"norm_layer": "groupnorm1", "bn_eps": 0.1, "bn_momentum": 0.2, "classifier": "linear", "in_chans": 4}
    written = config_file.portable(document(model_args=given | {"pad_type": "symmetric"}))
    assert written["model_args"] == {"norm_layer": "groupnorm1", "in_chans": 4, "pad_type": ""}


@pytest.mark.parametrize("cfg", [None, "tag", {}, {"notes": None}, {"notes": "mnv2zoo"}, PretrainedCfg()], ids=str)
def test_other_descriptions_are_not_marked(cfg):
    assert not config_file.is_marked(cfg)
    assert config_file.is_marked(PretrainedCfg(notes=("mnv2zoo",)))

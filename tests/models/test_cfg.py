"""The description of weights has the fields that timm reads."""

import dataclasses
import json
from pathlib import Path

from timm.models import PretrainedCfg

from mnv2zoo import architecture
from mnv2zoo.models.cfg import pretrained_cfg
from mnv2zoo.weights import schema
from tests.conftest import raw_entry

NAME = "mnv2zoo_035"


def entry(**fields):
    document = {"schema_version": schema.SCHEMA_VERSION, "weights": {f"{NAME}.test": raw_entry(**fields)}}
    return schema.parse(json.dumps(document), Path("index.json"))[f"{NAME}.test"]


def test_timm_knows_every_field():
    known = {field.name for field in dataclasses.fields(PretrainedCfg)}
    assert pretrained_cfg(architecture.get(NAME), entry()).keys() <= known


def test_without_weights_the_preprocessing_is_that_of_imagenet():
    cfg = pretrained_cfg(architecture.get(NAME))
    assert (cfg["architecture"], cfg["num_classes"], cfg["input_size"]) == (NAME, 1000, (3, 224, 224))
    assert (cfg["mean"], cfg["std"]) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert not {"hf_hub_id", "file"} & cfg.keys()


def test_the_pool_size_is_that_of_the_last_map():
    assert pretrained_cfg(architecture.get(NAME), entry(input_size=[3, 193, 224]))["pool_size"] == (7, 7)
    assert pretrained_cfg(architecture.get(NAME), entry(input_size=[3, 192, 224]))["pool_size"] == (6, 7)


def test_the_repository_includes_the_pinned_revision():
    assert pretrained_cfg(architecture.get(NAME), entry())["hf_hub_id"] == "zoo/weights"
    revision, sha256 = "a" * 40, "b" * 64
    cfg = pretrained_cfg(architecture.get(NAME), entry(revision=revision, sha256=sha256, size=1))
    assert (cfg["hf_hub_id"], cfg["hf_hub_filename"]) == (f"zoo/weights@{revision}", "model.safetensors")

"""The three model cards: of a run, of a package and of a bundle."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard

from mnv2zoo.model_dir import cards
from mnv2zoo.weights import schema
from tests.conftest import raw_entry

SCORES = SimpleNamespace(images=10, top1=61.239, top5=99.9, calibration_error=3.14159, label_names=("ant", "bee"))
CONFIG = {"architecture": "mobilenetv2_035", "label_names": ["ant", "bee"]}
RUN = {"data": "/x/tulips", "recipe": {"lr": 0.1, "seed": None}}


def entry(**fields):
    name, fields = "mnv2zoo_035.tulips", raw_entry(metrics=None, description=None, **fields)
    return schema.parse(
        json.dumps({"schema_version": schema.SCHEMA_VERSION, "weights": {name: fields}}), Path("index.json")
    )[name]


def test_a_runs_card_has_its_metrics_as_text_and_as_metadata():
    text = cards.run_card("mnv2zoo_035", "mnv2zoo_035", "scratch", RUN, {"val": SCORES})
    assert "| val | 10 | 61.24 | 99.90 | 3.14 |" in text
    assert "`mnv2zoo_035` fine-tuned on `tulips` with mnv2zoo, from scratch. 2 classes." in text
    assert "| `lr` | `0.1` |" in text
    assert "seed" not in text
    (result,) = ModelCard(text).data.eval_results
    assert (result.dataset_name, result.dataset_split, result.metric_value) == ("tulips", "val", 61.24)


def test_a_run_without_held_out_images_has_no_metrics():
    text = cards.run_card("mnv2zoo_035", "mnv2zoo_035", "scratch", RUN, {})
    assert ModelCard(text).data.eval_results is None
    assert "`mnv2zoo_035`, from scratch." in text


@pytest.mark.parametrize(
    ("license", "on_the_hub", "name"),
    [
        ("apache-2.0", "apache-2.0", None),
        ("Apache-2.0", "apache-2.0", None),
        ("openrail++", "openrail++", None),
        ("other", "other", "other"),
        ("MIT-0", "other", "MIT-0"),  # SPDX has it, the Hub has not
        ("House License 1", "other", "House License 1"),
    ],
)
def test_a_license_that_the_hub_does_not_list_is_another_with_a_name(tmp_path, license, on_the_hub, name):
    data = ModelCard(cards.package_card(tmp_path / "README.md", entry(license=license), {}, CONFIG)).data
    assert (data.license, data.get("license_name")) == (on_the_hub, name)


def test_a_package_without_a_card_gets_one_with_its_classes_and_metrics(tmp_path):
    results = {"test": {"top1": 50.0, "top5": 90.0}, "val": {"top1": 1.0}}
    card = ModelCard(cards.package_card(tmp_path / "README.md", entry(), results, CONFIG))
    assert "# mnv2zoo_035.tulips" in card.text
    assert "The input size is 224 x 224 pixels. There are 1000 classes: tench, " in card.text
    found = [(result.dataset_split, result.metric_name, result.metric_value) for result in card.data.eval_results]
    assert found == [
        ("test", "top-1 accuracy (%)", 50.0),
        ("test", "top-5 accuracy (%)", 90.0),
        ("validation", "top-1 accuracy (%)", 1.0),
    ]


def test_a_bundles_card_has_the_hashes_of_its_files():
    facts = {
        "name": "tulips",
        "architecture": "mnv2zoo_035",
        "license": None,
        "format": "onnx",
        "producer": "mnv2zoo 1",
        "precision": "fp32",
        "layout": "nchw",
        "opset": 17,
        "ir_version": 8,
        "files": {"model.onnx": hashlib.sha256(b"model").hexdigest()},
        "comparison": "Largest difference of a logit from PyTorch's, on 12 image files of many kinds: 1.5e-06",
    }
    outputs = "a logit for each line of `labels.txt`"
    text = cards.bundle_card(
        facts, use="pip install numpy pillow onnxruntime", outputs=outputs, loss="Top-1 accuracy is 80 %"
    )
    assert f"- `model.onnx`: `{hashlib.sha256(b'model').hexdigest()}`\n" in text
    assert "pip install numpy pillow onnxruntime\n" in text
    assert "on 12 image files of many kinds: 1.5e-06" in text
    assert "- License of the weights: unknown\n" in text
    assert "as onnx in fp32 with opset 17 and IR version 8." in text
    assert "- Top-1 accuracy is 80 %\n\nSHA-256" in text


@pytest.mark.parametrize(
    ("document", "said", "left_out"),
    [
        (CONFIG, "without mnv2zoo, as timm's `mobilenetv2_035`", ["import mnv2zoo", "temperature"]),
        ({"architecture": "mobilenetv2_035", "temperature": 1.5}, "`temperature`", ["import mnv2zoo", "pipeline"]),
        ({"architecture": "mnv2zoo_050_c20"}, "timm does not have the model mnv2zoo_050_c20", ["without mnv2zoo"]),
        (
            {"architecture": "mnv2zoo_035", "model_args": {"classifier": "conv"}},
            "timm does not support classifiers of the form 'conv'",
            ["without mnv2zoo"],
        ),
        (
            {"architecture": "mnv2zoo_035", "task": "detect", "head": {"name": "ssdlite"}},
            "timm has no detectors or segmenters",
            ["import"],
        ),
    ],
    ids=["timm", "calibrated", "own network", "own classifier", "detector"],
)
def test_a_card_says_who_opens_the_folder_and_why(document, said, left_out):
    card = cards.with_libraries("# tulips\n", document)
    assert card.startswith("# tulips\n\n## In other libraries\n")
    assert said in card
    assert not [word for word in left_out if word in card]
    assert cards.with_libraries(card + "\n## More\n", document) == card + "\n## More\n"

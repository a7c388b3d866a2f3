"""timm and transformers open what the package saves, most of it without the package."""

import json

import pytest
import torch
from PIL import Image

import mnv2zoo
from mnv2zoo.data.transforms import image_config, image_transform
from mnv2zoo.model_dir import files, packaging
from tests.conftest import ROOT
from tests.ecosystem.conftest import IMAGES, LABELS, network, run

LABELS_OF = {"run": LABELS, "package": LABELS, "converted": ["ant", "bee", "ant lion"]}
PHOTO = ROOT / "examples/coffee.jpg"

OPENED_BY_TIMM = """
import sys, timm, torch
images = torch.load(sys.argv[1])
for folder in sys.argv[3:]:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert type(model).__module__.startswith("timm.")
    torch.save((model(images).detach(), list(model.pretrained_cfg["label_names"])), folder + sys.argv[2])
assert "mnv2zoo" not in sys.modules
"""
OPENED_BY_TRANSFORMERS = """
import json, sys, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
images = torch.load(sys.argv[1])
for folder in sys.argv[4:]:
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    labels = [model.config.id2label[number] for number in range(model.config.num_labels)]
    processor = AutoImageProcessor.from_pretrained(folder)
    pixels = processor(Image.open(sys.argv[3]).convert("RGB"), return_tensors="pt")["pixel_values"]
    rows = pipeline("image-classification", model=folder)(sys.argv[3])
    torch.save((model(images).logits.detach(), labels, type(model).__name__, pixels, rows), folder + sys.argv[2])
assert "mnv2zoo" not in sys.modules
"""

FROM_THE_HUB = """
import sys, torch
from transformers import AutoModelForImageClassification
model = AutoModelForImageClassification.from_pretrained("zoo/colors").eval()
torch.save((model(torch.load(sys.argv[1])).logits.detach(), list(model.config.id2label.values())), sys.argv[2])
assert "mnv2zoo" not in sys.modules
"""


@pytest.fixture
def images(tmp_path):
    torch.save(IMAGES, tmp_path / "images.pt")
    return tmp_path / "images.pt"


@pytest.mark.ecosystem("timm", "`create_model` opens runs, packages and converted files without mnv2zoo; equal logits")
def test_plain_timm_opens_every_folder(folders, images, plain_python):
    run(plain_python, OPENED_BY_TIMM, images, "/timm.pt", *folders.values())
    for kind, folder in folders.items():
        logits, labels = torch.load(folder / "timm.pt")
        torch.testing.assert_close(logits, network(folder)(IMAGES), rtol=1e-5, atol=1e-5)
        assert labels == LABELS_OF[kind]


@pytest.mark.ecosystem(
    "transformers",
    "`AutoModelForImageClassification`, `AutoImageProcessor` and `pipeline` open runs, packages and converted files "
    "without mnv2zoo; equal logits, pixels and labels",
)
def test_transformers_opens_every_folder(folders, images, plain_python):
    run(plain_python, OPENED_BY_TRANSFORMERS, images, "/transformers.pt", PHOTO, *folders.values())
    for kind, folder in folders.items():
        logits, labels, wrapper, pixels, rows = torch.load(folder / "transformers.pt")
        model = network(folder)
        assert wrapper == "TimmWrapperForImageClassification"
        torch.testing.assert_close(logits, model(IMAGES), rtol=1e-5, atol=1e-5)
        assert labels == LABELS_OF[kind]
        transform = image_transform(image_config(model.pretrained_cfg, 3, test=False))
        torch.testing.assert_close(pixels, transform(Image.open(PHOTO).convert("RGB"))[None])
        scores = model(pixels).softmax(dim=1)[0].tolist()
        assert {row["label"]: row["score"] for row in rows} == pytest.approx(
            dict(zip(labels, scores, strict=True)), abs=1e-5
        )


@pytest.mark.ecosystem("transformers", "`AutoModelForImageClassification` opens a package on the Hub without mnv2zoo")
def test_transformers_opens_a_package_from_the_hub(folders, hub, images, plain_python, tmp_path):
    for name in packaging.PUSHED:
        hub.add("zoo/colors", name, (folders["package"] / name).read_bytes(), lfs=name == packaging.WEIGHTS)
    run(plain_python, FROM_THE_HUB, images, tmp_path / "logits.pt", HF_HUB_OFFLINE="0", HF_HOME=tmp_path / "home")
    logits, labels = torch.load(tmp_path / "logits.pt")
    torch.testing.assert_close(logits, network(folders["package"])(IMAGES), rtol=1e-5, atol=1e-5)
    assert labels == LABELS


@pytest.mark.ecosystem("transformers", "`pipeline` classifies with the 20-class model, after `import mnv2zoo`")
def test_transformers_opens_a_network_that_timm_does_not_have(tmp_path):
    from transformers import pipeline

    name = "mnv2zoo_100_c20"
    ours = mnv2zoo.models.pretrained.load(name, "cpu")
    data = image_config(ours.model.pretrained_cfg, 3)
    for file, content in files.model_files(ours.model, data, ours.label_names).items():
        (tmp_path / file).write_bytes(content)
    rows = pipeline("image-classification", model=str(tmp_path), top_k=20)(str(PHOTO))
    scores = ours.model(ours.transform(Image.open(PHOTO).convert("RGB"))[None]).softmax(dim=1)[0].tolist()
    expected = dict(zip(ours.label_names, scores, strict=True))
    assert {row["label"]: row["score"] for row in rows} == pytest.approx(expected, abs=1e-5)


@pytest.mark.ecosystem("transformers", "`pipeline` scores each label of a run with several labels per image by itself")
def test_transformers_takes_the_sigmoid_of_several_labels(tmp_path, network_035):
    from transformers import pipeline

    recorded = {"task": "multilabel", "thresholds": [0.5, 0.5, 0.5]}
    made = files.model_files(network_035, {"input_size": (3, 64, 64)}, LABELS, **recorded)
    for file, content in made.items():
        (tmp_path / file).write_bytes(content)
    assert json.loads(made["config.json"])["problem_type"] == "multi_label_classification"
    rows = pipeline("image-classification", model=str(tmp_path))(str(PHOTO))
    transform = image_transform(image_config(network(tmp_path).pretrained_cfg, 3))
    scores = network_035(transform(Image.open(PHOTO).convert("RGB"))[None]).sigmoid()[0].tolist()
    expected = dict(zip(LABELS, scores, strict=True))
    assert {row["label"]: row["score"] for row in rows} == pytest.approx(expected, abs=1e-5)

"""The files of a model directory are what timm reads."""

import json
import os
import subprocess

import pytest
import safetensors.torch
import timm
import torch

from mnv2zoo.errors import DataError
from mnv2zoo.model_dir import files, packaging
from mnv2zoo.models import names
from mnv2zoo.models.mobilenetv2 import MobileNetV2
from tests.conftest import random_state_dict

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


# Networks that timm has too, each with an argument that changes the logits.
SHARED = {
    "plain": (SMALL, {}),
    "same padding": (SMALL, {"pad_type": "same"}),
    "symmetric padding, by our word": (SMALL, {"pad_type": "symmetric"}),
    "one channel": (SMALL, {"in_chans": 1}),
    "eight channels": (SMALL, {"in_chans": 8}),
    "epsilon": (SMALL, {"bn_eps": 0.1, "bn_momentum": 0.01}),
    "activation": (SMALL, {"act_layer": "hard_swish"}),
    "normalization, where epsilon has no effect": (SMALL, {"norm_layer": "groupnorm1", "bn_eps": 0.1}),
    "stride": (SMALL, {"output_stride": 8}),
    "pooling": (SMALL, {"global_pool": "catavgmax"}),
    "a linear classifier": (SMALL, {"classifier": "linear"}),
    "no classifier": (SMALL, {"num_classes": 0}),
    "ImageNet": ("mnv2zoo_050", {"num_classes": 1000}),
    "deeper": ("mnv2zoo_110d", {}),
    "wider": ("mnv2zoo_140", {}),
}
PLAIN = """
import sys, timm, torch
folder, out, features, *names = sys.argv[1:]
logits = {}
for name in names:
    images = torch.load(f"{folder}/{name}.pt")
    model = timm.create_model(f"local-dir:{folder}/{name}", pretrained=True, features_only=features == "1").eval()
    with torch.inference_mode():
        logits[name] = model(images), model.pretrained_cfg.get("label_names") if features == "0" else None
assert "mnv2zoo" not in sys.modules
torch.save(logits, out)
"""


def saved(folder, name, labels=(), **arguments):
    """Writes a model directory with random weights; gives the network and images for it."""
    folder.mkdir()
    arguments = {"num_classes": len(labels) or 5, **arguments}
    model = timm.create_model(name, **arguments).eval()
    model.load_state_dict(random_state_dict(name, **arguments))
    for file, content in files.model_files(model, CONFIG, labels).items():
        (folder / file).write_bytes(content)
    images = torch.rand(2, model.in_chans, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.save(images, f"{folder}.pt")
    return model, images


def opened_by_plain_timm(python, folder, names, features=False):
    words = [python, "-c", PLAIN, folder, folder / "logits.pt", "01"[features], *names]
    subprocess.run(list(map(str, words)), check=True, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return torch.load(folder / "logits.pt")


@pytest.mark.slow
def test_plain_timm_gives_the_same_logits(plain_python, tmp_path):
    labels = {case: () if "num_classes" in given else ("ant", "bee") for case, (_, given) in SHARED.items()}
    made = {case: saved(tmp_path / case, name, labels[case], **given) for case, (name, given) in SHARED.items()}
    found = opened_by_plain_timm(plain_python, tmp_path, SHARED)
    for case, (model, images) in made.items():
        logits, label_names = found[case]
        with torch.inference_mode():
            torch.testing.assert_close(logits, model(images), rtol=1e-5, atol=1e-5, msg=lambda text, c=case: c + text)
        assert tuple(label_names or ()) == labels[case]


@pytest.mark.slow
def test_plain_timm_gives_the_same_feature_maps(plain_python, tmp_path):
    names_of = ["same padding", "one channel", "stride", "pooling"]
    made = {case: saved(tmp_path / case, SHARED[case][0], **SHARED[case][1]) for case in names_of}
    found = opened_by_plain_timm(plain_python, tmp_path, made, features=True)
    for case, (_, images) in made.items():
        ours = timm.create_model(f"local-dir:{tmp_path / case}", pretrained=True, features_only=True).eval()
        with torch.inference_mode():
            torch.testing.assert_close(found[case][0], ours(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", SHARED)
def test_here_the_folder_is_our_network_with_every_argument(tmp_path, case):
    name, arguments = SHARED[case]
    model, images = saved(tmp_path / "run", name, **arguments)
    document = json.loads((tmp_path / "run/config.json").read_text())
    assert document["architecture"] == name.replace("mnv2zoo", "mobilenetv2")
    assert {"num_classes", "classifier"}.isdisjoint(document["model_args"])
    described = names.describe(str(tmp_path / "run"))
    assert described.config == model.arch_config
    for loaded in (described.build(), timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True)):
        assert isinstance(loaded, MobileNetV2)
        assert (loaded.num_classes, loaded.in_chans) == (model.num_classes, model.in_chans)
        with torch.inference_mode():
            assert torch.equal(loaded.eval()(images), model(images))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("mnv2zoo_050_c20", {}), ("mnv2zoo_050_c20", {"classifier": "linear"}), (SMALL, {"classifier": "conv"})],
    ids=str,
)
def test_a_network_that_timm_does_not_have_keeps_our_name(tmp_path, name, arguments):
    model, images = saved(tmp_path / "run", name, ["ant", "bee"], **arguments)
    document = json.loads((tmp_path / "run/config.json").read_text())
    assert document["architecture"] == name
    assert document["model_args"].items() >= arguments.items()
    loaded = timm.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True).eval()
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))


@pytest.mark.slow
def test_plain_timm_opens_a_package_from_the_hub(plain_python, hub, tmp_path):
    model, images = saved(tmp_path / "run", SMALL, ["ant", "bee"], pad_type="same")
    package = packaging.pack(tmp_path / "run", "mnv2zoo_035.insects", "MIT", repo_id="zoo/insects")
    for name in packaging.PUSHED:
        hub.add("zoo/insects", name, (package.directory / name).read_bytes(), lfs=name == packaging.WEIGHTS)
    code = (
        "import sys, timm, torch; model = timm.create_model('hf-hub:zoo/insects', pretrained=True).eval();"
        "torch.save(model(torch.load('run.pt')).detach(), 'logits.pt'); assert 'mnv2zoo' not in sys.modules;"
        "print(model.pretrained_cfg['label_names'])"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "plain")}
    done = subprocess.run(
        [plain_python, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    with torch.inference_mode():
        torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), model(images), rtol=1e-5, atol=1e-5)
    assert done.stdout.split() == ["['ant',", "'bee']"]

"""Images for calibration: which are used, and which are refused."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image

import mnv2zoo
from mnv2zoo import deploy
from mnv2zoo.data import decode, pixels
from mnv2zoo.deploy.calibration import prepare
from mnv2zoo.errors import DeployError, ImageReadError
from tests.deploy.conftest import network


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        (torch.full((4, 3, 64, 64), float("nan")), "finite"),
        (torch.rand(4, 3, 32, 32), r"\(n, 3, 64, 64\)"),
        (torch.rand(0, 3, 64, 64), r"\(0, 3, 64, 64\)"),
        (None, "requires calibration images"),
    ],
)
def test_bad_calibration_is_told(small, x, calibration, words):
    with pytest.raises(DeployError, match=words):
        deploy.optimize(small, x, "openvino", "int8", calibration=calibration)


def test_calibration_folders_need_a_preprocessing_and_images(small, x, tmp_path):
    taps = mnv2zoo.features.BottleneckTaps(small, ["C1"])
    with pytest.raises(DeployError, match="calibration tensors"):
        deploy.optimize(taps, x, "openvino", "int8", calibration=tmp_path)
    with pytest.raises(DeployError, match="does not exist"):
        deploy.optimize(small, x, "openvino", "int8", calibration=tmp_path / "nowhere")
    with pytest.raises(ImageReadError, match="no images"):
        deploy.optimize(small, x, "openvino", "int8", calibration=tmp_path)
    with pytest.raises(DeployError, match="does not use calibration images"):
        deploy.optimize(small, x, "openvino", calibration=x)


def test_calibration_is_spread_and_takes_classes_from_folders_alone(tmp_path):
    classifier = network("mnv2zoo_050_c20", num_classes=2)
    classifier.pretrained_cfg |= {"label_names": ["a", "b"]}
    example = torch.zeros(1, 3, 8, 8)
    for number in range(400):
        folder = tmp_path / ("a" if number < 300 else "b")
        folder.mkdir(exist_ok=True)
        to_pil_image(torch.zeros(3, 8, 8)).save(folder / f"{number:03}.png")
    found = prepare(tmp_path, classifier, example)
    assert (len(found.images), found.classes.count(0), found.classes.count(1)) == (300, 225, 75)
    to_pil_image(torch.zeros(3, 8, 8)).save(tmp_path / "000.png")
    assert not prepare(tmp_path, classifier, example).classes


@pytest.mark.parametrize(("mode", "channels"), [("border", 3), ("squash", 1), ("border", 4)])
def test_a_folder_is_prepared_as_the_weights_want_it(tmp_path, mode, channels):
    cfg = {"input_size": (3, 32, 48), "mean": (0.4,), "std": (0.5,), "crop_pct": 1.0, "crop_mode": mode}
    model = timm.create_model("mnv2zoo_035", in_chans=channels, pretrained_cfg_overlay=cfg).eval()
    image = np.random.default_rng(0).integers(0, 256, (50, 40, channels), np.uint8)
    if channels == 3:
        Image.fromarray(image).save(tmp_path / "0.png")
    else:
        np.save(tmp_path / "0.npy", image)
    found = prepare(str(tmp_path), model, torch.zeros(1, channels, 32, 48)).images
    own = {**cfg, "input_size": (channels, 32, 48), "mean": (0.4,) * channels, "std": (0.5,) * channels}
    read = decode.read(tmp_path / ("0.png" if channels == 3 else "0.npy"), channels=channels)
    expected = pixels.network_input(read, {**own, "interpolation": model.pretrained_cfg["interpolation"]})
    assert np.array_equal(found[0].numpy(), expected)

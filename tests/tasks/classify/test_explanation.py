"""Heat maps are Grad-CAM's, and the label that was changed is found."""

import io
import sys

import cv2
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision.transforms import v2

import mnv2zoo
from mnv2zoo.data import decode
from mnv2zoo.errors import MissingExtraError, TaskError
from mnv2zoo.models import pretrained
from mnv2zoo.system.installation import install_command
from mnv2zoo.tasks.classify import explanation
from mnv2zoo.tasks.classify.metrics import Mistake


def normalized(heat):
    heat = heat - heat.min()
    return heat / (1e-7 + heat.max())


def by_hand(model, images, classes):
    """Grad-CAM where a linear layer follows the mean of a map: its weights are the gradients."""
    with torch.no_grad():
        maps = model.forward_features(images)
        found = torch.relu((maps * model.classifier.weight[classes][:, :, None, None]).sum(1))
    side = images.shape[-1]
    return [normalized(cv2.resize(normalized(own.numpy()), (side, side))) for own in found]


@pytest.mark.parametrize("frozen", [False, True])
def test_heat_maps_are_those_worked_out_by_hand(frozen):
    model = timm.create_model("mnv2zoo_050", num_classes=7).train()
    model.bn1.eval()
    if frozen:
        model.requires_grad_(False)
    before = {name: module.training for name, module in model.named_modules()}
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.rand(2, 3, 96, 96)
    found = explanation.heat_maps(model, images, [3, 5])
    assert {name: module.training for name, module in model.named_modules()} == before
    assert all(torch.equal(tensors[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert found.shape == (2, 96, 96)
    for own, wanted in zip(found, by_hand(model.eval(), images, [3, 5]), strict=True):
        np.testing.assert_allclose(own, wanted, atol=1e-5)


def test_what_speaks_most_for_a_class_is_red():
    torch.manual_seed(0)
    model = timm.create_model("mnv2zoo_050", num_classes=7).eval()
    how = {"mean": (0.5, 0.4, 0.3), "std": (0.25, 0.2, 0.5)}
    prepare = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(**how)])
    image = Image.new("RGB", (128, 96), (128, 128, 128))
    image.paste((250, 200, 20), (40, 30, 80, 70))
    (picture,) = explanation.explain(model, prepare, how, [image], [1])
    heat = explanation.heat_maps(model, prepare(image)[None], [1])[0]
    assert picture.size == image.size
    drawn = np.asarray(picture, int)
    red = drawn[..., 0] - drawn[..., 2] - (np.asarray(image, int)[..., 0] - np.asarray(image, int)[..., 2]) // 2
    assert red[heat > 0.9].min() > 30
    assert red[heat < 0.1].max() < -30


def test_predict_writes_a_heat_map_of_the_first_class(tiny, photos, tmp_path):
    rows = list(mnv2zoo.predict(photos, tiny, explain=tmp_path / "heat", engine="torch"))
    assert rows == list(mnv2zoo.predict(photos, tiny, engine="torch"))
    network = pretrained.load(tiny, "cpu")
    for row in rows:
        image = decode.read(row["image"])
        first = row["predictions"][0]["class"]
        (wanted,) = explanation.explain(network.model, network.transform, network.config, [image], [first])
        name = row["image"].removeprefix(f"{photos}/").removesuffix(".png")
        buffer = io.BytesIO()
        wanted.save(buffer, "JPEG", quality=92)
        assert (tmp_path / "heat" / f"{name}.jpg").read_bytes() == buffer.getvalue()
    assert len(rows) == 24


def test_a_detector_has_none_and_a_missing_package_is_named(tiny, photos, tmp_path, monkeypatch):
    with pytest.raises(TaskError) as refused:
        list(mnv2zoo.predict(photos, tiny, task="detect", explain=tmp_path / "heat"))
    assert (refused.value.where, refused.value.found) == ("explain", "detect")
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    monkeypatch.setattr(explanation.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as missing:
        list(mnv2zoo.predict(photos, tiny, explain=tmp_path / "heat"))
    assert missing.value.fix == f"Run: {install_command('explain')}"
    assert not (tmp_path / "heat").exists()


def test_the_label_that_was_changed_is_found():
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(90) % 3
    logits = torch.randn(90, 5, generator=generator) / 2  # classes 3 and 4 have no image
    logits[torch.arange(90), targets] += 4
    assert explanation.doubtful_labels(logits, targets) == []
    logits[40] += 4 * torch.nn.functional.one_hot(torch.tensor(1), 5)
    targets[40] = 2
    (found,) = explanation.doubtful_labels(logits, targets)
    assert found == Mistake(40, 2, 1, logits[40].double().softmax(0)[1].item())
    targets[10] = 2
    logits[10] += 2 * torch.nn.functional.one_hot(torch.tensor(1), 5)
    assert [one.index for one in explanation.doubtful_labels(logits, targets)] == [40, 10]
    assert [one.index for one in explanation.doubtful_labels(logits, targets, 1)] == [40]

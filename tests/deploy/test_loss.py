"""The loss of a precision: numbers worked by hand, and which images they are measured on."""

import json

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.functional import to_tensor

from mnv2zoo.deploy import loss
from mnv2zoo.errors import DataError, DeployError, ImageReadError

COLORS = ["red", "green", "blue"]
VALUES = {"red": (250, 60, 50), "green": (60, 250, 50), "blue": (50, 60, 250)}


class Brightest(nn.Module):
    """Finds the brightest channel of an image."""

    def forward(self, x):
        return x.mean((2, 3))


def reader(image):
    return to_tensor(image.resize((4, 4)))


@pytest.fixture
def folder(tmp_path):
    """Ten red images, six green and four blue ones, of which one lies among the red."""
    for color, count in zip(COLORS, (10, 6, 3), strict=True):
        (tmp_path / color).mkdir()
        for number in range(count):
            Image.new("RGB", (8, 8), VALUES[color]).save(tmp_path / color / f"{number}.png")
    Image.new("RGB", (8, 8), VALUES["blue"]).save(tmp_path / "red/wrong.png")
    return tmp_path


def blind_to_green(images):
    """A bundle that takes green for blue."""
    logits = images.mean((2, 3))
    logits[:, 2] += logits[:, 1]
    return logits


def test_agreement_and_accuracy_are_those_worked_by_hand(folder):
    found = loss.measure(Brightest().eval(), blind_to_green, loss.Folder(folder, COLORS, reader), "colors")
    # Red: 250 against 50 + 60. Green: 250 against 50 + 250. Blue stays blue. So 14 of 20 images keep their class.
    assert (found.images, found.data) == (20, "colors")
    assert found.agreement == pytest.approx(100 * 14 / 20)
    assert found.accuracy == pytest.approx((100 * 19 / 20, 100 * 13 / 20))
    assert found.to_json() == {
        "data": "colors",
        "images": 20,
        "agreement": 70.0,
        "accuracy": {"pytorch": 95.0, "bundle": 65.0, "loss": 30.0},
    }
    assert found.sentence("images") == (
        "On 20 images of colors, 70.0 % of the images get the same class; "
        "top-1 accuracy is 65.00 %, compared with 95.00 % in PyTorch (a loss of 30.00 points)"
    )


def test_without_class_folders_the_accuracy_is_not_measured(folder):
    flat = loss.Folder(folder / "red", COLORS, reader)
    found = loss.measure(Brightest().eval(), blind_to_green, flat, "colors")
    assert (found.images, found.agreement, found.accuracy) == (11, 100.0, None)
    assert json.loads(json.dumps(found.to_json()))["accuracy"] is None
    assert found.sentence("images").endswith(
        "the accuracy was not measured, because the labels of the images are unknown"
    )


def test_a_folder_that_is_no_class_is_an_error(folder):
    with pytest.raises(DataError) as error:
        loss.Folder(folder, ["red", "green", "yellow"], reader)
    assert error.value.found == "'blue'"


def test_a_folder_that_is_not_there_or_empty_is_an_error(tmp_path):
    with pytest.raises(DeployError) as absent:
        loss.Folder(tmp_path / "absent", COLORS, reader)
    assert (absent.value.where, absent.value.found) == ("data", "nothing")
    with pytest.raises(ImageReadError):
        loss.Folder(tmp_path, COLORS, reader)


def test_images_come_in_parts_with_their_classes(folder):
    parts = list(loss.Folder(folder, COLORS, reader))
    assert [len(images) for images, _ in parts] == [16, 4]
    colors = torch.cat([images.mean((2, 3)).argmax(1) for images, _ in parts]).tolist()
    classes = [one for _, part in parts for one in part]
    assert sum(color == one for color, one in zip(colors, classes, strict=True)) == 19

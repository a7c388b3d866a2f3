"""PyTorch's files are read as data; nothing of theirs runs."""

import pytest
import torch

from mnv2zoo import convert
from mnv2zoo.convert import files
from mnv2zoo.errors import ConversionError
from tests.convert.networks import theirs

TENSORS = {"a.weight": torch.arange(4.0), "b.bias": torch.ones(2)}


def same(found):
    return found.keys() == TENSORS.keys() and all(torch.equal(found[key], TENSORS[key]) for key in TENSORS)


@pytest.mark.parametrize("ending", [".pt", ".pth", ".bin", ".ckpt", ".tar", ".PTH"])
@pytest.mark.parametrize("taken", ["", "state_dict", "state_dict_ema"])
def test_pytorch_files_are_read_whatever_holds_the_state_dict(tmp_path, ending, taken):
    torch.save({"epoch": 3, taken: TENSORS} if taken else TENSORS, tmp_path / f"file{ending}")
    found = files.read(tmp_path / f"file{ending}")
    assert same(found.tensors)
    assert found.taken == taken


def test_a_pickled_object_is_not_brought_to_life(tmp_path):
    torch.save(theirs("torchvision", "mnv2zoo_035"), tmp_path / "file.pt")
    with pytest.raises(ConversionError, match=r"found: the class torchvision\.models\.mobilenetv2\.MobileNetV2\n"):
        convert.read(tmp_path / "file.pt")

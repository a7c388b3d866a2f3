"""PyTorch's files are read as data; nothing of theirs runs."""

import argparse

import pytest
import torch

from mnv2zoo import convert
from mnv2zoo.convert import files, torch_files
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
    assert found.found.taken == taken


def test_a_pickled_object_is_not_brought_to_life(tmp_path):
    torch.save(theirs("torchvision", "mnv2zoo_035"), tmp_path / "file.pt")
    with pytest.raises(ConversionError, match=r"found: the class torchvision\.models\.mobilenetv2\.MobileNetV2\n"):
        convert.read(tmp_path / "file.pt")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04junk", b"\x80\x02junk"])
def test_what_torch_save_did_not_write_is_refused(content):
    with pytest.raises(ConversionError) as error:
        torch_files.read(content)
    assert error.value.problem == "the file is not a valid PyTorch checkpoint"


def test_settings_are_stand_ins_and_allowed_for_one_reading_alone(tmp_path):
    torch.save({"state_dict": TENSORS, "args": argparse.Namespace(lr=1)}, tmp_path / "file.pt")
    before = set(torch.serialization.get_safe_globals())
    found = torch_files.read((tmp_path / "file.pt").read_bytes())
    assert torch.equal(found["state_dict"]["a.weight"], TENSORS["a.weight"])
    assert not isinstance(found["args"], argparse.Namespace)
    assert set(torch.serialization.get_safe_globals()) == before

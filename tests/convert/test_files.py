"""Files of weights are read as data, and told apart by their endings."""

import pytest
import safetensors.torch
import torch

from mnv2zoo.convert import files
from mnv2zoo.errors import ConversionError

TENSORS = {"a.weight": torch.arange(4.0), "b.bias": torch.ones(2)}


def same(found):
    return found.keys() == TENSORS.keys() and all(torch.equal(found[key], TENSORS[key]) for key in TENSORS)


def test_safetensors_are_read(tmp_path):
    safetensors.torch.save_file(TENSORS, tmp_path / "file.safetensors")
    found = files.read(tmp_path / "file.safetensors")
    assert same(found.tensors)
    assert (found.preprocessing, found.found.taken) == ({}, "")


def nothing(file):
    pass


@pytest.mark.parametrize(
    ("name", "make", "found"),
    [
        ("none.pt", nothing, "no such file"),
        ("file.onnx", lambda file: file.touch(), "'file.onnx'"),
        ("folder.pt", lambda file: file.mkdir(), "a folder"),
        ("cut.safetensors", lambda file: file.write_bytes(b"\x10"), None),
        ("cut.pt", lambda file: file.write_bytes(b"PK"), None),
    ],
)
def test_other_files_are_refused(tmp_path, name, make, found):
    make(tmp_path / name)
    with pytest.raises(ConversionError) as failure:
        files.read(tmp_path / name)
    assert str(failure.value.where) == str(tmp_path / name)
    assert found is None or failure.value.found == found


def test_a_file_larger_than_any_weights_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES", 3)
    (tmp_path / "file.pt").write_bytes(b"four")
    with pytest.raises(ConversionError) as failure:
        files.read(tmp_path / "file.pt")
    assert (failure.value.expected, failure.value.found) == ("at most 3 bytes", "4 bytes")


def test_weights_in_a_folder_are_found_in_timms_order(tmp_path):
    with pytest.raises(ConversionError):
        files.in_folder(tmp_path)
    for name in ("z.pth", "a.safetensors", "pytorch_model.bin", "model.safetensors"):
        (tmp_path / name).touch()
    for name in ("model.safetensors", "pytorch_model.bin", "a.safetensors", "z.pth"):
        assert files.in_folder(tmp_path).name == name
        (tmp_path / name).unlink()

"""Reads state dicts from PyTorch, safetensors and Keras files.

Files are read as data only, and only here. No pickled object, Python code or Keras layer in them is executed.
`torch_files` reads PyTorch files, and `keras_files` reads Keras files with `h5py`, without Keras.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnv2zoo.convert import keras_files, state_dict, torch_files
from mnv2zoo.convert.layouts.native import Tensors
from mnv2zoo.convert.state_dict import Found
from mnv2zoo.errors import ConversionError, ZooError, one_line
from mnv2zoo.system.files import MAX_BYTES


@dataclass(frozen=True)
class Checkpoint:
    """The content of a weights file.

    Attributes:
        found: The state dict, in any layout, and where it was in the file.
        preprocessing: The preprocessing that the file records, in timm's terms: `input_size`, and `mean` and `std` if
            a Keras model normalizes its images.
    """

    found: Found
    preprocessing: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tensors(self) -> Tensors:
        """The state dict."""
        return self.found.tensors


def read(path: str | Path, backbone: bool = False, whole: bool = False) -> Checkpoint:
    """Reads a weights file.

    Args:
        path: A safetensors file, a PyTorch file (`.pt`, `.pth`, `.bin`, `.ckpt`, `.tar`), or a Keras
            model (`.keras`, `.h5`) or weights file (`.weights.h5`, `.h5`).
        backbone: Read only the backbone of a Keras model, and accept any head.
        whole: Return all tensors with their names unchanged. By default, the model is searched in a checkpoint and
            its prefix is removed.

    Returns:
        The tensors and the preprocessing.

    Raises:
        ConversionError: If the file cannot be read, or is a Keras model with operations that a MobileNetV2 cannot
            have.
        MissingExtraError: If it is a Keras file and `h5py` is not installed.
    """
    path = Path(path)
    if not path.is_dir() and not path.is_file():
        raise _unreadable(path, "an existing file", "no such file", "Check the path.")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        fix = "Save a SavedModel folder as a file with Keras' `model.save`." if path.is_dir() else "Name another file."
        raise _unreadable(path, f"a file that ends in {', '.join(READERS)}", repr(path.name), fix)
    if path.is_dir():
        raise _unreadable(path, "a file", "a folder", "Name the file in the folder.")
    if path.stat().st_size > MAX_BYTES:
        raise _unreadable(path, f"at most {MAX_BYTES} bytes", f"{path.stat().st_size} bytes", "Name another file.")
    try:
        return reader(path.read_bytes(), backbone, whole)
    except ZooError as error:
        error.where = f"{path}, {error.where}" if error.where else path
        raise
    except Exception as error:  # malformed files can raise anything
        found = f"{type(error).__name__}: {one_line(error)}".rstrip(".")
        raise _unreadable(path, f"a valid {path.suffix} file", found, "Download or save the file again.") from error


def in_folder(folder: str | Path) -> Path:
    """Finds the weights file in a folder, in timm's order of preference.

    Args:
        folder: The folder.

    Returns:
        The file.

    Raises:
        ConversionError: If the folder has no weights file.
    """
    folder = Path(folder)
    for pattern in FOLDER_PATTERNS:
        if found := sorted(file for file in folder.glob(pattern) if file.is_file()):
            return found[0]
    raise _unreadable(folder, "a folder with weights, such as model.safetensors", "no weights", "Check the path.")


def _unreadable(path: Path, expected: str, found: str, fix: str) -> ConversionError:
    return ConversionError(f"cannot read {path.name}", expected=expected, found=found, where=path, fix=fix)


def _safetensors(data: bytes, backbone: bool, whole: bool) -> Checkpoint:
    import safetensors.torch

    return Checkpoint(state_dict.find(safetensors.torch.load(data), whole))


def _torch(data: bytes, backbone: bool, whole: bool) -> Checkpoint:
    return Checkpoint(state_dict.find(torch_files.read(data), whole))


def _keras(data: bytes, backbone: bool, whole: bool) -> Checkpoint:
    tensors, preprocessing = keras_files.read(data, backbone)
    return Checkpoint(Found(tensors), preprocessing)


FOLDER_PATTERNS = (
    *("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth"),
    *("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
    *("open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth"),
    *("*.safetensors", "*.pth", "*.pth.tar", "*.bin"),
)
READERS: dict[str, Callable[[bytes, bool, bool], Checkpoint]] = {
    ".safetensors": _safetensors,
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt", ".tar"), _torch),
    **dict.fromkeys((".keras", ".h5", ".hdf5"), _keras),
}

"""The files that state dicts come in: of PyTorch, safetensors and Keras.

They are read as data alone, and here alone. No pickled object, Python code or Keras layer in them comes to life:
`torch_files` reads PyTorch's, and `keras_files` reads Keras' through `h5py`, without Keras.
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
    """The content of a file of weights.

    Attributes:
        found: The state dict, in any layout, and where it was in the file.
        preprocessing: The preprocessing that the file records, as timm names it: `input_size`, and `mean` and `std`
            where a layer of a Keras model normalizes the images.
    """

    found: Found
    preprocessing: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tensors(self) -> Tensors:
        """The state dict."""
        return self.found.tensors


def read(path: str | Path, backbone: bool = False, whole: bool = False) -> Checkpoint:
    """Reads a file of weights.

    Args:
        path: A file of safetensors, of PyTorch (`.pt`, `.pth`, `.bin`, `.ckpt`, `.tar`), or of Keras: a
            model (`.keras`, `.h5`) or weights (`.weights.h5`, `.h5`).
        backbone: Whether only the backbone of a Keras model is wanted, so that its own head does not
            matter.
        whole: Take all tensors under the names that they have. Otherwise the network is looked for: in a checkpoint,
            and under a prefix.

    Returns:
        The tensors and the preprocessing in it.

    Raises:
        ConversionError: If it cannot be read, or is a Keras model that does more to its images than the
            zoo's network can.
        MissingExtraError: If it is Keras' and `h5py` is not installed.
    """
    path = Path(path)
    if not path.is_dir() and not path.is_file():
        raise _unreadable(path, "a file", "none", "Check the path.")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        fix = "A SavedModel folder becomes a file by Keras' `model.save`." if path.is_dir() else "Name another file."
        raise _unreadable(path, f"a file of {', '.join(READERS)}", repr(path.name), fix)
    if path.is_dir():
        raise _unreadable(path, "a file", "a folder", "Name the file in it.")
    if path.stat().st_size > MAX_BYTES:
        raise _unreadable(path, f"at most {MAX_BYTES} bytes", f"{path.stat().st_size}", "Name another file.")
    try:
        return reader(path.read_bytes(), backbone, whole)
    except ZooError as error:
        error.where = f"{path}, {error.where}" if error.where else path
        raise
    except Exception as error:  # whatever the parsers raise for a malformed file
        found = f"{type(error).__name__}: {one_line(error)}".rstrip(".")
        raise _unreadable(path, f"a sound {path.suffix} file", found, "Save it again where it comes from.") from error


def in_folder(folder: str | Path) -> Path:
    """Finds the weights in a folder, in the order in which timm looks for them.

    Args:
        folder: The folder.

    Returns:
        The file.

    Raises:
        ConversionError: If there is none.
    """
    folder = Path(folder)
    for pattern in FOLDER_PATTERNS:
        if found := sorted(file for file in folder.glob(pattern) if file.is_file()):
            return found[0]
    raise _unreadable(folder, "a folder with weights, such as model.safetensors", "none in it", "Check the path.")


def _unreadable(path: Path, expected: str, found: str, fix: str) -> ConversionError:
    return ConversionError("cannot read a file of weights", expected=expected, found=found, where=path, fix=fix)


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

"""The files that state dicts come in: of PyTorch, safetensors and Keras.

They are read as data alone. No pickled object, Python code or Keras layer in them comes to life: PyTorch's
are read with `weights_only`, and Keras' through `h5py`, without Keras.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnv2zoo.convert import keras_files
from mnv2zoo.errors import ConversionError, ZooError
from mnv2zoo.files import MAX_BYTES


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        tensors: A state dict, or a checkpoint that holds one, in whatever layout.
        preprocessing: What the file tells of the images that its network expects, as timm names it:
            `input_size`, and `mean` and `std` where a layer of a Keras model normalises them.
    """

    tensors: Mapping[str, Any]
    preprocessing: Mapping[str, Any] = field(default_factory=dict)


def read(path: str | Path, backbone: bool = False) -> Checkpoint:
    """Reads a file of weights.

    Args:
        path: A file of safetensors, of PyTorch (`.pt`, `.pth`, `.bin`, `.ckpt`, `.tar`), or of Keras: a
            model (`.keras`, `.h5`) or weights (`.weights.h5`, `.h5`).
        backbone: Whether only the backbone of a Keras model is wanted, so that its own head does not
            matter.

    Returns:
        What it holds.

    Raises:
        ConversionError: If it cannot be read, or is a Keras model that does more to its images than the
            zoo's network can.
        MissingExtraError: If it is Keras' and `h5py` is not installed.
    """
    path = Path(path)
    reader = READERS.get(path.suffix)
    if reader is None:
        fix = "A SavedModel folder becomes a file by Keras' `model.save`." if path.is_dir() else "Name another file."
        raise _unreadable(path, f"a file of {', '.join(READERS)}", repr(path.name), fix)
    if not path.is_file():
        raise _unreadable(path, "a file", "none", "Check the path.")
    if path.stat().st_size > MAX_BYTES:
        raise _unreadable(path, f"at most {MAX_BYTES} bytes", f"{path.stat().st_size}", "Name another file.")
    try:
        return reader(path.read_bytes(), backbone)
    except ZooError as error:
        error.where = f"{path}, {error.where}" if error.where else path
        raise
    except Exception as error:  # whatever the parsers raise for a malformed file
        found = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200].rstrip(".")
        raise _unreadable(path, f"a sound {path.suffix} file", found, "Save it anew where it comes from.") from error


def _unreadable(path: Path, expected: str, found: str, fix: str) -> ConversionError:
    return ConversionError("cannot read a file of weights", expected=expected, found=found, where=path, fix=fix)


def _safetensors(data: bytes, backbone: bool) -> Checkpoint:
    import safetensors.torch

    return Checkpoint(safetensors.torch.load(data))


def _torch(data: bytes, backbone: bool) -> Checkpoint:
    import torch

    checkpoint = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if not isinstance(checkpoint, Mapping):
        raise TypeError(f"{type(checkpoint).__name__} in place of a state dict")
    return Checkpoint(checkpoint)


def _keras(data: bytes, backbone: bool) -> Checkpoint:
    return Checkpoint(*keras_files.read(data, backbone))


READERS: dict[str, Callable[[bytes, bool], Checkpoint]] = {
    ".safetensors": _safetensors,
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt", ".tar"), _torch),
    **dict.fromkeys((".keras", ".h5", ".hdf5"), _keras),
}

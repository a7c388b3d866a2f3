"""Reads PyTorch files as data. This is the only place where untrusted pickles are opened.

Besides tensors and plain values, a checkpoint may contain training settings. Common classes of settings are read as
empty stand-ins. None of them is imported, and none of their code runs. Any other class raises an error.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import re
import threading
import zipfile
from collections.abc import Iterator
from typing import Any

from mnv2zoo.errors import ConversionError, one_line
from mnv2zoo.system.files import MAX_BYTES

# Classes that training programs of timm and Lightning save besides the tensors, by module.
SETTINGS = {
    "argparse": ("Namespace",),
    "pathlib": ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path"),
    "pathlib._local": ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path"),  # Python 3.13
    "numpy": ("dtype",),
    "numpy.core.multiarray": ("scalar",),
    "numpy._core.multiarray": ("scalar",),  # numpy 2
    "lightning.fabric.utilities.data": ("AttributeDict",),
    "lightning_fabric.utilities.data": ("AttributeDict",),
    "pytorch_lightning.utilities.parsing": ("AttributeDict",),
}
PICKLE = b"\x80"  # first byte of a pickle since protocol 2
_ADVICE = re.compile(r"weights_only|safe_globals|serialization|trust|https?:|two options", re.I)


class _StandIn:
    """Accepts everything that a pickle builds it with, and discards it."""

    def __new__(cls, *args: object, **kwargs: object) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _Dict:
    """Turns into a plain dict, the only mapping that PyTorch fills from a pickle."""

    def __new__(cls, *args: object) -> Any:
        return {}


STAND_INS: list[Any] = [
    type(name, (_Dict if name == "AttributeDict" else _StandIn,), {"__module__": module, "__qualname__": name})
    for module, names in SETTINGS.items()
    for name in names
]
_LOCK = threading.Lock()  # PyTorch's list of allowed classes is global to the process


def read(data: bytes) -> Any:
    """Reads a file written by `torch.save`.

    Args:
        data: The content of the file.

    Returns:
        The saved object, with stand-ins for settings.

    Raises:
        ConversionError: If the file contains anything but tensors and containers, or was not written by `torch.save`.
    """
    import torch

    try:
        _check_records(data)
        with _allowing(STAND_INS):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except ConversionError:
        raise
    except Exception as error:  # malformed files can raise anything
        raise _refusal(error) from error


def _check_records(data: bytes) -> None:
    """Rejects anything but an archive or a pickle, and archives that unpack to more than the size limit."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        if data[:1] != PICKLE and data[257:262] != b"ustar":
            kind = "a truncated archive" if data[:2] == b"PK" else "neither an archive nor a pickle"
            raise ValueError(kind if data else "an empty file")
        return
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = archive.infolist()
    if any(record.filename.endswith("/constants.pkl") for record in records):
        raise ValueError("TorchScript")
    if (size := sum(record.file_size for record in records)) > MAX_BYTES:
        raise ValueError(f"records of {size} bytes, more than the limit of {MAX_BYTES}")


@contextlib.contextmanager
def _allowing(classes: list[Any]) -> Iterator[None]:
    from torch import serialization

    with _LOCK:
        before = serialization.get_safe_globals()
        serialization.add_safe_globals(classes)
        try:
            yield
        finally:
            serialization.clear_safe_globals()
            serialization.add_safe_globals(before)


def _refusal(error: Exception) -> ConversionError:
    # PyTorch wraps the reason in advice to load the file unsafely. Do not pass that on.
    inner = error.__context__ if isinstance(error, pickle.UnpicklingError) and error.__context__ else error
    text = one_line(inner)
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        return ConversionError(
            f"the file contains an object of the class {found[1]}, which is not allowed",
            expected="tensors, plain values, and settings of argparse, pathlib, numpy and Lightning",
            found=f"the class {found[1]}",
            fix="Save only the weights: `torch.save(model.state_dict(), FILE)`.",
        )
    if "TorchScript" in text:
        return ConversionError(
            "the file contains a TorchScript program",
            expected="a state dict, or a checkpoint that contains one",
            found="a TorchScript archive",
            fix="Save only the weights: `torch.save(torch.jit.load(FILE).state_dict(), OTHER_FILE)`.",
        )
    sentences = [part for part in re.split(r"(?<=[.!?]) +", text) if not _ADVICE.search(part)]
    return ConversionError(
        "the file is not a valid PyTorch checkpoint",
        expected="a complete file written by `torch.save`",
        found=f"{type(inner).__name__}: {sentences[0] if sentences else 'it cannot be unpickled'}".rstrip(".: "),
        fix="Download or save the file again.",
    )

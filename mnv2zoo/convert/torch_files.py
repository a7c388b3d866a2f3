"""PyTorch's files, read as data: the one place where pickles of other people are opened.

Besides tensors and plain values, a checkpoint may hold the settings of its training. The classes that are common
there are read as empty stand-ins; none of them is imported, and nothing of theirs runs. Any other class is refused.
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

# What timm's and Lightning's training programs save beside the tensors, by module.
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
PICKLE = b"\x80"  # as a pickle starts since protocol 2
_ADVICE = re.compile(r"weights_only|safe_globals|serialization|trust|https?:|two options", re.I)


class _StandIn:
    """Takes what a pickle builds it with, and keeps nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _Dict:
    """Becomes a plain dict: PyTorch fills no other kind from a pickle."""

    def __new__(cls, *args: object) -> Any:
        return {}


STAND_INS: list[Any] = [
    type(name, (_Dict if name == "AttributeDict" else _StandIn,), {"__module__": module, "__qualname__": name})
    for module, names in SETTINGS.items()
    for name in names
]
_LOCK = threading.Lock()  # what PyTorch allows is one list for the whole process


def read(data: bytes) -> Any:
    """Reads what `torch.save` wrote.

    Args:
        data: The file.

    Returns:
        What was saved, with stand-ins for settings.

    Raises:
        ConversionError: If it holds objects of other classes, or is no such file.
    """
    import torch

    try:
        _check_records(data)
        with _allowing(STAND_INS):
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except ConversionError:
        raise
    except Exception as error:  # whatever is raised for a malformed file
        raise _refusal(error) from error


def _check_records(data: bytes) -> None:
    """Refuses what is no archive or pickle, and an archive that unpacks to more than is read of any file."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        if data[:1] != PICKLE and data[257:262] != b"ustar":
            kind = "an archive that is cut short" if data[:2] == b"PK" else "neither an archive nor a pickle"
            raise ValueError(kind if data else "an empty file")
        return
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = archive.infolist()
    if any(record.filename.endswith("/constants.pkl") for record in records):
        raise ValueError("TorchScript")
    if (size := sum(record.file_size for record in records)) > MAX_BYTES:
        raise ValueError(f"records of {size} bytes, of which at most {MAX_BYTES} are read")


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
    # PyTorch wraps the reason in advice to load the file unsafely, which is not passed on.
    inner = error.__context__ if isinstance(error, pickle.UnpicklingError) and error.__context__ else error
    text = one_line(inner)
    if found := re.search(r"GLOBAL ([\w.]+)", text):
        return ConversionError(
            "the file holds an object of a class that is not allowed",
            expected="tensors, plain values, and settings of argparse, pathlib, numpy and Lightning",
            found=f"the class {found[1]}",
            fix="Save the weights alone: `torch.save(model.state_dict(), FILE)`.",
        )
    if "TorchScript" in text:
        return ConversionError(
            "the file holds a program of TorchScript",
            expected="a state dict, or a checkpoint that holds one",
            found="a TorchScript archive",
            fix="Save the weights alone: `torch.save(torch.jit.load(FILE).state_dict(), OTHER_FILE)`.",
        )
    sentences = [part for part in re.split(r"(?<=[.!?]) +", text) if not _ADVICE.search(part)]
    return ConversionError(
        "the file is not a sound checkpoint of PyTorch",
        expected="a file that `torch.save` wrote, whole",
        found=f"{type(inner).__name__}: {sentences[0] if sentences else 'it cannot be unpickled'}".rstrip(".: "),
        fix="Save it again where it comes from.",
    )

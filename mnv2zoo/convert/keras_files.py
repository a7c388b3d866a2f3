"""Reads Keras files without Keras: HDF5, and zip files that contain HDF5.

| file | content |
| --- | --- |
| `model.keras` | zip file with `config.json` and `model.weights.h5` |
| `.weights.h5` | `layers/conv2d_3/vars/0`: groups named after layer classes; newer files also have the layer names |
| `model.h5` | one group per layer in `model_weights`, and the model's configuration as an attribute |
| `.h5` with weights only | one group per layer |

A configuration says what a model does to its images before the backbone and to its features after it, which the weights
do not show. None of it is executed. Anything that would change the output and is not part of a MobileNetV2 raises an
error.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv2zoo.convert.layouts import keras
from mnv2zoo.convert.layouts.native import Tensors
from mnv2zoo.errors import ConversionError, MissingExtraError
from mnv2zoo.system.files import MAX_BYTES
from mnv2zoo.system.installation import install_command

if TYPE_CHECKING:
    import torch

MAX_CONFIG_BYTES = 2**24  # a MobileNetV2 configuration is about 100 kB
MAX_RATIO = 1100  # deflate reaches 1032
ZIP_CONFIG, ZIP_WEIGHTS = "config.json", "model.weights.h5"

# The variables of a layer in the order in which Keras 3 numbers them.
VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "depthwise_conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
}
# A model's layer names in the order in which Keras 3 numbers them per class.
NUMBERED = {
    "conv2d": [name for name in keras.LAYERS[:-1:2] if not name.endswith("depthwise")],
    "depthwise_conv2d": [name for name in keras.LAYERS[:-1:2] if name.endswith("depthwise")],
    "batch_normalization": list(keras.LAYERS[1::2]),
}

# Layers that do not change the output, or that the model has itself.
HARMLESS = re.compile(
    r"Identity|Dense|GlobalAveragePooling2D|Flatten|Activation|Softmax|ActivityRegularization"
    r"|.*Dropout.*|Gaussian.*|Random(?!Crop).*"
)
# The model's own layers without weights.
OWN = re.compile(r"(expanded_conv|block_\d+)_(pad|add|(expand|depthwise|project)_relu)|Conv1_pad|Conv1_relu|out_relu")
# What `preprocess_input` becomes inside a model, in Keras 3 and in Keras 2.
DIVISIONS, SUBTRACTIONS = ("TrueDivide", "math.truediv"), ("Subtract", "math.subtract")


def read(data: bytes, backbone: bool = False) -> tuple[Tensors, dict[str, Any]]:
    """Reads the weights from a Keras file.

    Args:
        data: The content of the file.
        backbone: Read only the backbone, and accept any layers after it.

    Returns:
        The tensors by the keys of `convert/layouts/keras.py`, and `input_size`, `mean` and `std` from the
        configuration.

    Raises:
        ConversionError: If the model does something that a MobileNetV2 cannot.
        MissingExtraError: If `h5py` is not installed.
        Exception: Any error of the parsers, if the file is malformed.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError(
            f"reading Keras files needs the package {error.name}",
            expected="the extra `keras`",
            found=f"no {error.name}",
            fix=f"Run: {install_command('keras')}",
        ) from error
    config = None
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            config = json.loads(_member(archive, ZIP_CONFIG, MAX_CONFIG_BYTES))
            data = _member(archive, ZIP_WEIGHTS, MAX_BYTES)
    with h5py.File(io.BytesIO(data), "r") as file:
        if (text := _attribute(file, "model_config")) is not None:
            config = json.loads(text)
        preprocessing = {} if config is None else _preprocessing(config, backbone)
        group = file.get("model_weights", file)
        by_name = any(name.startswith("layer_names") for name in group.attrs)
        tensors = dict(_by_name(group) if by_name else _by_class(group))
    return keras.without_head(tensors) if backbone else keras.flat(tensors), preprocessing


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    if archive.getinfo(name).file_size > most:
        raise ValueError(f"{name} is larger than {most} bytes")
    return archive.read(name)


def _attribute(item: Any, name: str) -> Any:
    """Returns the text of an attribute, or None. Its claimed shape is checked before memory is allocated."""
    if name not in item.attrs:
        return None
    if _size(item.attrs.get_id(name)) > MAX_CONFIG_BYTES:
        raise ValueError(f"the attribute {name} is larger than {MAX_CONFIG_BYTES} bytes")
    return item.attrs[name]


def _size(array: Any) -> int:
    """Returns the number of bytes that an array's shape claims, as an integer that cannot overflow."""
    return math.prod(map(int, array.shape or ())) * int(array.dtype.itemsize)


def _datasets(group: Any) -> dict[str, Any]:
    """Lists the arrays below a group by path, without following links."""
    import h5py

    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item

    group.visititems(visit)
    return found


def _tensors(arrays: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Reads arrays. Rejects arrays in other files, and arrays that claim more bytes than the file has."""
    import torch

    if sum(map(_size, arrays.values())) > MAX_BYTES:
        raise ValueError(f"arrays of more than {MAX_BYTES} bytes")
    for key, array in arrays.items():
        if array.shape is None:
            raise ValueError(f"{key} has no values")
        if array.external or array.is_virtual:
            raise ValueError(f"{key} is in another file")
        if array.dtype.kind not in "fiu":
            raise ValueError(f"{key} has the type {array.dtype}, not numbers")
        # HDF5 fills in what is not stored, so a small file could make it allocate any amount of memory.
        filters = array.id.get_create_plist().get_nfilters()
        if array.id.get_storage_size() * (MAX_RATIO if filters else 1) < _size(array):
            raise ValueError(f"{key} claims {_size(array)} bytes, but the file contains fewer")
        yield key, torch.from_numpy(np.asarray(array[()], dtype=array.dtype.newbyteorder("=")))


def _by_name(group: Any) -> Iterator[tuple[str, torch.Tensor]]:
    arrays = _datasets(group)
    return _tensors({key: array for key, array in arrays.items() if not key.endswith(keras.RANDOM_STATE)})


def _by_class(group: Any) -> Iterator[tuple[str, torch.Tensor]]:
    arrays: dict[str, Any] = {}
    for path, array in _datasets(group).items():
        *outer, layer, variables, number = ("", "", *path.split("/"))
        if variables != "vars" or layer == "seed_generator" or path.startswith("optimizer/"):
            continue
        kind, _, place = re.fullmatch(r"(.+?)(_(\d+))?|", layer).groups()  # type: ignore[union-attr]
        name = _attribute(group[path].parent, "name") or _numbered(kind, int(place or 0)) or layer
        known = dict(enumerate(VARIABLES.get(kind, ())))
        arrays["/".join((*outer, name, known.get(int(number), number)))] = array
    return _tensors(arrays)


def _numbered(kind: str, place: int) -> str:
    return dict(enumerate(NUMBERED.get(kind, ()))).get(place, "")


def _preprocessing(config: dict[str, Any], backbone: bool) -> dict[str, Any]:
    """Finds a model's preprocessing, and rejects what a MobileNetV2 cannot do."""
    found: dict[str, Any] = {}
    scale, shift = np.ones(3), np.zeros(3)  # of input colors from 0 to 255
    rescaled, before = False, True
    for layer in _layers(config):
        kind, values = layer["class_name"], layer["config"]
        if values.get("name") in keras.LAYERS or OWN.fullmatch(str(values.get("name"))):
            before = False
        elif kind == "InputLayer":
            _, *size = values.get("batch_shape") or values["batch_input_shape"]
            if len(size) == 3 and None not in size and size[2] == 3:
                found.setdefault("input_size", (size[2], *size[:2]))
        elif before and kind == "Rescaling":
            scale, shift, rescaled = scale * values["scale"], shift * values["scale"] + values["offset"], True
        elif before and values.get("function", kind) in DIVISIONS:
            scale, shift, rescaled = scale / _number(layer), shift / _number(layer), True
        elif before and values.get("function", kind) in SUBTRACTIONS:
            shift, rescaled = shift - _number(layer), True
        elif not (HARMLESS.fullmatch(kind) or (backbone and not before)):
            raise ConversionError(
                f"the Keras model has a layer that a MobileNetV2 cannot have: {values.get('name')!r}"[:200],
                expected="one dense layer after global average pooling, and only rescaling before the backbone",
                found=f"{kind} {values.get('name')!r}",
                fix="If the layer does not matter, save only the weights (`model.save_weights`) and convert them, with "
                "--mean and --std for the preprocessing. --backbone leaves out layers after the backbone.",
            )
    if rescaled:
        std = 1 / (255 * scale)
        found |= {"mean": tuple((-shift * std).round(6).tolist()), "std": tuple(std.round(6).tolist())}
    return found


def _layers(model: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Lists the layers of a model and of its nested models. A model of a custom class counts as one layer."""
    if "layers" not in model["config"]:
        yield model
        return
    for layer in model["config"]["layers"]:
        yield from _layers(layer)


def _number(layer: dict[str, Any]) -> float:
    """Returns the number in an operation such as `images / 127.5`, in the notation of Keras 3 or Keras 2."""
    node = layer["inbound_nodes"][0]
    return float(node["args"][1] if isinstance(node, dict) else node[-1]["y"])

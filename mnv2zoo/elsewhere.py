"""From a file of another library's weights to a folder that timm and the command line take as a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm

from mnv2zoo import architecture, convert, network, registry
from mnv2zoo.errors import ConversionError, RunError
from mnv2zoo.files import vacant, whole_file, whole_folder


@dataclass(frozen=True)
class Converted:
    """A folder with a network that came from elsewhere.

    Attributes:
        directory: The folder.
        architecture: What the network is.
        layout: The layout that its weights came in.
        arguments: What it is built with: `num_classes`, `pad_type` and so on.
        preprocessing: What it expects of images, as timm names it.
        assumed: What of that neither the file tells nor the caller said.
    """

    directory: Path
    architecture: str
    layout: str
    arguments: dict[str, Any]
    preprocessing: dict[str, Any]
    assumed: tuple[str, ...]


def bring(
    file: str | Path,
    out: str | Path,
    model_name: str | None = None,
    *,
    backbone: bool = False,
    pad_type: str | None = None,
    label_names: Sequence[str] = (),
    preprocessing: Mapping[str, Any] | None = None,
) -> Converted:
    """Converts a file of weights in any layout that `convert` knows.

    Args:
        file: A file as for `convert.read`.
        out: The folder to make: one that is not there yet, or empty. Afterwards
            `timm.create_model(f"local-dir:{out}", pretrained=True)` gives the network.
        model_name: The architecture; found by the shapes of the weights if None.
        backbone: Leave out the classifier, and whatever other head a Keras model has.
        pad_type: Padding as `MobileNetV2` names it; that of the layout's library if None.
        label_names: Names of the classes in class order, if they are known.
        preprocessing: What the network expects of images, as timm names it, where it is not what the
            file tells or what the library's own networks expect.

    Returns:
        What was made.

    Raises:
        ConversionError: If the file cannot be read or is of no network of the zoo, or the names are not
            as many as the classes.
        UnknownModelError: If there is no such architecture.
        MissingExtraError: If it is a file of Keras and `h5py` is not installed.
        RunError: If the folder is something else or cannot be written.
    """
    checkpoint, out = convert.read(file, backbone), Path(out)
    if not vacant(out):
        raise RunError("the folder must be new or empty", found="something else", where=out, fix="Choose another.")
    try:
        name, layout = convert.identify(checkpoint.tensors)
        if model_name is not None:
            name = architecture.get(model_name).name
        tensors = convert.to_native(checkpoint.tensors, name, layout)
    except ConversionError as error:
        error.where = ", ".join(str(place) for place in (file, error.where) if place is not None)
        raise
    if backbone:
        tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith(registry.CLASSIFIER_KEYS)}

    arguments = _arguments(tensors, name)
    arguments["pad_type"] = convert.LAYOUTS[layout].pad_type if pad_type is None else pad_type
    classes = arguments["num_classes"]
    if label_names and len(label_names) != classes:
        raise ConversionError("names of other classes", expected=f"{classes} names", found=f"{len(label_names)}")
    told = {**checkpoint.preprocessing, **(preprocessing or {})}
    size = (arguments["in_chans"], 224, 224)
    expected = {"input_size": size, **convert.LAYOUTS[layout].preprocessing, **told}
    published = registry.pretrained_cfg(architecture.get(name))
    cfg = replace(published, num_classes=classes, pool_size=None, state_dict=tensors, **expected)
    model: Any = timm.create_model(name, pretrained=True, pretrained_cfg=cfg, **arguments)
    fitted = network.image_config(cfg.to_dict(), arguments["in_chans"], test=False)
    expected = {key: fitted[key] for key in ("input_size", "mean", "std", "interpolation", "crop_pct")}
    _write(out, network.files(model, expected, label_names))
    return Converted(out, name, layout, arguments, expected, tuple(key for key in expected if key not in told))


def _arguments(tensors: convert.native.Tensors, name: str) -> dict[str, Any]:
    """What a network is built with to hold the tensors."""
    weight = tensors.get("classifier.weight")
    arguments = {
        "num_classes": 0 if weight is None else weight.shape[0],
        "in_chans": tensors["conv_stem.weight"].shape[1],
    }
    form = convert.as_built(architecture.get(name), tensors).classifier
    return arguments if form == architecture.get(name).classifier else arguments | {"classifier": form}


def _write(directory: Path, files: Mapping[str, bytes]) -> None:
    try:
        with whole_folder(directory) as made:
            for name, data in files.items():
                with whole_file(made / name) as file:
                    file.write(data)
    except OSError as error:
        raise RunError("cannot write the folder", found=error.strerror or str(error), where=directory) from error

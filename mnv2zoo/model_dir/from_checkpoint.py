"""From a file of another library's weights to a folder that timm and the command line take as a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnv2zoo import architecture, convert
from mnv2zoo.errors import ConversionError, RunError
from mnv2zoo.system.files import vacant, whole_file, whole_folder


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
        taken: The checkpoint's entry that the weights were, such as `state_dict_ema`; empty if the file held only them.
    """

    directory: Path
    architecture: str
    layout: str
    arguments: dict[str, Any]
    preprocessing: dict[str, Any]
    assumed: tuple[str, ...]
    taken: str = ""


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
        backbone: Leave out the classifier, or whatever other head there is.
        pad_type: Padding as `MobileNetV2` names it; that of the layout's library if None.
        label_names: Names of the classes in class order, if they are known.
        preprocessing: What the network expects of images, as timm names it, where it is not what the
            file tells or what the library's own networks expect. `input_size` may be the side alone.

    Returns:
        What was made.

    Raises:
        ConversionError: If the file cannot be read or is of no network of the zoo, or the names are not
            as many as the classes.
        UnknownModelError: If there is no such architecture.
        MissingExtraError: If it is a file of Keras and `h5py` is not installed.
        RunError: If the folder is something else or cannot be written.
    """
    out = Path(out)
    if not vacant(out):
        raise RunError("the folder must be new or empty", found="something else", where=out, fix="Choose another.")
    checkpoint = convert.read(file, backbone)
    import timm

    from mnv2zoo.model_dir import files
    from mnv2zoo.models import pretrained
    from mnv2zoo.models.cfg import pretrained_cfg

    try:
        given = convert.without_head(checkpoint.tensors) if backbone else checkpoint.tensors
        name, layout = convert.identify(given)
        if model_name is not None:
            name = architecture.get(model_name).name
        tensors = convert.to_native(given, name, layout)
    except ConversionError as error:
        error.where = ", ".join(str(place) for place in (file, error.where) if place is not None)
        raise
    arguments = _arguments(tensors, name)
    arguments["pad_type"] = convert.LAYOUTS[layout].pad_type if pad_type is None else pad_type
    classes = arguments["num_classes"]
    if label_names and len(label_names) != classes:
        raise ConversionError("names of other classes", expected=f"{classes} names", found=f"{len(label_names)}")
    told = {**checkpoint.preprocessing, **(preprocessing or {})}
    size = (arguments["in_chans"], 224, 224)
    if "input_size" in told:
        told["input_size"] = _size(told["input_size"], arguments["in_chans"])
    expected = {"input_size": size, **convert.LAYOUTS[layout].preprocessing, **told}
    published = timm.models.PretrainedCfg(**pretrained_cfg(architecture.get(name)))
    for key in ("mean", "std"):
        given = told.get(key, ())
        expected[key] = _colours(key, given or expected.get(key, getattr(published, key)), arguments["in_chans"], given)
    cfg = replace(published, num_classes=classes, pool_size=None, state_dict=tensors, **expected)
    model: Any = timm.create_model(name, pretrained=True, pretrained_cfg=cfg, **arguments)
    fitted = pretrained.image_config(cfg.to_dict(), arguments["in_chans"], test=False)
    expected = {key: fitted[key] for key in ("input_size", "mean", "std", "interpolation", "crop_pct")}
    _write(out, files.files(model, expected, label_names))
    assumed = tuple(key for key in expected if key not in told)
    return Converted(out, name, layout, arguments, expected, assumed, checkpoint.taken)


def _size(given: Any, channels: int) -> tuple[int, int, int]:
    size = (channels, given, given) if isinstance(given, int) else tuple(given)
    if len(size) != 3 or size[0] != channels:
        raise ConversionError(
            "the input size is of other channels than the weights",
            expected=f"{channels} channels, height and width",
            found=size,
            where="input_size",
            fix="Give the side alone, or the channels of the weights.",
        )
    return size


def _colours(key: str, values: Sequence[float], channels: int, given: Sequence[float]) -> tuple[float, ...]:
    """Values for each channel: those of RGB stand for other channels by their average, unless they were given."""
    if len(values) == channels:
        return tuple(values)
    if given and len(set(given)) > 1:
        raise ConversionError(
            f"{key} has values for other channels than the weights",
            expected=f"{channels} values, or one value for all channels",
            found=tuple(given),
            where=key,
            fix="Give the same number for each colour; it is taken for every channel.",
        )
    return (round(sum(values) / len(values), 6),) * channels


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

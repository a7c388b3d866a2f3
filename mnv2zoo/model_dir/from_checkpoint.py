"""Converts another library's checkpoint to a model folder that timm and the command line can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mnv2zoo import architecture, convert
from mnv2zoo.convert.fit import as_built
from mnv2zoo.convert.layouts.native import Tensors
from mnv2zoo.convert.recognize import require_head
from mnv2zoo.convert.state_dict import Found
from mnv2zoo.data.preprocessing import per_channel
from mnv2zoo.errors import ConversionError, RunError
from mnv2zoo.models import config_file
from mnv2zoo.system.files import vacant, whole_file, whole_folder


@dataclass(frozen=True)
class Converted:
    """A model folder that was converted from a checkpoint.

    Attributes:
        directory: The folder.
        architecture: Name of the architecture.
        layout: The layout of the checkpoint.
        arguments: The arguments for building the model: `num_classes`, `pad_type` and so on.
        preprocessing: The preprocessing, in timm's terms.
        assumed: Keys of `preprocessing` that neither the file nor the caller specified.
        found: Where the weights were in the file: the checkpoint entry, the prefix of their names, and what was left
            out.
        obstacle: Why plain timm cannot open the folder without this package. Empty if it can.
    """

    directory: Path
    architecture: str
    layout: str
    arguments: dict[str, Any]
    preprocessing: dict[str, Any]
    assumed: tuple[str, ...]
    found: Found
    obstacle: str = ""


def convert_checkpoint(
    file: str | Path,
    out: str | Path,
    model_name: str | None = None,
    *,
    backbone: bool = False,
    pad_type: str | None = None,
    label_names: Sequence[str] = (),
    preprocessing: Mapping[str, Any] | None = None,
) -> Converted:
    """Converts a checkpoint in any layout that `convert` knows to a model folder.

    Args:
        file: A file as for `convert.read`.
        out: The folder, new or empty. Load it with `timm.create_model(f"local-dir:{out}", pretrained=True)`.
        model_name: The architecture. None detects it from the shapes of the weights.
        backbone: Leave out the classifier or any other head.
        pad_type: Padding as for `MobileNetV2`. None uses that of the layout's library.
        label_names: Class names in class order, if known.
        preprocessing: Preprocessing in timm's terms, which overrides that of the file and of the library. `input_size`
            may be a single number, the side.

    Returns:
        The model folder and what was found.

    Raises:
        ConversionError: If the file cannot be read or matches no model, or the number of names and of classes differ.
        UnknownModelError: If no architecture has that name.
        MissingExtraError: If it is a Keras file and `h5py` is not installed.
        RunError: If the folder is not empty or cannot be written.
    """
    out = Path(out)
    if not vacant(out):
        raise RunError(
            f"the folder {out} is not empty",
            expected="a new or empty folder",
            found="other files",
            where=out,
            fix="Choose another folder.",
        )
    checkpoint = convert.read(file, backbone)
    name, layout, tensors = _native(checkpoint.found, file, model_name, backbone)
    arguments = _arguments(tensors, name)
    arguments["pad_type"] = convert.LAYOUTS[layout].pad_type if pad_type is None else pad_type
    classes = arguments["num_classes"]
    if label_names and len(label_names) != classes:
        raise ConversionError(
            f"{len(label_names)} class names do not match weights with {classes} classes",
            expected=f"{classes} names",
            found=f"{len(label_names)} names",
            where="label_names",
            fix="List one name per class, in class order.",
        )
    given = {**checkpoint.preprocessing, **(preprocessing or {})}
    contents, data_config = _build(name, layout, tensors, arguments, given, label_names)
    _write(out, contents)
    assumed = tuple(key for key in data_config if key not in given)
    obstacle = config_file.obstacle({"architecture": name, "model_args": arguments})
    return Converted(out, name, layout, arguments, data_config, assumed, checkpoint.found, obstacle)


def _native(found: Found, file: str | Path, model_name: str | None, backbone: bool) -> tuple[str, str, Tensors]:
    """Returns the architecture, the layout, and the tensors in the native layout."""
    try:
        theirs = convert.without_head(found.tensors) if backbone else found.tensors
        name, layout = convert.identify(theirs)
        if model_name is not None:
            name = architecture.get(model_name).name
        converted = convert.to_native(theirs, name, layout)
        if not backbone:
            require_head(found, converted)
        return name, layout, converted
    except ConversionError as error:
        error.where = ", ".join(str(place) for place in (file, error.where) if place is not None)
        raise


def _build(
    name: str,
    layout: str,
    tensors: Tensors,
    arguments: Mapping[str, Any],
    given: dict[str, Any],
    label_names: Sequence[str],
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Returns the files of the model folder, and the preprocessing in them."""
    import timm

    import mnv2zoo.models.registry  # noqa: F401  # registers the architectures with timm
    from mnv2zoo.data import transforms
    from mnv2zoo.model_dir import files
    from mnv2zoo.models.cfg import pretrained_cfg

    channels = arguments["in_chans"]
    if "input_size" in given:
        given["input_size"] = _size(given["input_size"], channels)
    settings = {"input_size": (channels, 224, 224), **convert.LAYOUTS[layout].preprocessing, **given}
    published = timm.models.PretrainedCfg(**pretrained_cfg(architecture.get(name)))
    for key in ("mean", "std"):
        own = given.get(key, ())
        settings[key] = _statistics(key, own or settings.get(key, getattr(published, key)), channels, own)
    classes = arguments["num_classes"]
    cfg = replace(published, num_classes=classes, pool_size=None, state_dict=tensors, **settings)
    model: Any = timm.create_model(name, pretrained=True, pretrained_cfg=cfg, **arguments)
    fitted = transforms.image_config(cfg.to_dict(), channels, test=False)
    data_config = {key: fitted[key] for key in ("input_size", "mean", "std", "interpolation", "crop_pct")}
    return files.model_files(model, data_config, label_names), data_config


def _size(given: Any, channels: int) -> tuple[int, int, int]:
    size = (channels, given, given) if isinstance(given, int) else tuple(given)
    if len(size) != 3 or size[0] != channels:
        raise ConversionError(
            f"the input size {size} does not match weights with {channels} channels",
            expected=f"{channels} channels, height and width",
            found=size,
            where="input_size",
            fix="Pass only the side, or use the channels of the weights.",
        )
    return size


def _statistics(key: str, values: Sequence[float], channels: int, given: Sequence[float]) -> tuple[float, ...]:
    """Returns one value per channel. The given values must match the channels, or all be the same."""
    if len(values) != channels and len(set(given)) > 1:
        raise ConversionError(
            f"{key} does not match weights with {channels} channels",
            expected=f"{channels} values, or one value for all channels",
            found=tuple(given),
            where=key,
            fix="Pass one value per channel, or the same number for each color to use it for every channel.",
        )
    return per_channel(values, channels)


def _arguments(tensors: Tensors, name: str) -> dict[str, Any]:
    """Returns the arguments for building a model for the tensors."""
    weight = tensors.get("classifier.weight")
    arguments = {
        "num_classes": 0 if weight is None else weight.shape[0],
        "in_chans": tensors["conv_stem.weight"].shape[1],
    }
    form = as_built(architecture.get(name), tensors).classifier
    return arguments if form == architecture.get(name).classifier else arguments | {"classifier": form}


def _write(directory: Path, files: Mapping[str, bytes]) -> None:
    try:
        with whole_folder(directory) as made:
            for name, data in files.items():
                with whole_file(made / name) as file:
                    file.write(data)
    except OSError as error:
        raise RunError(
            f"cannot write the folder {directory}",
            expected="a writable folder",
            found=error.strerror or str(error),
            where=directory,
            fix="Free some space or make the folder writable, or name another one.",
        ) from error

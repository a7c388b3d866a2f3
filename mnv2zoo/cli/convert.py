"""`mnv2zoo weights convert`: convert a checkpoint from another library."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mnv2zoo.cli.options import Debug, Json
from mnv2zoo.cli.output import print_json
from mnv2zoo.errors import ConversionError

if TYPE_CHECKING:
    from mnv2zoo.model_dir.from_checkpoint import Converted

EXAMPLE = """\b
Examples:
  mnv2zoo weights convert flowers.keras --out flowers
  mnv2zoo weights convert model.safetensors --pad-type same --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5
"""
Colors = tuple[float, float, float]


class Padding(StrEnum):
    """Padding of the convolutions."""

    SAME = "same"
    SYMMETRIC = "symmetric"


def command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A checkpoint from timm, torchvision, Transformers, Keras, OpenMMLab or another supported library. "
            "Its parameter names can have any prefix.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="A new or empty output folder. By default named after the file.", show_default=False
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The architecture. By default, detected from the weights."),
    ] = None,
    backbone: Annotated[bool, typer.Option("--backbone", help="Leave out the classifier or any other head.")] = False,
    labels: Annotated[
        Path | None, typer.Option(metavar="TEXT", help="A text file with the class names in order, one per line.")
    ] = None,
    pad_type: Annotated[
        Padding | None,
        typer.Option(
            help="Padding of the convolutions: 'same', as in TensorFlow, or 'symmetric'. By default, as the source "
            "library pads."
        ),
    ] = None,
    input_size: Annotated[int | None, typer.Option(min=32, help="Side of the input images in pixels.")] = None,
    mean: Annotated[Colors | None, typer.Option(help="Mean per channel for normalization, from 0 to 1.")] = None,
    std: Annotated[
        Colors | None, typer.Option(help="Standard deviation per channel for normalization, from 0 to 1.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Convert a checkpoint from another library.

    Writes model.safetensors and config.json to FOLDER. Use it with `mnv2zoo predict --model FOLDER`, `mnv2zoo finetune
    --model FOLDER` or --init FOLDER, and in timm as local-dir:FOLDER. Checkpoints are read as data only: no code in
    them is run.
    """
    from mnv2zoo.model_dir import from_checkpoint

    preprocessing: dict[str, Any] = {"mean": mean, "std": std, "input_size": input_size}
    made = from_checkpoint.convert_checkpoint(
        file,
        out or Path(file.name.partition(".")[0]),
        model,
        backbone=backbone,
        pad_type=pad_type and pad_type.value,
        label_names=_lines(labels) if labels else (),
        preprocessing={key: value for key, value in preprocessing.items() if value is not None},
    )
    if as_json:
        print_json(
            {"out": str(made.directory), "architecture": made.architecture, "layout": made.layout}
            | {"taken": made.found.taken or None, "prefix": made.found.prefix, "left_out": list(made.found.left_out)}
            | {"arguments": made.arguments, "preprocessing": made.preprocessing, "assumed": made.assumed}
        )
    else:
        _print(made)


def _print(made: Converted) -> None:
    padding = "as TensorFlow does" if made.arguments["pad_type"] == "same" else "symmetrically"
    print(f"wrote {made.directory}: {made.architecture} from the layout {made.layout}, padded {padding}")
    print(f"weights: {made.found}")
    print(f"classes: {made.arguments['num_classes'] or 'none, a backbone'}")
    for key, value in made.preprocessing.items():
        print(f"{key}: {value}{' (assumed: not recorded in the file)' * (key in made.assumed)}")
    after = f", after `import mnv2zoo`: {made.obstacle}" if made.obstacle else ""
    print(f'load it: timm.create_model("local-dir:{made.directory}", pretrained=True){after}')


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConversionError(
            "the file with the class names cannot be read",
            expected="UTF-8 text",
            found="bytes that are not UTF-8",
            where=file,
            fix="Save the file as UTF-8.",
        ) from error

"""`mnv2zoo weights convert`: convert weights of another library."""

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
    """How convolutions pad."""

    SAME = "same"
    SYMMETRIC = "symmetric"


def command(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Weights of timm, torchvision, transformers, Keras, OpenMMLab and others, under any prefix.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="The folder, new or empty; by default named after the file.", show_default=False
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The architecture; by default the one that the weights fit."),
    ] = None,
    backbone: Annotated[
        bool, typer.Option("--backbone", help="Leave out the classifier, or whatever other head there is.")
    ] = False,
    labels: Annotated[
        Path | None, typer.Option(metavar="TEXT", help="A file with the class names in order, one per line.")
    ] = None,
    pad_type: Annotated[
        Padding | None,
        typer.Option(help="'same', as TensorFlow trains, or 'symmetric'; by default as the library's networks do."),
    ] = None,
    input_size: Annotated[int | None, typer.Option(min=32, help="Side of the images in pixels.")] = None,
    mean: Annotated[
        Colors | None, typer.Option(help="Mean of each color, from 0 to 1, for normalizing images.")
    ] = None,
    std: Annotated[Colors | None, typer.Option(help="Standard deviation of each color, from 0 to 1.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Convert weights of another library.

    The folder holds model.safetensors and config.json, for `mnv2zoo predict --model FOLDER`, `mnv2zoo finetune
    --model FOLDER` or --init FOLDER, and timm's local-dir:FOLDER. Files are read as data; no code in them runs.
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
    print(f"wrote {made.directory}: {made.architecture} from the layout {made.layout}, padding {padding}")
    print(f"weights: {made.found}")
    print(f"classes: {made.arguments['num_classes'] or 'none, a backbone'}")
    for key, value in made.preprocessing.items():
        print(f"{key}: {value}{' (assumed: the file does not tell)' * (key in made.assumed)}")
    after = f", after `import mnv2zoo`: {made.obstacle}" if made.obstacle else ""
    print(f'load it: timm.create_model("local-dir:{made.directory}", pretrained=True){after}')


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConversionError(
            "the names of the classes cannot be read",
            expected="text in UTF-8",
            found="other bytes",
            where=file,
            fix="Save the file as UTF-8.",
        ) from error

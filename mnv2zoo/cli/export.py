"""`mnv2zoo export`: a bundle that classifies, detects or segments without this package."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mnv2zoo.cli.options import Debug

EXAMPLE = "\b\nExample:\n  mnv2zoo export runs/tulips --format onnx --out tulips-onnx"


class Format(StrEnum):
    """What runs the bundle."""

    ONNX = "onnx"
    OPENVINO = "openvino"
    TORCH_EXPORT = "torch-export"
    EXECUTORCH = "executorch"
    LITERT = "litert"


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME|RUN",
            help="An architecture, architecture.tag, a run folder, or an hf-hub: name.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The bundle: a new or empty folder.")],
    format: Annotated[
        Format, typer.Option(help="For ONNX Runtime, OpenVINO, PyTorch, ExecuTorch or LiteRT.")
    ] = Format.ONNX,
    debug: Debug = False,
) -> None:
    """Export a network to a folder that runs elsewhere.

    The folder holds the model, its preprocessing and labels, a card, and predict.py, which needs the runtime,
    numpy and pillow alone. Its outputs are compared with the network's before it appears.
    """
    from mnv2zoo import deploy

    print(deploy.export(model, out, format.value))

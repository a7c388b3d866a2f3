"""`mnv2zoo export`: export a standalone bundle that runs without this package."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from mnv2zoo.cli.options import Debug

EXAMPLE = """\b
Examples:
  mnv2zoo export runs/tulips --format onnx --out tulips-onnx
  mnv2zoo export runs/tulips --format openvino --precision int8 --calibration photos/train --out tulips-int8
  mnv2zoo export runs/tulips --format onnx --opset 17 --out tulips-old
  mnv2zoo export runs/tulips --format litert --layout nhwc --out tulips-phone
  mnv2zoo export runs/tulips --format web --out tulips-web
"""


class Format(StrEnum):
    """The format of the bundle."""

    ONNX = "onnx"
    OPENVINO = "openvino"
    TORCH_EXPORT = "torch-export"
    EXECUTORCH = "executorch"
    LITERT = "litert"
    WEB = "web"


def command(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME|RUN",
            help="The model to export: a name from `mnv2zoo list`, with or without a tag, a run folder, or "
            "hf-hub:OWNER/NAME.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The bundle: a new or empty folder.")],
    format: Annotated[
        Format,
        typer.Option(
            help="The runtime of the bundle: 'onnx' for ONNX Runtime, 'openvino', 'torch-export' for PyTorch, "
            "'executorch', 'litert', or 'web' for a web page."
        ),
    ] = Format.ONNX,
    precision: Annotated[
        Literal["fp32", "fp16", "bf16", "int8"],
        typer.Option(
            help="Precision of the weights. 'fp16' and 'int8' work with the formats onnx, web, openvino and litert; "
            "'bf16' works with openvino."
        ),
    ] = "fp32",
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of a few hundred representative images, required for int8.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of images, with one subfolder per class, to measure the accuracy cost of the precision on. By "
            "default, the calibration images.",
            show_default=False,
        ),
    ] = None,
    opset: Annotated[
        int | None, typer.Option(help="ONNX opset, such as 17 for an older runtime.", show_default=False)
    ] = None,
    layout: Annotated[
        Literal["nchw", "nhwc"],
        typer.Option(help="Memory layout of the input: channels first or last. 'nhwc' works with litert."),
    ] = "nchw",
    runtime: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="For the format web: folder of the unpacked npm package onnxruntime-web. By default, it is downloaded "
            "from npm and verified.",
            show_default=False,
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Export a standalone bundle that runs without this package.

    The bundle contains the model, its preprocessing and labels, a model card, and a predict.py that needs only the
    runtime, numpy and pillow. With --format web, it contains a web page instead of predict.py. The bundle's outputs are
    compared with PyTorch's before it is written.
    """
    from mnv2zoo import deploy

    made = deploy.export(
        model,
        out,
        format.value,
        precision=precision,
        calibration=calibration,
        data=data,
        opset=opset,
        layout=layout,
        runtime=runtime,
    )
    print(made)

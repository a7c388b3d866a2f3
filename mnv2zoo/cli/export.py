"""`mnv2zoo export`: a bundle that classifies, detects or segments without this package."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from mnv2zoo.cli.options import Debug

EXAMPLE = """\b
Examples:
  mnv2zoo export runs/tulips --format onnx --out tulips-onnx
  mnv2zoo export runs/tulips --format openvino --precision int8 --calibration train --data val --out tulips
  mnv2zoo export runs/tulips --format onnx --opset 17 --out tulips-old
  mnv2zoo export runs/tulips --format litert --layout nhwc --out tulips-phone
  mnv2zoo export runs/tulips --format web --out tulips-web
"""


class Format(StrEnum):
    """What runs the bundle."""

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
            help="An architecture, architecture.tag, a run folder, or an hf-hub: name.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The bundle: a new or empty folder.")],
    format: Annotated[
        Format, typer.Option(help="For ONNX Runtime, OpenVINO, PyTorch, ExecuTorch, LiteRT or a browser.")
    ] = Format.ONNX,
    precision: Annotated[
        Literal["fp32", "fp16", "bf16", "int8"],
        typer.Option(help="'fp16' and 'int8' for onnx, web, openvino and litert; 'bf16' for openvino."),
    ] = "fp32",
    calibration: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images to calibrate int8 on.", show_default=False)
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Images to measure the loss of the precision on, in one subfolder per class; by default those that "
            "int8 is calibrated on.",
            show_default=False,
        ),
    ] = None,
    opset: Annotated[
        int | None, typer.Option(help="ONNX opset for an older runtime, such as 17.", show_default=False)
    ] = None,
    layout: Annotated[
        Literal["nchw", "nhwc"], typer.Option(help="How the model takes images; 'nhwc' for litert.")
    ] = "nchw",
    runtime: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="For web: the unpacked npm package onnxruntime-web; by default it is fetched from npm and verified.",
            show_default=False,
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Export a network to a folder that runs elsewhere.

    The folder holds the model, its preprocessing and labels, a card, and predict.py, which needs the runtime,
    numpy and pillow alone; for web, a page. Its outputs are compared with the network's before it appears.
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

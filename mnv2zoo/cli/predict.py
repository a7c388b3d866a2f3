"""`mnv2zoo predict`: predictions for images; `mnv2zoo.inference.predict` makes them."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from mnv2zoo.cli import errors
from mnv2zoo.cli.options import BatchSize, Debug, Device, Task
from mnv2zoo.cli.output import progress
from mnv2zoo.errors import ImageReadError

EXAMPLE = """\b
Examples:
  mnv2zoo predict photo.jpg
  mnv2zoo predict photos/ "more/**/*.png" --topk 3 --output rows.jsonl
  mnv2zoo predict photos/ --engine openvino --precision bf16 --cache .engines --output rows.parquet
  mnv2zoo predict s3://bucket/photos --ray --output s3://bucket/rows
"""


def command(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH", help="Images, folders (with all below them) and globs.", show_default=False),
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME|RUN",
            help="An architecture, architecture.tag, a folder with config.json and model.safetensors, "
            "or an hf-hub: name.",
        ),
    ] = "mnv2zoo_100",
    task: Task = None,
    topk: Annotated[int, typer.Option(min=1, help="Classes to tell for each image.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line each image.")] = False,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write the rows to this file too: '.csv', '.parquet', or else JSON lines. A killed run resumes.",
        ),
    ] = None,
    engine: Annotated[
        Literal["auto", "torch", "inductor", "onnxruntime", "openvino"] | None,
        typer.Option(help="What runs the network; by default 'torch' on the CPU, and PyTorch as it is on a GPU."),
    ] = None,
    precision: Annotated[Literal["fp32", "bf16", "int8"], typer.Option(help="What the engine computes in.")] = "fp32",
    calibration: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Images that int8 is quantised on.", show_default=False)
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Prepare images as timm does, bit for bit, which takes longer.")
    ] = False,
    batch_size: BatchSize = 32,
    device: Device = None,
    ray: Annotated[
        bool,
        typer.Option("--ray", help="Run on a Ray cluster, or on Ray here; --output is a folder for Parquet files."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that Ray runs; by default one for each core.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep here what onnxruntime and openvino start from; with it, the next run starts without PyTorch.",
            show_default=False,
        ),
    ] = None,
    files: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder for files of a task that writes some, such as masks.", show_default=False
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Classify images, or predict what else the network was trained for.

    For each image the most probable classes are printed, with scores from 0 to 1. Unreadable images are reported
    on stderr and skipped, and the exit status is 1. If a run with --output is killed, run the same command again
    to resume.
    """
    from mnv2zoo.inference.predict import Settings, predict

    status = 0
    settings = Settings(
        model,
        topk,
        engine,
        precision,
        str(calibration) if calibration else None,
        exact,
        task,
        str(files) if files else None,
    )
    if ray:
        if output is None or device is not None or cache is not None:
            raise typer.BadParameter("needs --output, chooses devices itself and keeps nothing", param_hint="--ray")
        from mnv2zoo.inference import ray_data as on_ray

        for error in on_ray.predict(paths, output, settings, batch_size=batch_size, workers=workers):
            status = errors.report(error, debug)
        print(output)
        raise typer.Exit(status)
    found = settings.find_task()
    rows = predict(
        paths,
        model,
        topk=topk,
        engine=engine,
        precision=precision,
        calibration=calibration,
        exact=exact,
        batch_size=batch_size,
        device=device,
        output=output,
        cache=cache,
        task=found,
        files=files,
    )
    with progress("predicting", None) as (show, advance), contextlib.closing(rows):
        for row in rows:
            if isinstance(row, ImageReadError):
                status = errors.report(row, debug)
            else:
                show(json.dumps(row, allow_nan=False) if as_json else found.describe(row))
            advance(1)
    raise typer.Exit(status)

"""`mnv2zoo predict`: predictions for images; `mnv2zoo.inference.predict` makes them."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mnv2zoo.cli import errors
from mnv2zoo.cli.options import BatchSize, Debug, Device, Task
from mnv2zoo.cli.output import progress
from mnv2zoo.errors import ImageReadError

if TYPE_CHECKING:
    from mnv2zoo.inference.predict import Settings

EXAMPLE = """\b
Examples:
  mnv2zoo predict photo.jpg
  mnv2zoo predict photos/ "more/**/*.png" --topk 3 --output rows.jsonl
  mnv2zoo predict photos/ --engine openvino --precision bf16 --output rows.parquet
  mnv2zoo predict photos/ --engine torch --precision fp16 --device cuda
  mnv2zoo predict photos/ --model cells-run --threshold 0.4 --save-images drawn
  mnv2zoo predict s3://bucket/photos --ray --output s3://bucket/rows
"""


Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH", help="Images, folders (searched recursively) and glob patterns.", show_default=False
    ),
]
Model = Annotated[
    str,
    typer.Option(
        metavar="NAME|RUN",
        help="The model: a name from `mnv2zoo list`, the timm name of such a model, a run folder or another folder "
        "with config.json and model.safetensors, or hf-hub:OWNER/NAME.",
    ),
]
TopK = Annotated[
    int,
    typer.Option(
        min=1,
        help="Number of classes to print per image. Multi-label models print all labels above their thresholds.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one line per image.")]
Output = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Also write the predictions to this file: '.csv', '.parquet', '.coco.json' for boxes, or JSON Lines for "
        "any other suffix. If the run is killed, run the same command again to resume.",
    ),
]
Engine = Annotated[
    Literal["auto", "torch", "inductor", "onnxruntime", "openvino"] | None,
    typer.Option(
        help="The inference engine. By default the fastest installed runtime on the CPU, and PyTorch on a GPU.",
        show_default=False,
    ),
]
Precision = Annotated[
    Literal["fp32", "fp16", "bf16", "int8"], typer.Option(help="Precision of the engine. 'fp16' needs a GPU.")
]
Calibration = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Folder of a few hundred representative images, required for int8.", show_default=False
    ),
]
Exact = Annotated[
    bool,
    typer.Option(
        "--exact", help="Preprocess images bit-for-bit as timm does, which takes longer. Always on for up to 10 images."
    ),
]
Ray = Annotated[
    bool,
    typer.Option(
        "--ray", help="Run on a Ray cluster, or on a local Ray instance. --output is a folder for Parquet files."
    ),
]
Workers = Annotated[int | None, typer.Option(min=1, help="With --ray: worker processes. By default one per core.")]
Cache = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Cache for compiled onnxruntime and openvino engines; by default a folder under MNV2ZOO_HOME.",
        show_default=False,
    ),
]
Files = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Folder for the files of a task that writes some, such as masks.", show_default=False
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Minimum score. Detection: of a box [default: 0.5]. Multi-label: of a label [default: the model's "
        "threshold per label].",
        show_default=False,
    ),
]
RejectBelow = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        metavar="P",
        help="Classification: mark images whose top score is below P as rejected.",
        show_default=False,
    ),
]
SaveImages = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Save copies of the images with boxes or masks drawn in to this folder.", show_default=False
    ),
]
Explain = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Classification: save a heat map (Grad-CAM) of the top class for each image to this folder.",
        show_default=False,
    ),
]


def command(
    paths: Paths,
    model: Model = "mnv2zoo_100",
    task: Task = None,
    topk: TopK = 5,
    as_json: AsJson = False,
    output: Output = None,
    engine: Engine = None,
    precision: Precision = "fp32",
    calibration: Calibration = None,
    exact: Exact = False,
    batch_size: BatchSize = 32,
    device: Device = None,
    ray: Ray = False,
    workers: Workers = None,
    cache: Cache = None,
    files: Files = None,
    threshold: Threshold = None,
    save_images: SaveImages = None,
    explain: Explain = None,
    reject_below: RejectBelow = None,
    debug: Debug = False,
) -> None:
    """Predict classes, boxes or masks for images.

    A classifier prints the most probable classes of each image, with scores from 0 to 1. Unreadable images are reported
    on stderr and skipped, and the exit status is 1. If a run with --output is killed, run the same command again
    to resume.
    """
    from mnv2zoo.inference.predict import Settings, run

    settings = Settings(
        model,
        topk,
        engine,
        precision,
        calibration=str(calibration) if calibration else None,
        exact=exact,
        task=task,
        files=str(files) if files else None,
        threshold=threshold,
        save_images=str(save_images) if save_images else None,
        explain=str(explain) if explain else None,
        reject_below=reject_below,
    )
    if ray:
        if output is None or device is not None or cache is not None:
            raise typer.BadParameter("needs --output, chooses devices itself and keeps nothing", param_hint="--ray")
        raise typer.Exit(_on_ray(paths, output, settings, batch_size, workers, debug))
    describe, status = settings.find_task().describe, 0
    rows = run(paths, settings, batch_size=batch_size, device=device, output=output, cache=cache)
    with progress("predicting", None) as (show, advance), contextlib.closing(rows):
        for row in rows:
            if isinstance(row, ImageReadError):
                status = errors.report(row, debug)
            else:
                show(json.dumps(row, allow_nan=False) if as_json else describe(row))
            advance(1)
    raise typer.Exit(status)


def _on_ray(
    paths: list[str], output: str, settings: Settings, batch_size: int, workers: int | None, debug: bool
) -> int:
    """Predicts on Ray, and returns the exit status."""
    from mnv2zoo.inference import ray_data

    status = 0
    for error in ray_data.predict(paths, output, settings, batch_size=batch_size, workers=workers):
        status = errors.report(error, debug)
    print(output)
    return status

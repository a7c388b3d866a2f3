"""`mnv2zoo evaluate`: measure a model on your images."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from mnv2zoo.cli.options import BatchSize, Debug, Device, Json, Task
from mnv2zoo.cli.output import print_json, print_table, progress

EXAMPLE = """\b
Examples:
  mnv2zoo evaluate photos --model run
  mnv2zoo evaluate photos --model run --split val --json
  mnv2zoo evaluate more-photos --model run --all --output scores.parquet
"""


def command(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Your images, in any layout that `mnv2zoo finetune` accepts.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME|RUN",
            help="The model to measure: a name from `mnv2zoo list`, the timm name of such a model, a run folder, or "
            "hf-hub:OWNER/NAME.",
        ),
    ] = "mnv2zoo_100",
    task: Task = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT",
            help="The split to measure: 'train', 'val' or 'test'. If MODEL is a run that trained on DATA, these are "
            "the splits of the run; the default is its held-out images. Otherwise they are the splits of DATA; the "
            "default is the last one, or all images if there are no splits.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Use all images, including those that the run trained on.")
    ] = False,
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="classes|splits",
            help="The meaning of the subfolders of DATA: 'classes', or 'splits' such as train and val. By default, "
            "detected.",
            show_default=False,
        ),
    ] = None,
    train_dir: Annotated[str | None, typer.Option(help="Folder of the training images.", show_default=False)] = None,
    val_dir: Annotated[str | None, typer.Option(help="Folder of the validation images.", show_default=False)] = None,
    test_dir: Annotated[str | None, typer.Option(help="Folder of the test images.", show_default=False)] = None,
    ignore_index: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=255,
            help="Segmentation: mask value of pixels to ignore. By default, as recorded in the run, or 255.",
            show_default=False,
        ),
    ] = None,
    skip_bad_images: Annotated[
        bool, typer.Option("--skip-bad-images", help="Skip unreadable images instead of stopping.")
    ] = False,
    batch_size: BatchSize = 32,
    device: Device = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the scores of each image to this file: '.csv', '.parquet', or JSON Lines for any other suffix.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a model on your images.

    If the model was trained on these images, only the images that it held out are used. The output says which images
    were measured.

    Folder names must match the model's class names. For the 1000 ImageNet classes, they can also be synset IDs such as
    n01440764.
    """
    from mnv2zoo.evaluation import evaluate

    @contextlib.contextmanager
    def show(total: int) -> Iterator[Callable[[int], None]]:
        with progress("evaluating", total) as (_, advance):
            yield advance

    if every and split is not None:
        raise typer.BadParameter("cannot be combined with --split", param_hint="--all")
    scores = evaluate(
        data,
        model,
        split="all" if every else split,
        task=task,
        layout=layout,
        train_dir=train_dir,
        val_dir=val_dir,
        test_dir=test_dir,
        ignore_index=ignore_index,
        skip_bad_images=skip_bad_images,
        batch_size=batch_size,
        device=device,
        output=output,
        progress=show,
    )
    print(f"evaluated on {scores.measured}", file=sys.stderr if as_json else sys.stdout)
    if as_json:
        print_json({"model": model, "data": data} | scores.to_json())
        return
    columns, rows = scores.table()
    if columns:
        print_table(columns, rows)
        print()
    print(scores.last_line())

"""`mnv2zoo evaluate`: how good a network is on photos."""

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
    data: Annotated[str, typer.Argument(metavar="DATA", help="Photos, laid out as for finetune.", show_default=False)],
    model: Annotated[
        str, typer.Option(metavar="NAME|RUN", help="A name of the zoo or timm's for it, a folder, or an hf-hub: name.")
    ] = "mnv2zoo_100",
    task: Task = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT",
            help="'train', 'val' or 'test': of the run if the photos are those it trained on, else of DATA. By default "
            "the run's held-out part; on other photos the last split there is, or all photos.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Use all photos, those that the run trained on too.")] = False,
    layout: Annotated[
        str | None,
        typer.Option(
            metavar="classes|splits",
            help="Whether the folders in DATA are classes or splits; by default what they look like.",
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
            help="Segmenters: number in the masks of pixels that belong to no class. By default that of the run, "
            "or 255.",
            show_default=False,
        ),
    ] = None,
    skip_bad_images: Annotated[bool, typer.Option("--skip-bad-images", help="Leave out what cannot be read.")] = False,
    batch_size: BatchSize = 32,
    device: Device = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the scores of each image to this file: '.csv', '.parquet', or else JSON lines.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a network on photos.

    On the photos that a run trained on, only those that it held out are used. A line says which photos were measured.

    Folder names must match the model's class names: for ImageNet's 1000 classes their names or synsets, such as
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

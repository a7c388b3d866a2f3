"""Options that several commands share."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def _with_own_folder(task: str | None) -> str | None:
    """Lets Python import the module of a custom task from the working folder, as `python -m` does."""
    if task is not None and ":" in task and (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)
    return task


Debug = Annotated[bool, typer.Option("--debug", help="Print a traceback if the command fails.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Described = Annotated[
    str,
    typer.Argument(
        metavar="NAME|RUN",
        help="A name from `mnv2zoo list`, with or without a tag, or a run folder.",
        show_default=False,
    ),
]
Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A name from `mnv2zoo list`, with or without a tag, such as mnv2zoo_100 or mnv2zoo_140.ra_in1k.",
        show_default=False,
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images per batch.")]
Device = Annotated[
    str | None,
    typer.Option(
        help="Device, such as 'cpu', 'cuda', 'cuda:1', 'mps' or 'xpu'. By default, a GPU or other accelerator if there "
        "is one, else the CPU."
    ),
]
Task = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|MODULE:CLASS",
        help="The task: 'classify', 'multilabel', 'detect', 'segment', or your own task class, which is imported. By "
        "default, the task of the run; otherwise 'classify', or 'multilabel' for a CSV file of labels.",
        show_default=False,
        callback=_with_own_folder,
    ),
]

"""Options that several commands have."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def _with_own_folder(task: str | None) -> str | None:
    """Lets Python import a task's module from the working folder, as `python -m` does."""
    if task is not None and ":" in task and (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)
    return task


Debug = Annotated[bool, typer.Option("--debug", help="Print a traceback where something fails.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Described = Annotated[
    str,
    typer.Argument(metavar="NAME|RUN", help="An architecture, architecture.tag, or a run folder.", show_default=False),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="An architecture or architecture.tag.", show_default=False)]
BatchSize = Annotated[int, typer.Option(min=1, help="Images that go through the network at once.")]
Device = Annotated[
    str | None,
    typer.Option(help="Device, such as 'cpu', 'cuda:1', 'mps' or 'xpu'; by default the accelerator if there is one."),
]
Task = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|MODULE:CLASS",
        help="What the network learns: 'classify', 'multilabel', 'detect', 'segment', or a task of yours, which is "
        "imported. By default that of the run.",
        show_default=False,
        callback=_with_own_folder,
    ),
]

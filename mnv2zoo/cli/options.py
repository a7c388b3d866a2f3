"""Options that several commands have."""

from typing import Annotated

import typer

Debug = Annotated[bool, typer.Option("--debug", help="Print a traceback where something fails.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="An architecture or architecture.tag.", show_default=False)]
BatchSize = Annotated[int, typer.Option(min=1, help="Images that go through the network at once.")]
Device = Annotated[
    str | None, typer.Option(help="Where to compute, such as 'cpu' or 'cuda:1'; by default a GPU if there is one.")
]

"""Output of the commands: tables, JSON and progress bars."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any


def print_json(document: Any) -> None:
    """Prints an indented JSON document.

    Args:
        document: Anything that `json.dumps` accepts.
    """
    print(json.dumps(document, indent=2, allow_nan=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table with one line per row, even on a narrow terminal, so that names are never cut.

    Args:
        columns: Titles. A title that starts with a space marks a right-aligned column of numbers.
        rows: Cells.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in columns:
        table.add_column(title.strip(), justify="right" if title.startswith(" ") else "left")
    for row in rows:
        table.add_row(*row)
    Console(width=10_000, markup=False, highlight=False, emoji=False).print(table)


@contextlib.contextmanager
def progress(title: str, total: int | None) -> Iterator[tuple[Callable[[str], None], Callable[[int], None]]]:
    """Shows a progress bar on stderr if that is a terminal, while lines go to stdout.

    Args:
        title: The title of the progress bar.
        total: The total number of steps; None if it is unknown.

    Yields:
        A function that prints a line, and a function that advances the bar by a number of steps.
    """
    if not sys.stderr.isatty():
        yield print, lambda steps: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(title, total=total)

        def print_above(line: str) -> None:
            console.print(line, soft_wrap=True)

        # If both go to the terminal, the bar's console has to print the lines.
        yield print_above if sys.stdout.isatty() else print, lambda steps: bar.advance(task, steps)

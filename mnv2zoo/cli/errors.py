"""From an error to the line that tells of it and to the exit status."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer

from mnv2zoo.errors import DeviceError, RecipeError, UnknownArgumentError, UnknownModelError, ZooError

# typer has this base of its errors about usage without exporting it.
UsageError = typer.BadParameter.__mro__[1]


def _usage(error: Any) -> str:
    message = error.format_message()
    stop = "" if message.endswith((".", "?")) else "."
    return f"{message}{stop} See `{error.ctx.command_path if error.ctx else 'mnv2zoo'} --help`."


def _system(error: OSError) -> str:
    return f"{error.strerror}: {error.filename}" if error.filename else error.strerror or str(error)


def _unexpected(error: Exception) -> str:
    return f"{type(error).__name__}: {error} (unexpected; --debug shows where it comes from)"


# The first class that fits counts.
TABLE: tuple[tuple[type[Exception], int, Callable[[Any], str]], ...] = (
    (UsageError, 2, _usage),
    (UnknownModelError, 2, str),
    (UnknownArgumentError, 2, str),
    (DeviceError, 2, str),
    (RecipeError, 2, str),
    (ZooError, 1, str),
    (OSError, 1, _system),
    (Exception, 1, _unexpected),
)


def report(error: Exception, debug: bool) -> int:
    """Tells of an error on stderr.

    Args:
        error: The error.
        debug: Whether to print its traceback first.

    Returns:
        The exit status for it.
    """
    if debug:
        traceback.print_exception(error)
    status, describe = next((status, describe) for kind, status, describe in TABLE if isinstance(error, kind))
    print("error:", " ".join(describe(error).split()), file=sys.stderr)
    return status

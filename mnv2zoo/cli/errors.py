"""Turns an error into a message on stderr and an exit status."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer

from mnv2zoo.errors import DeviceError, RecipeError, UnknownArgumentError, UnknownModelError, ZooError

# The base class of typer's usage errors, which typer does not export.
UsageError = typer.BadParameter.__mro__[1]
_FIXES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "Check the permissions of the file or folder."),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EISDIR), "Check the path."),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free some disk space."),
    errno.EROFS: "Choose a writable folder.",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "Raise the limit on open files, for example with `ulimit -n 4096`."),
}


def _itself(error: ZooError) -> ZooError:
    return error


def _usage(error: Any) -> ZooError:
    see = f"See `{error.ctx.command_path if error.ctx else 'mnv2zoo'} --help`."
    return ZooError(error.format_message().rstrip("."), fix=see)


def _system(error: OSError) -> ZooError:
    files = [str(file) for file in (error.filename, error.filename2) if file is not None]
    fix = _FIXES.get(error.errno or 0, "")
    return ZooError(error.strerror or str(error) or type(error).__name__, where=" and ".join(files), fix=fix)


def _unexpected(error: Exception) -> ZooError:
    text = f"{type(error).__name__}: {error}".removesuffix(": ")
    return ZooError(f"unexpected {text}", fix="Run the command again with --debug to see the traceback.")


# The first matching class decides.
TABLE: tuple[tuple[type[Exception], int, Callable[[Any], ZooError]], ...] = (
    (UsageError, 2, _usage),
    (UnknownModelError, 2, _itself),
    (UnknownArgumentError, 2, _itself),
    (DeviceError, 2, _itself),
    (RecipeError, 2, _itself),
    (ZooError, 1, _itself),
    (OSError, 1, _system),
    (typer.Abort, 1, lambda error: ZooError("aborted")),
    (Exception, 1, _unexpected),
)


def report(error: Exception, debug: bool) -> int:
    """Reports an error on stderr: one line for the problem, and up to four short lines with details.

    Args:
        error: The error.
        debug: Whether to print the traceback first, with the full text of the error.

    Returns:
        The exit status.
    """
    if debug:
        traceback.print_exception(error)
    status, describe = next((status, describe) for kind, status, describe in TABLE if isinstance(error, kind))
    first, *rest = describe(error).lines(short=True)
    # A single write, so that lines of processes that share a terminal do not get mixed up.
    sys.stderr.write("\n".join(["error: " + first, *rest, ""]))
    return status

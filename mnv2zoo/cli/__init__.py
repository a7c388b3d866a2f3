"""The command line. Each command imports what it needs when it runs, so that --help answers at once."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated, Any

import typer

from mnv2zoo import errors
from mnv2zoo.cli import models, predict, weights

app = typer.Typer(
    name="mnv2zoo",
    help="MobileNetV2 for timm: the zoo's models and verified weights.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command("list")(models.list_)
app.command("info")(models.info)
app.command("predict")(predict.predict)
app.add_typer(weights.app, name="weights")

# From an error's class to the exit status; whatever is not here is a failure, 1.
BAD_USAGE = (errors.UnknownModelError, errors.UnknownArgumentError)


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show a traceback on failure.")] = False) -> None:
    """MobileNetV2 for timm: the zoo's models and verified weights."""


def main() -> None:
    """Runs the command line: exit status 0 on success, 2 on bad usage, 1 on failure."""
    debug = "--debug" in sys.argv
    # Wherever it stands, it is meant for the whole command.
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    warnings.showwarning = _show_warning
    try:
        app(arguments, prog_name="mnv2zoo")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has gone; nothing more can be said to them.
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        known = isinstance(error, errors.ZooError)
        message = str(error) if known else f"{type(error).__name__}: {error} (--debug shows where)"
        print(f"error: {' '.join(message.split())}", file=sys.stderr)
        sys.exit(2 if isinstance(error, BAD_USAGE) else 1)


def _show_warning(message: Warning | str, *args: Any, **kwargs: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)

"""The command line, with one module per command.

`--help` has to be fast, so these modules import nothing heavy at the top. Commands import what they need when they run.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, NoReturn, TextIO

import typer

import mnv2zoo
from mnv2zoo.cli import cache, doctor, errors, evaluate, export, finetune, info, predict, weights
from mnv2zoo.cli import list as list_
from mnv2zoo.errors import one_line

# typer's rich help pages would double the time that --help takes.
app = typer.Typer(add_completion=False, rich_markup_mode=None)
app.command("list", epilog=list_.EXAMPLE)(list_.command)
app.command("info", epilog=info.EXAMPLE)(info.command)
app.command("predict", epilog=predict.EXAMPLE)(predict.command)
app.command("finetune", epilog=finetune.EXAMPLE)(finetune.command)
app.command("evaluate", epilog=evaluate.EXAMPLE)(evaluate.command)
app.command("export", epilog=export.EXAMPLE)(export.command)
app.command("doctor", epilog=doctor.EXAMPLE)(doctor.command)
app.add_typer(weights.app, name="weights")
app.add_typer(cache.app, name="cache")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"mnv2zoo {mnv2zoo.__version__}")
        raise typer.Exit


EXAMPLE = """\b
Examples:
  mnv2zoo predict photo.jpg
  mnv2zoo finetune photos --out run
  mnv2zoo evaluate photos --model run
  mnv2zoo export run --format onnx --out bundle
"""


@app.callback(epilog=EXAMPLE)
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """MobileNetV2 models for PyTorch: verified pretrained weights, fine-tuning and deployment."""


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs a command and exits with status 0 for success, 1 for failure or 2 for wrong usage.

    Args:
        args: The command line without the program name, by default `sys.argv[1:]`. If it is empty, prints the help.
    """
    args = sys.argv[1:] if args is None else args
    debug = "--debug" in args  # needed even where parsing fails
    _print_any_file_name()
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        warnings.filterwarnings("ignore", module="PIL")  # they are about images that Pillow reads anyway
        try:
            status = app(args=args or ["--help"], prog_name="mnv2zoo", standalone_mode=False) or 0
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader, such as `| head`, has closed the pipe. The interpreter's final flush must not fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = 1
        except Exception as error:
            status = errors.report(error, debug)
    sys.exit(status)


def _print_any_file_name() -> None:
    # File names need not be valid text. They are printed byte for byte.
    if isinstance(sys.stdout, io.TextIOWrapper):
        as_bytes = sys.stdout.encoding.lower().startswith("utf")
        sys.stdout.reconfigure(errors="surrogateescape" if as_bytes else "backslashreplace")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print("warning:", one_line(message), file=sys.stderr)

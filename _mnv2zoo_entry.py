"""The command `mnv2zoo`.

It marks the process before the package is imported. The package then leaves out the registration of its models with
timm, so that `--help` need not wait for PyTorch. The mark is a variable of this process alone: its children, such as
workers that load data, import the package as any program does.
"""

from typing import NoReturn

is_command_line = False


def main() -> NoReturn:
    """Runs the command that the process was started with, and exits with its status."""
    global is_command_line
    is_command_line = True
    from mnv2zoo import cli

    cli.main()

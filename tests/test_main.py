"""`python -m mnv2zoo` is the command line."""

from mnv2zoo import __version__
from tests.cli.conftest import process


def test_the_module_is_the_command():
    assert process("--version") == process("--version", "list")
    assert process("--version").out == f"mnv2zoo {__version__}\n"

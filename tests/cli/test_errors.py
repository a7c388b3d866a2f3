"""Every failure becomes one block on stderr and an exit status."""

import errno

import pytest
import typer

from mnv2zoo.cli import errors
from mnv2zoo.errors import ConversionError, IntegrityError, UnknownArgumentError, UnknownModelError
from mnv2zoo.models import zoo


@pytest.mark.parametrize(
    ("error", "status", "block"),
    [
        (typer.BadParameter("no"), 2, "error: Invalid value: no\n  fix: See `mnv2zoo --help`."),
        (UnknownModelError("unknown", found="x"), 2, "error: unknown\n  found: x"),
        (UnknownArgumentError("unexpected"), 2, "error: unexpected"),
        (ConversionError("does not fit"), 1, "error: does not fit"),
        (
            IntegrityError("wrong hash", expected="a\nb", where="a  file", fix="Go."),
            1,
            "error: wrong hash\n  expected: a b\n  where: a  file\n  fix: Go.",
        ),
        (
            PermissionError(13, "Permission denied", "a.json"),
            1,
            "error: Permission denied\n  where: a.json\n  fix: Check the permissions of the file or folder.",
        ),
        (OSError("no disk"), 1, "error: no disk"),
        (
            KeyError("k"),
            1,
            "error: unexpected KeyError: 'k'\n  fix: Run the command again with --debug to see the traceback.",
        ),
        (
            MemoryError(),
            1,
            "error: unexpected MemoryError\n  fix: Run the command again with --debug to see the traceback.",
        ),
        (typer.Abort(), 1, "error: aborted"),
    ],
)
def test_every_error_has_its_status_and_is_one_block(capsys, error, status, block):
    assert errors.report(error, debug=False) == status
    assert capsys.readouterr() == ("", f"{block}\n")


def test_debug_adds_the_traceback(run, monkeypatch):
    def fail(pretrained):
        raise RuntimeError("so it is")

    monkeypatch.setattr(zoo, "list_models", fail)
    plain, debug = run("list"), run("list", "--debug")
    assert plain.status == debug.status == 1
    assert len(plain.errors) == 1
    assert debug.err.startswith("Traceback")
    assert debug.err.endswith(plain.err)


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOENT, "Check the path."),
        (errno.ENOSPC, "Free some disk space."),
        (errno.EROFS, "Choose a writable folder."),
        (errno.EMFILE, "Raise the limit on open files, for example with `ulimit -n 4096`."),
    ],
)
def test_an_error_of_the_operating_system_names_both_files_and_a_fix(capsys, number, fix):
    assert errors.report(OSError(number, "no", "from", None, "to"), debug=False) == 1
    assert capsys.readouterr().err == f"error: no\n  where: from and to\n  fix: {fix}\n"

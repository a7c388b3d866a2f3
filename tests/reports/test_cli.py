"""What people reported about the command line, its errors and the files they bring."""

import pickle
import re

import pytest

from mnv2zoo.cli import errors
from mnv2zoo.errors import IntegrityError, ZooError, one_line
from tests.conftest import BLOCK

HOSTILE = "\x1b[31mred\x1b[0m\r\n\x1b]0;title\x07two \x9b2Jthree\u202efour\x00\x08\u2028five"


class TestErrors:
    def test_an_error_is_one_block_of_short_lines(self, capsys):
        error = IntegrityError(
            "wrong\nhash", expected="a" * 1000, found="word " * 300, where="/x/" + "y" * 2000, fix="Do it.\nNow. " * 90
        )
        errors.report(error, debug=False)
        told = capsys.readouterr().err
        assert re.fullmatch(BLOCK, told)
        assert [line.partition(":")[0] for line in told.splitlines()] == [
            *("error", "  expected", "  found", "  where", "  fix")
        ]
        assert told.startswith("error: wrong hash\n")
        assert all(len(line) < 420 and line.endswith("…") for line in told.splitlines()[1:])
        assert " word word…\n" in told

    def test_debug_shows_all_of_it(self, capsys):
        try:
            raise IntegrityError("wrong hash", found="a" * 1000)
        except IntegrityError as error:
            errors.report(error, debug=True)
        assert "a" * 1000 in capsys.readouterr().err

    @pytest.mark.parametrize("field", ["problem", "expected", "found", "where", "fix"])
    def test_text_from_a_file_cannot_forge_lines_or_move_the_cursor(self, capsys, field):
        error = ZooError(**{"problem": "no good", field: HOSTILE})
        assert "red two threefour five" in str(error)
        assert str(error).isprintable() or "\n" in str(error)
        assert len(str(error).splitlines()) == (1 if field == "problem" else 2)
        errors.report(error, debug=False)
        assert re.fullmatch(BLOCK, capsys.readouterr().err)

    @pytest.mark.parametrize("error", [OSError(2, "No\nsuch", "a\x1b[2Jb"), KeyError("a\nb"), ValueError("x\ny" * 500)])
    def test_errors_of_others_take_the_same_form(self, capsys, error):
        assert errors.report(error, debug=False) == 1
        assert re.fullmatch(BLOCK, capsys.readouterr().err)

    def test_the_python_exception_has_a_line_for_each_fact(self):
        error = ZooError("the hash is wrong", expected="abc", found="def", where="model.safetensors", fix="Fetch it.")
        lines = [
            "the hash is wrong",
            "  expected: abc",
            "  found: def",
            "  where: model.safetensors",
            "  fix: Fetch it.",
        ]
        assert str(error).splitlines() == lines
        assert str(pickle.loads(pickle.dumps(error))).splitlines() == lines
        assert error.summary == "the hash is wrong (expected: abc; found: def; where: model.safetensors)"
        assert str(ZooError("alone")) == ZooError("alone").summary == "alone"

    def test_an_error_within_an_error_stays_on_its_line(self):
        inner = ZooError("inner", found="x", fix="Do this.")
        assert str(ZooError("outer", found=inner)) == "outer\n  found: inner (found: x)"

    def test_names_of_files_keep_their_spaces(self):
        assert one_line("a  b.jpg") == "a  b.jpg"

"""Errors keep what was expected, found, where and how to fix it as fields, and read as plain lines."""

import pickle

import pytest

from mnv2zoo import errors
from mnv2zoo.errors import IntegrityError, WeightsError, ZooError, nearest, one_line, shorten

ERROR = IntegrityError("wrong size", expected=10, found=7, where="a.safetensors", fix="Download it again.")


def test_an_error_reads_as_its_problem_and_one_line_per_fact():
    assert str(ERROR).splitlines() == [
        "wrong size",
        "  expected: 10",
        "  found: 7",
        "  where: a.safetensors",
        "  fix: Download it again.",
    ]
    assert ERROR.lines(short=True) == ERROR.lines()


def test_facts_that_are_unknown_have_no_line():
    assert str(ZooError("no", found=0)) == "no\n  found: 0"
    assert str(ZooError("no", expected=None, where="")) == "no"


def test_the_summary_of_an_error_has_no_fix_and_nests_in_another():
    assert ERROR.summary == "wrong size (expected: 10; found: 7; where: a.safetensors)"
    assert str(WeightsError("no weights", found=ERROR)) == f"no weights\n  found: {ERROR.summary}"


def test_an_error_pickles_with_its_fields():
    copy = pickle.loads(pickle.dumps(ERROR))
    assert (type(copy), vars(copy), str(copy)) == (IntegrityError, vars(ERROR), str(ERROR))


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        (errors.UnknownModelError, ValueError),
        (errors.UnknownArgumentError, TypeError),
        (errors.ArgumentError, ValueError),
        (errors.MissingExtraError, ImportError),
        (errors.WeightsError, RuntimeError),
        (errors.WeightsIndexError, errors.WeightsError),
        (errors.UnpinnedWeightsError, errors.WeightsError),
        (errors.WeightsUnavailableError, errors.WeightsError),
    ],
)
def test_each_error_is_the_builtin_that_callers_catch(kind, base):
    assert issubclass(kind, base)
    assert issubclass(kind, ZooError)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("a\r\n\tb", "a b"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07plain", "plain"),
        ("left\u202eright", "leftright"),
        (ZooError("no", found=1, fix="Go."), "no (found: 1)"),
    ],
)
def test_any_value_becomes_one_line_of_plain_text(value, text):
    assert one_line(value) == text


@pytest.mark.parametrize(
    ("text", "length", "short"),
    [("one two", 7, "one two"), ("one two three", 9, "one two…"), ("a" * 20, 10, "aaaaaaaaa…")],
)
def test_a_long_text_is_cut_at_the_end_of_a_word(text, length, short):
    assert shorten(text, length) == short


def test_the_nearest_names_come_first_and_all_of_them_if_none_is_near():
    known = ("epochs", "batch_size", "lr")
    assert nearest("epochz", known, 3) == "epochs"
    assert nearest("xyz", known, 3) == "epochs or batch_size or lr"

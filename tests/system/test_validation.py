"""Strict checks of values against declared types."""

from collections import namedtuple
from decimal import Decimal
from typing import Annotated, Literal

import numpy as np
import pytest
from msgspec import Meta

from mnv2zoo.system.validation import bounded, breaches, choices_of, fits, list_of, nullable, one_of, text

SHARE = bounded(float, 0, 1, "a share")
COLOR = tuple[SHARE, SHARE, SHARE]
Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (1, SHARE),
        (np.float64(0.5), SHARE),
        ((0.1, np.float64(0.2), 1), COLOR),
        ([0.1, 0.2, 0.3], COLOR),
        (Pair(1, 2), list_of(int)),
        (None, nullable(SHARE)),
        ("b", one_of("ab")),
        (10**30, int),
        ("a.b", text(r"\w\.\w", "two parts")),
    ],
    ids=str,
)
def test_a_value_of_the_type_fits(value, kind):
    assert fits(value, kind)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, SHARE),
        (True, int),
        (1, bool),
        (1.0, int),
        ("1", int),
        ("0.5", SHARE),
        (float("nan"), SHARE),
        (float("inf"), SHARE),
        (10**400, SHARE),
        (10**400, bounded(int, 0, 5)),
        (Decimal("0.5"), SHARE),
        pytest.param({0.1, 0.2, 0.3}, COLOR, id="a set"),  # whose text is another in each process
        ([Decimal("0.1"), 0.2, 0.3], COLOR),
        ((True, 0.2, 0.3), COLOR),
        ([0.1, 0.2], COLOR),
        (b"a", str),
        (np.str_("a"), str),
        (np.int64(1), int),
        (None, SHARE),
        (["a"], one_of("ab")),
        ("a.b\n", text(r"\w\.\w", "two parts")),
        ("ä.b", text(r"\w\.\w", "two parts")),
    ],
    ids=lambda value: str(value)[:40],
)
def test_no_other_value_fits(value, kind):
    assert not fits(value, kind)


def test_a_breach_says_what_is_expected_and_found():
    kinds = {"a": SHARE, "b": nullable(SHARE), "c": one_of(("x", "y"))}
    assert list(breaches({"a": 2, "b": True, "c": "z"}, kinds, "a", "b", "c")) == [
        ("a", "a share", "2"),
        ("b", "a share or null", "True"),
        ("c", "x or y", "'z'"),
    ]
    assert list(breaches({"c": "x"}, kinds, "a", "b", "c")) == [("a", "a share", "None")]


def test_the_choices_of_a_type_are_its_strings():
    assert choices_of(Literal["a", "b"] | None) == ("a", "b")
    assert choices_of(Annotated[int, Meta(ge=0)] | None) == ()

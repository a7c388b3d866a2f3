"""The page on `create_model` has all arguments, and its examples print what their comments say."""

import contextlib
import io
import re

from mnv2zoo.models.registry import MODEL_ARGUMENTS, TIMM_ARGUMENTS
from tests.conftest import ROOT

PAGE = (ROOT / "docs/create-model.md").read_text(encoding="utf-8")


def test_every_argument_has_a_heading():
    headings = " ".join(re.findall(r"^### (.+)$", PAGE, re.MULTILINE))
    assert sorted(re.findall(r"`(\w+)`", headings)) == sorted((*MODEL_ARGUMENTS, *TIMM_ARGUMENTS))


def test_the_examples_print_what_their_comments_say():
    names, compared = {}, 0
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        expected = re.findall(r"^print\(.*\)  # (.+)$", block, re.MULTILINE)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(block, names)
        if expected:
            assert printed.getvalue().splitlines() == expected
            compared += 1
    assert compared >= 7

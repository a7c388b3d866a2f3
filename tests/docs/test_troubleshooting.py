"""The page on troubleshooting names messages that the package has."""

import re

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
SOURCE = "\n".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / "mnv2zoo").rglob("*.py")))
MESSAGES = [heading for heading in re.findall(r"^### (.+)$", PAGE, re.MULTILINE) if heading[0].islower()]
FOUND = re.findall(r"^\| `([a-zA-Z_ ]+)` ", PAGE, re.MULTILINE)


@pytest.mark.parametrize("message", [*MESSAGES, *FOUND])
def test_a_message_on_the_page_is_one_of_the_package(message):
    assert message in SOURCE


def test_the_messages_are_found_on_the_page():
    assert len(MESSAGES) >= 6
    assert "cannot be resolved" in FOUND

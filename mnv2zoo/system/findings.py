"""Findings about an installation, without anything that should not be in a bug report."""

from __future__ import annotations

import getpass
import re
from dataclasses import dataclass
from pathlib import Path

from mnv2zoo.system.hub_failures import without_secrets

OK, NOTE, BROKEN = "ok", "note", "broken"


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        check: What was checked.
        status: `ok`, `note` (works, but you may want to know), or `broken`.
        found: What was found.
        fix: What to do about it.
    """

    check: str
    status: str
    found: str
    fix: str = ""

    def shareable(self) -> Finding:
        """Returns the finding without secrets and without the user's name."""
        return Finding(self.check, self.status, shareable(self.found), shareable(self.fix))


def shareable(text: str) -> str:
    """Removes tokens, passwords and the user's name from a text.

    Args:
        text: The text, which may contain URLs and paths.

    Returns:
        The text on one line. The home folder becomes `~`, and the user's name in other paths becomes `USER`.
    """
    text = without_secrets(text)
    for home in _homes():
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # the user has no name
        return text
    return re.sub(rf"(?<=[/\\]){re.escape(user)}(?![\w.-])", "USER", text)


def _homes() -> list[str]:
    try:
        home = Path.home()
        homes = {str(home), str(home.resolve())} - {home.anchor}
    except (OSError, RuntimeError):  # the user has no home folder
        return []
    return sorted(homes, key=len, reverse=True)

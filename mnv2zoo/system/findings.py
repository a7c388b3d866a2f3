"""What a check of an installation found, without anything that a bug report must not hold."""

from __future__ import annotations

import getpass
import re
from dataclasses import dataclass
from pathlib import Path

from mnv2zoo.system.hub_failures import without_secrets

OK, NOTE, BROKEN = "ok", "note", "broken"


@dataclass(frozen=True)
class Finding:
    """What one check found.

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
        """The same without secrets and without the user's name."""
        return Finding(self.check, self.status, shareable(self.found), shareable(self.fix))


def shareable(text: str) -> str:
    """Takes tokens, passwords and the user's name out of a text.

    Args:
        text: The text, which may hold addresses and paths.

    Returns:
        It in one line. The home folder is `~`, and the user's name in other paths is `USER`.
    """
    text = without_secrets(text)
    for home in _homes():
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name
        return text
    return re.sub(rf"(?<=[/\\]){re.escape(user)}(?![\w.-])", "USER", text)


def _homes() -> list[str]:
    try:
        home = Path.home()
        homes = {str(home), str(home.resolve())} - {home.anchor}
    except (OSError, RuntimeError):  # a user without a home folder
        return []
    return sorted(homes, key=len, reverse=True)

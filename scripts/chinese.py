"""The words of generated tables in Chinese, for the pages that are written in both languages."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

# A cell of a generated table, and the cell in its place.
WORDS: dict[str, str] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
# Cells and lines with figures or names in them.
PATTERNS = {
    r"^\*(.+), (\d+) cores(?: \((.+)\))?; (.+)\.\*$": lambda m: (
        f"*{m[1]}，{m[2]} 核{f'（{m[3]}）' if m[3] else ''}；{m[4]}。*"
    ),
}
CODE = re.compile(r"`[^`]*`|\]\([^)]*\)|https?://\S+")
# Lowercase words that are the same in Chinese.
NAMES = {"px", "eager", "timm", "top", "torch", "torchvision"}


def translate(part: str) -> str:
    """Translates the cells of a part's Markdown tables, and the notes below them; names and figures stay.

    Args:
        part: A generated part of an English page.

    Returns:
        The part in Chinese. What has no translation stays in English; `untranslated` finds it.
    """
    lines = []
    for line in part.splitlines():
        if line.startswith("| "):
            cells = line.removeprefix("| ").removesuffix(" |").split(" | ")
            lines.append(f"| {' | '.join(map(_words, cells))} |")
        else:
            lines.append(_words(line))
    return "\n".join([*lines, ""])


def _words(text: str) -> str:
    if text in WORDS:
        return WORDS[text]
    for pattern, chinese in PATTERNS.items():
        if found := re.fullmatch(pattern, text):
            return chinese(found)
    return text


def untranslated(part: str) -> list[str]:
    """Finds the cells and lines of a part that are still in English.

    Args:
        part: A generated part of a Chinese page.

    Returns:
        The cells without Chinese in which an English word is not a name.
    """
    cells = [cell for line in part.splitlines() for cell in line.strip("| ").split(" | ")]
    english = (cell for cell in cells if not re.search(r"[\u4e00-\u9fff]", cell))
    return [cell for cell in english if {*re.findall(r"\b[a-z]{2,}\b", CODE.sub("", cell))} - NAMES]

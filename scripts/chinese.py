"""The words of generated tables in Chinese, for the pages that are written in both languages."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

# A cell of a generated table, and the cell in its place.
WORDS: dict[str, str] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
HOLES = re.compile(r"\{\*?\}")
# Parts that are not words: code, addresses, HTML, included files and paths.
CODE = re.compile(r"`[^`]*`|\]\([^)]*\)|https?://\S+|<[^>]+>|\{[^}]*\}|--8<--.*|[\w.]+/[\w.]*[_.]\w*")
WORD = re.compile(r"\b[a-z][a-z-]*[a-z]\b")
# Lowercase words that are the same in Chinese.
NAMES = {
    "anomalib",
    "captum",
    "eager",
    "fastai",
    "google",
    "grad-cam",
    "lightning",
    "mnv2zoo",
    "nncf",
    "netron",
    "onnxruntime-web",
}
NAMES |= {"openvino", "peft", "px", "segmentation-models-pytorch", "timm", "top", "torch", "torchao", "torchvision"}
NAMES |= {"channels", "last", "onnxruntime", "transformers"}


def _pattern(english: str) -> re.Pattern[str]:
    holes = {"{}": r"(\d[\d.,]*|\d)", "{*}": "(.+)"}
    return re.compile("".join(holes.get(part, re.escape(part)) for part in re.split(r"(\{\*?\})", english)))


PATTERNS = [(_pattern(english), chinese) for english, chinese in WORDS.items() if HOLES.search(english)]


def translate(part: str) -> str:
    """Translates the cells of a part's Markdown tables, and the notes below them; names and figures stay.

    Args:
        part: A generated part of an English page.

    Returns:
        The part in Chinese. Text without a translation stays in English; `untranslated` finds it.
    """
    lines = []
    for line in part.splitlines():
        if line.startswith("| "):
            cells = line.removeprefix("| ").removesuffix(" |").split(" | ")
            lines.append(f"| {' | '.join(map(_words, cells))} |")
        else:
            lines.append(_words(line))
    return "\n".join([*lines, ""])


def page(part: str) -> str:
    """Translates a part for a page in docs/zh, from which the pages of models are one folder up."""
    return translate(part).replace("](models/", "](../models/")


def _words(text: str) -> str:
    cell, brace, attributes = text.partition(" { ")
    return _translated(cell) + brace + attributes


def _translated(text: str) -> str:
    if text in WORDS:
        return WORDS[text]
    for pattern, chinese in PATTERNS:
        if found := pattern.fullmatch(text):
            return HOLES.sub("{}", chinese).format(*found.groups())
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
    return [cell for cell in english if {*WORD.findall(CODE.sub("", cell))} - NAMES]

"""The Chinese pages keep step with the English ones: the same headings, code, generated parts and pictures."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    page: ROOT / "docs/zh" / page.name
    for page in (ROOT / "docs" / name for name in ("five-minutes.md", "finetune.md", "twenty-classes.md"))
} | {ROOT / "README.md": ROOT / "README.zh.md"}
FENCE = re.compile(r"^```.*?^```$", re.M | re.S)


def outline(path: Path) -> dict[str, list[str]]:
    """What must not differ between languages."""
    text = path.read_text(encoding="utf-8")
    prose = FENCE.sub("", text)
    return {
        "heading levels": re.findall(r"^#+(?= )", prose, re.M),
        "code": FENCE.findall(text),
        "generated parts": re.findall(r"<!-- (?:generated|end): \S+ -->", prose),
        "pictures": re.findall(r"!\[[^]]*\]\((?:\.\./)*([^)]+)\)", prose),
        "names": sorted(set(re.findall(r"`([^`\n]+)`", prose))),
    }


@pytest.mark.parametrize(("english", "chinese"), PAGES.items(), ids=[page.name for page in PAGES])
def test_the_chinese_page_has_what_the_english_one_has(english: Path, chinese: Path) -> None:
    ours, theirs = outline(english), outline(chinese)
    for what in ours:
        assert theirs[what] == ours[what], what


def test_all_translations_are_compared() -> None:
    assert sorted(PAGES.values()) == sorted([*(ROOT / "docs/zh").glob("*.md"), ROOT / "README.zh.md"])

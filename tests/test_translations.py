"""The Chinese pages keep step with the English ones: the same headings, code, generated parts, pictures and figures."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("index.md", "five-minutes.md", "finetune.md", "twenty-classes.md")
PAGES = {page: ROOT / "docs/zh" / page.name for page in (ROOT / "docs" / name for name in NAMES)} | {
    ROOT / "README.md": ROOT / "README.zh.md"
}
LINK = re.compile(r"\]\([^)]*\)|https?://\S+")
FIGURE = re.compile(r"\d+(?:[.,]\d+)*(?:e-?\d+)?")
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
        # Whoever corrects a measured figure in one language is told of the other.
        "figures": sorted(FIGURE.findall(LINK.sub("]", prose))),
        "names": sorted(set(re.findall(r"`([^`\n]+)`", prose))),
    }


@pytest.mark.parametrize(("english", "chinese"), PAGES.items(), ids=[page.name for page in PAGES])
def test_the_chinese_page_has_what_the_english_one_has(english: Path, chinese: Path) -> None:
    ours, theirs = outline(english), outline(chinese)
    for what in ours:
        assert theirs[what] == ours[what], what


@pytest.mark.parametrize("page", PAGES.values(), ids=lambda page: page.name)
def test_no_line_of_chinese_is_broken(page: Path) -> None:
    # A browser makes a space of the break, within a word even.
    han, wide = r"\u4e00-\u9fff", r"\u3000-\u303f\uff00-\uffef"
    broken = rf"[{han}]\n *[{han}]|[{wide}]\n *(?!\d+\. )[^\s|#<*-]"
    assert re.findall(broken, FENCE.sub("", page.read_text(encoding="utf-8"))) == []


def test_all_translations_are_compared() -> None:
    assert sorted(PAGES.values()) == sorted([*(ROOT / "docs/zh").glob("*.md"), ROOT / "README.zh.md"])


def test_figures_are_found_but_for_those_of_links() -> None:
    text = "2,640 photos, 71.8 %, within 1e-4; 15 轮 [CIFAR-100](https://example.org/2020/3.html), <https://a.org/7>"
    assert FIGURE.findall(LINK.sub("]", text)) == ["2,640", "71.8", "1e-4", "15", "100"]

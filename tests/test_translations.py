"""The Chinese pages keep step with the English ones: the same pages, headings, code, generated parts and figures."""

import importlib
import io
import itertools
import os
import re
import tokenize
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.docs.test_code import Block, blocks_of

DOCS = ROOT / "docs"
# Pages that are still to be translated. Whoever translates one removes it here.
MISSING: set[str] = set()
# Pages that hold a file of the repository and nothing else.
ENGLISH = {"changelog.md", "contributing.md"}
PAGES = {DOCS / "zh" / page.name: page for page in sorted(DOCS.glob("*.md")) if page.name not in MISSING | ENGLISH}
ALL = PAGES | {ROOT / "README.zh.md": ROOT / "README.md"}
HAN = r"\u4e00-\u9fff"
CODE = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\]\([^)]*\)|https?://\S+")
# Anchors, names and places of links, whose figures are part of a name.
NO_FIGURES = re.compile(rf"{CODE.pattern}|{LINK.pattern}|<!--.*?-->|" r"\{ *#[^}]*\}")
FIGURE = re.compile(r"(?<![A-Za-z\d])\d+(?:[.,]\d+)*(?:e-?\d+)?")
FENCE = re.compile(r"^ *```.*?^ *```$", re.M | re.S)
HEADING = re.compile(r"^(#+) (.+?)(?: +\{ *#(\S+) *\})?$", re.M)
# What is quoted, which may have a `#` in it, or a comment.
SHELL = re.compile(r"""(?P<quoted>"(?:[^"\\]|\\.)*"|'[^']*')|(?<!\S)(?P<comment>#[^\n]*)""")


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose_of(text: str) -> str:
    return FENCE.sub("", re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.S))


def without_comments(block: Block) -> tuple[str, list[str]]:
    """The code of a block, spaces at line ends left out, and its comments."""
    if block.language == "python":
        tokens = tokenize.generate_tokens(io.StringIO(block.code).readline)
        found = [token for token in tokens if token.type == tokenize.COMMENT]
        lines = block.code.splitlines()
        for token in found:
            lines[token.start[0] - 1] = lines[token.start[0] - 1][: token.start[1]]
        return "\n".join(line.rstrip() for line in lines), [token.string for token in found]
    if block.language == "sh":
        code = SHELL.sub(lambda part: part["quoted"] or "", block.code)
        comments = [part["comment"] for part in SHELL.finditer(block.code) if part["comment"]]
        return "\n".join(line.rstrip() for line in code.splitlines()), comments
    return block.code, []


def outline(path: Path) -> dict[str, list[Any]]:
    """What must not differ between languages."""
    text = read(path)
    prose = prose_of(text)
    blocks = [(block, *without_comments(block)) for block in blocks_of(text)]
    return {
        "heading levels": [level for level, _, _ in HEADING.findall(prose)],
        "code": [(block.language, code, block.reason) for block, code, _ in blocks],
        "figures in comments": [FIGURE.findall(comment) for _, _, comments in blocks for comment in comments],
        "generated parts": re.findall(r"<!-- (?:generated|end): \S+ -->", prose),
        "pictures": re.findall(r"!\[[^]]*\]\((?:\.\./)*([^)]+)\)", prose),
        # Whoever corrects a measured figure in one language is told of the other.
        "figures": sorted(FIGURE.findall(NO_FIGURES.sub("", prose))),
        "names": sorted(set(CODE.findall(prose))),
    }


def anchors(path: Path) -> list[str]:
    """The anchors of the headings below the title."""
    found = []
    for level, title, own in HEADING.findall(prose_of(read(path))):
        slug = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title, flags=re.A).strip().lower())
        found += [own or slug] if len(level) > 1 else []
    return found


def parametrize(pages: Any) -> Any:
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.name)


@parametrize(ALL)
def test_the_chinese_page_has_what_the_english_one_has(page: Path) -> None:
    ours, theirs = outline(ALL[page]), outline(page)
    for what in ours:
        assert theirs[what] == ours[what], what


@parametrize(PAGES)
def test_headings_have_the_anchors_of_the_english_page(page: Path) -> None:
    assert anchors(page) == anchors(PAGES[page])


def test_every_page_is_translated_or_known_to_be_missing() -> None:
    assert sorted((DOCS / "zh").glob("*.md")) == sorted(PAGES)
    assert {name for name in MISSING | ENGLISH if not (DOCS / name).exists()} == set(), "no such page"


def nav_of(nav: list[Any]) -> list[Any]:
    """A navigation without titles: names of pages, and lists of these for sections."""
    values = [next(iter(item.values())) if isinstance(item, dict) else item for item in nav]
    return [nav_of(value) if isinstance(value, list) else value for value in values]


def test_the_navigation_is_that_of_the_english_pages() -> None:
    config = re.sub(r"!!python\S+", "", read(ROOT / "mkdocs.yml"))
    nav = yaml.safe_load(config)["nav"]
    (chinese,) = (item["中文"] for item in nav if "中文" in item)
    translated = {page.name for page in PAGES}

    def kept(pages: list[Any]) -> list[Any]:
        inner = [kept(page) if isinstance(page, list) else page for page in pages]
        return [page for page in inner if (page if isinstance(page, list) else page in translated)]

    english = kept(nav_of([item for item in nav if "中文" not in item]))
    assert nav_of(chinese) == [
        [f"zh/{page}" for page in pages] if isinstance(pages, list) else f"zh/{pages}" for pages in english
    ]
    titles = re.findall(r"[^'\"\s\[{][^:\[\]{}]*(?=:)", str(chinese))
    assert [title for title in titles if not re.search(rf"[{HAN}]", title)] == []


@parametrize(PAGES)
def test_a_page_describes_itself_in_chinese(page: Path) -> None:
    assert re.search(rf"\A---\n(?:.*\n)*?description: .*[{HAN}].*。\n(?:.*\n)*?---\n", read(page))


@parametrize(PAGES)
def test_links_lead_to_translated_pages(page: Path) -> None:
    places = re.findall(r"\]\(([^)#:\s]+\.md)", read(page))
    lead = [Path(os.path.normpath(page.parent / place)) for place in places]
    assert [place for place in lead if DOCS / "zh" / place.name in PAGES and place.parent == DOCS] == []


@parametrize(ALL)
def test_comments_in_code_are_chinese(page: Path) -> None:
    comments = [comment for block in blocks_of(read(page)) for comment in without_comments(block)[1]]
    assert [
        text for text in comments if re.search(r"[a-z]{2} +[a-z]{2}", text) and not re.search(f"[{HAN}]", text)
    ] == []


@pytest.fixture
def chinese(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that translates generated parts."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("chinese")


@parametrize(ALL)
def test_generated_tables_are_chinese(page: Path, chinese: Any) -> None:
    parts = re.findall(r"<!-- generated: \S+ -->\n(.*?)<!-- end: ", read(page), re.S)
    # Add what is found here to scripts/chinese.toml.
    assert [cell for part in parts for cell in chinese.untranslated(part)] == []


def test_figures_and_names_are_put_into_the_translation(chinese: Any) -> None:
    part = "| family { data-filter=choice } | batch 32 |\n| [a](models/a.md) | new words |\n"
    part += "\n2 threads.\n"
    assert chinese.page(part).splitlines() == [
        "| 系列 { data-filter=choice } | 批次大小 32 |",
        "| [a](../models/a.md) | new words |",
        "",
        "2 个线程。",
    ]
    assert chinese.untranslated(chinese.page(part)) == ["new words"]


@parametrize(ALL)
def test_no_line_of_chinese_is_broken(page: Path) -> None:
    # A browser makes a space of the break, within a word even.
    lines = prose_of(read(page)).splitlines()
    begins = re.compile(r" *(?:[-*] |\d+\. |[|#<>!]|--8<--|$)")
    ends = re.compile(r"(?:[|#<>]|--8<--).*$|$")
    pairs = itertools.pairwise(lines)
    broken = [line for before, line in pairs if not ends.match(before) and not begins.match(line)]
    assert [line for line in broken if re.search(f"[{HAN}]", line)] == []


# What an earlier translation wrote, and what Chinese projects write.
WORDS = {
    "核对": "校验",
    "回答": "输出",
    "逐位": "逐比特",
    "头部": "检测头、分割头",
    "主干": "骨干网络",
    "加速倍数": "加速比",
    "附加依赖": "可选依赖",
    "粗分类": "粗类",
    "您": "你",
    "仅此而已": "不建议用于",
    "顶替": "回退到",
    "或许": "未经测试",
}
TYPOGRAPHY = {
    r"\d %": "no space before %",
    rf"[{HAN}][,;:!?]|[,;!?][{HAN}]": "full-width punctuation",
    rf"[{HAN}]\(|\)[{HAN}]": "full-width brackets",
    rf"[{HAN}]\"|\"[{HAN}]": "Chinese quotation marks",
    rf"[{HAN}][A-Za-z0-9]|[A-Za-z0-9][{HAN}]": "a space between Chinese and Latin",
}


@parametrize(ALL)
def test_the_chinese_is_that_of_chinese_projects(page: Path) -> None:
    prose = re.sub(r"<!-- generated: \S+ -->\n.*?<!-- end: ", "", prose_of(read(page)), flags=re.S)
    assert [(word, better) for word, better in WORDS.items() if word in prose] == []
    plain = re.sub(r"`[^`\n]+`|<[^>]+>|\{[^}]*\}", "", LINK.sub("]", prose))
    found = [(re.search(f".{{,9}}(?:{rule})", plain), better) for rule, better in TYPOGRAPHY.items()]
    assert [(place[0], better) for place, better in found if place] == []


def test_figures_are_found_but_for_those_of_names() -> None:
    text = "2,640 photos, 71.8 %, within 1e-4; 15 轮 [CIFAR-100](https://example.org/2020/3.html), <https://a.org/7>"
    assert FIGURE.findall(NO_FIGURES.sub("", text)) == ["2,640", "71.8", "1e-4", "15", "100"]
    assert FIGURE.findall(NO_FIGURES.sub("", "## 20 类 { #the-20-classes } `fp32` MobileNetV2 1x1")) == ["20", "1"]


def test_comments_are_told_from_code() -> None:
    shell = Block("sh", "echo '# no' \"# no\" a#no $#  # 是\n# all\nrun\n", None)
    assert without_comments(shell) == ("echo '# no' \"# no\" a#no $#\n\nrun", ["# 是", "# all"])
    python = Block("python", 'a = "# no"  # yes\n# all\nb\n', None)
    assert without_comments(python) == ('a = "# no"\n\nb', ["# yes", "# all"])
    assert without_comments(Block("json", "# no\n", None)) == ("# no\n", [])

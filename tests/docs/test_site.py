"""The documentation: it builds, loads nothing from elsewhere, and says what the code does."""

from __future__ import annotations

import html
import importlib
import itertools
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

import mnv2zoo
from mnv2zoo import architecture
from mnv2zoo.weights import index
from tests.conftest import ROOT

ELSEWHERE = re.compile(r"(?:https?:)?//")
# What Material's script would load, from these alone: a polyfill for browsers without ResizeObserver, and
# what draws diagrams on pages that have one. No page has one, which a test checks.
MATERIAL_LOADS = ("https://unpkg.com/resize-observer-polyfill", "https://unpkg.com/mermaid@")


class Page(HTMLParser):
    """What a page loads by itself, and where one can link to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.classes: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values.get("id", "")}
        self.classes |= set(values.get("class", "").split())
        self.loads += [values[name] for name in ("src", "srcset", "poster", "data") if name in values]
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(values.get("href", ""))
        self.loads += loads_of_css(values.get("style", ""))


def loads_of_css(text: str) -> list[str]:
    return re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s;]+)""", text)


def pages_of(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    pages = pages_of(site)
    assert pages
    for path, page in pages.items():
        assert page.loads, f"{path} loads no stylesheet: the reader of pages is wrong"
        assert [load for load in page.loads if ELSEWHERE.match(load)] == []
        assert "mermaid" not in page.classes


def test_no_stylesheet_loads_anything_from_another_host(site: Path) -> None:
    sheets = list(site.rglob("*.css"))
    assert sheets
    for path in sheets:
        assert [load for load in loads_of_css(path.read_text(encoding="utf-8")) if ELSEWHERE.match(load)] == []


def test_scripts_load_nothing_from_another_host_but_what_no_page_makes_them(site: Path) -> None:
    scripts = list(site.rglob("*.js"))
    assert scripts
    for path in scripts:
        text = path.read_text(encoding="utf-8")
        loads = re.findall(r"https?://(?:unpkg\.com|cdn[\w.-]*|fonts[\w.-]*)[\w./@-]*", text)
        assert [load for load in loads if not load.startswith(MATERIAL_LOADS)] == []


def test_the_reader_of_pages_sees_what_is_loaded() -> None:
    page = Page(
        '<link rel="stylesheet" href="https://a.org/a.css"><script src="//b.org/b.js"></script><img src="c.png">'
        '<a href="https://d.org"></a><p style="background: url(https://e.org/e.png)"></p>'
        '<link rel="canonical" href="f">'
    )
    assert page.loads == ["https://a.org/a.css", "//b.org/b.js", "c.png", "https://e.org/e.png"]
    assert loads_of_css("@import 'https://a.org/a.css'; @font-face {src: url(b.woff)}") == [
        "https://a.org/a.css",
        "b.woff",
    ]


def test_every_link_leads_somewhere(site: Path) -> None:
    pages = pages_of(site)
    lost = []
    for path, page in pages.items():
        for link in page.links:
            address, _, anchor = link.partition("#")
            if ELSEWHERE.match(link) or link.startswith("mailto:"):
                continue
            if link.removeprefix("../") == "demo/index.html":  # `make docs` puts it there, with a network
                continue
            folder = site if address.startswith("/") else path.parent
            place = (folder / unquote(address).lstrip("/")).resolve() if address else path
            place = place / "index.html" if place.is_dir() else place
            if not place.is_file() or (anchor and place in pages and unquote(anchor) not in pages[place].anchors):
                lost.append(f"{path.relative_to(site)}: {link}")
    assert sum(len(page.links) for page in pages.values()) > 1000
    assert lost == []


def rows_of(text: str, *header: str) -> list[list[str]]:
    """The words of the cells of each row of the table whose headers begin like that."""
    words = [
        [html.unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in re.findall(r"<t[hd]\b.*?</t[hd]>", row, re.S)]
        for row in re.findall(r"<tr>.*?</tr>", text, re.S)
    ]
    headers = [number for number, row in enumerate(words) if tuple(row[: len(header)]) == header]
    assert len(headers) == 1, f"not one table with the header {header}"
    width = len(words[headers[0]])
    return list(itertools.takewhile(lambda row: len(row) == width, words[headers[0] + 1 :]))


def test_the_zoo_has_a_row_for_each_model_and_weights(site: Path) -> None:
    text = (site / "zoo.html").read_text(encoding="utf-8")
    rows = rows_of(text, "model", "weights", "family")
    weights = index.read(index.shipped_path())
    without = architecture.CONFIGS.keys() - {entry.architecture for entry in weights.values()}
    expected = [(entry.architecture, entry.tag) for entry in weights.values()]
    expected += [(name, "none yet") for name in without]
    assert sorted((row[0], row[1]) for row in rows) == sorted(expected)
    links = Page(text).links
    assert all(f"models/{name}.html" in links for name in architecture.CONFIGS)
    assert all(f"models/{entry.architecture}.html#{entry.tag}" in links for entry in weights.values())


def test_a_models_page_tells_what_the_configuration_and_the_index_tell(site: Path, name: str) -> None:
    text = (site / f"models/{name}.html").read_text(encoding="utf-8")
    steps = rows_of(text, "layers")
    config = architecture.get(name)
    figures = mnv2zoo.model_info(name)
    assert sum(int(row[6].replace(",", "")) for row in steps) == figures.params
    assert sum(int(row[7].replace(",", "")) for row in steps) == figures.macs
    assert sum(int(row[3]) for row in steps[1:-2]) == len(architecture.bottlenecks(config))
    maps = [(int(row[1]), int(row[2])) for row in rows_of(text, "bottleneck")]
    assert maps == list(zip(figures.feature_channels, figures.feature_reductions, strict=True))
    for entry in index.entries_of(name):
        start = text.index(f'id="{entry.tag}"')
        told = dict(rows_of(text[start : text.index("</table>", start) + len("</table>")], "fact"))
        assert told["name"] == entry.name
        assert told["SHA-256"] == entry.sha256 or not entry.pinned
        assert told["license"] == entry.license
    # Both drawings are within the page, with what a screen reader says of them.
    assert text.count("<svg viewBox=") == 2
    assert re.search(r"<title id=\S+>The network", text)
    assert text.count('class="shortcut"') == 2 + sum(block.shortcut for block in architecture.bottlenecks(config)) - 1


def test_the_header_leads_to_the_page_in_the_other_language(site: Path) -> None:
    translated = {path.name for path in (site / "zh").glob("*.html")}
    assert {"index.html", "five-minutes.html"} <= translated
    switch = re.compile(r'<a href="([^"]*)" lang="(\w+)"[^>]* class="md-header__language">')
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        ((address, language),) = switch.findall(text)
        place = Path(os.path.normpath(path.parent / address.lstrip("/"))).relative_to(site).as_posix()
        chinese = path.parent.name == "zh"
        assert language == ("en" if chinese else "zh")
        assert f'<html lang="{"zh" if chinese else "en"}"' in text
        if chinese:
            assert place == path.name
        else:
            assert place == (f"zh/{path.name}" if path.parent == site and path.name in translated else "zh/index.html")


def test_pages_lead_to_the_repository_and_name_the_version(site: Path) -> None:
    text = (site / "choose.html").read_text(encoding="utf-8")
    assert '<a href="https://github.com/example/mnv2zoo" title="Go to repository" class="md-source">' in text
    assert 'href="https://github.com/example/mnv2zoo/edit/main/docs/choose.md"' in text
    assert '<link rel="canonical" href="https://docs.example.org/choose.html">' in text
    (footer,) = re.findall(r'class="md-copyright__highlight">(.*?)</div>', text, re.S)
    assert footer.strip() == f"mnv2zoo {mnv2zoo.__version__}"


def test_files_of_the_root_are_pages_with_links_within_the_site(site: Path) -> None:
    changelog = (site / "changelog.html").read_text(encoding="utf-8")
    newest = re.search(r"^## \[([\w.]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)[1]
    assert f'<h2 id="{newest.lower().replace(".", "")}' in changelog
    assert 'href="contributing.html"' in changelog
    assert 'href="https://github.com/example/mnv2zoo/edit/main/CHANGELOG.md"' in changelog
    contributing = (site / "contributing.html").read_text(encoding="utf-8")
    assert 'href="adding.html"' in contributing
    assert "cff-version: " in html.unescape(re.sub("<[^>]+>", "", (site / "citation.html").read_text(encoding="utf-8")))
    assert "Apache License" in (site / "license.html").read_text(encoding="utf-8")


def test_the_zoo_begins_with_what_is_recommended_and_ends_with_models_without_weights(site: Path) -> None:
    rows = rows_of((site / "zoo.html").read_text(encoding="utf-8"), "model", "weights", "family")
    names = [f"{row[0]}.{row[1]}" for row in rows]
    assert names[: len(index.RECOMMENDED)] == list(index.RECOMMENDED)
    without = [row[1] == "none yet" for row in rows]
    assert without == sorted(without)


def test_the_header_has_one_way_to_the_other_language(site: Path) -> None:
    for path in site.rglob("*.html"):
        header = path.read_text(encoding="utf-8").partition("<main")[0]
        header = re.sub(r'<div class="md-search".*?</form>', "", header, flags=re.S)
        if path.parent.name != "zh":
            assert header.count("中文") == 1, path


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that generates, with those that it is made of."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("generate")


def test_every_generated_part_is_on_a_page(scripts: Any) -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))]
    used = {found["name"].partition(":")[0] for text in texts for found in scripts.PART.finditer(text)}
    assert used == scripts.PARTS.keys()


def test_accuracy_against_time_is_drawn_once_it_is_measured(
    scripts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["catalog"], "ROOT", tmp_path)
    assert "latency" not in scripts.PARTS["costs"]()
    assert "latency.svg" not in scripts.model_pages.all_drawings()
    times = {"eager": {"median_ms": 17.25}, "torch": {"median_ms": 8.5}}
    found: dict[str, Any] = {"date": "2026-01-02", "machine": {"cpu": "A processor"}, "threads": 2}
    found["networks"] = dict.fromkeys(("mnv2zoo_100.ra_in1k", "mnv2zoo_140.ra_in1k"), times)
    (tmp_path / "benchmarks/results/a").mkdir(parents=True)
    (tmp_path / "benchmarks/results/a/latency.json").write_text(json.dumps(found))
    assert 'drawings/latency.svg"' in scripts.PARTS["costs"]()
    drawing = scripts.model_pages.all_drawings()["latency.svg"]
    assert "A processor, 2026-01-02" in drawing
    assert "mnv2zoo_100, eager PyTorch: 17.25, 72.91" in drawing
    assert drawing.count('class="point"') == 3, "one for each, and the legend's"


@pytest.mark.slow
def test_what_is_generated_is_current() -> None:
    command = [sys.executable, ROOT / "scripts" / "generate.py", "--check"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr

"""The documentation: it builds, loads nothing from elsewhere, and says what the code does."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import mnv2zoo
from tests.conftest import ROOT, as_bytes, random_state_dict, raw_entry

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = [
    pytest.param(code, id=f"{page.name}-{number}")
    for page in PAGES
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S))
]
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
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values.get("id", "")}
        self.classes |= set(values.get("class", "").split())
        self.loads += [values[name] for name in ("src", "srcset", "poster", "data") if name in values]
        if tag == "link" and values.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(values.get("href", ""))
        self.loads += loads_of_css(values.get("style", ""))


def loads_of_css(text: str) -> list[str]:
    return re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s;]+)""", text)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the documentation needs the extra: pip install 'mnv2zoo[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


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


def test_every_public_name_has_its_place_in_the_reference(site: Path) -> None:
    anchors = set().union(*(page.anchors for path, page in pages_of(site).items() if "api" in path.parts))
    # timm adds the entry points to __all__; they are listed in the zoo, and take what registry.create takes.
    public = {f"mnv2zoo.{name}" for name in set(mnv2zoo.__all__) - set(mnv2zoo.architecture.CONFIGS)}
    public |= {f"mnv2zoo.weights.{name}" for name in mnv2zoo.weights.__all__}
    assert sorted(public - anchors) == []


@pytest.mark.parametrize("code", EXAMPLES)
def test_examples_run(
    code: str, overlay: Callable[[dict[str, Any]], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Random weights stand in for those that the examples fetch.
    data = as_bytes(random_state_dict("mnv2zoo_100"))
    (tmp_path / "random.safetensors").write_bytes(data)
    weights = raw_entry(bundled="random.safetensors", sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    for field in ("repo_id", "revision", "filename"):
        del weights[field]
    overlay({"mnv2zoo_100.ra_in1k": weights})
    monkeypatch.chdir(ROOT)
    exec(compile(code, "example", "exec"), {})


def test_what_is_generated_is_current() -> None:
    command = [sys.executable, ROOT / "scripts" / "generate.py", "--check"]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr

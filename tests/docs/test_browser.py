"""The documentation as a person sees it: in Chromium, light and dark, on a desk and on a phone.

Needs Debian's package `chromium`, or another Chromium on the path.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mnv2zoo import architecture
from mnv2zoo.weights import index
from tests.conftest import ROOT

sync_api = pytest.importorskip("playwright.sync_api", reason="browser tests need the extra: pip install -e '.[dev]'")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra: pip install -e '.[dev]'")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path: apt-get install chromium"),
]

VIEWS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "has_touch": True},
}
MAIN = ["index.html", "zoo.html", "models/mnv2zoo_100.html", "models/mnv2zoo_100_c20.html", "features.html"]
MAIN += ["finetune.html", "deploy.html", "weights.html", "cli.html", "api/index.html", "api/features.html"]
MAIN += ["air-gapped.html", "adding.html", "zh/index.html", "zh/finetune.html"]
# Elements that reach beyond the window and lie in nothing that scrolls or hides by itself.
BEYOND = """() => {
  const clips = (element) => element && element !== document.body &&
    (getComputedStyle(element).overflowX !== "visible" || clips(element.parentElement));
  return [...document.querySelectorAll("main *")]
    .filter((element) => element.getBoundingClientRect().right > innerWidth + 1 && !clips(element.parentElement))
    .map((element) => element.outerHTML.slice(0, 80));
}"""
ROWS = len(index.read(index.shipped_path())) + len(
    architecture.CONFIGS.keys() - {entry.architecture for entry in index.read(index.shipped_path()).values()}
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def new_page(browser: Any) -> Iterator[Any]:
    """Opens pages, and fails the test for what their console, their scripts or their requests complain of."""
    complaints: list[str] = []
    contexts = []

    def new(allowed: str, **view: Any) -> Any:
        context = browser.new_context(**view)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        # What is missing is an error of the console; a request is aborted when the test goes on to another page.
        page.on("request", lambda r: None if r.url.startswith((allowed, "data:")) else complaints.append(r.url))
        return page

    yield new
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.mark.parametrize("view", VIEWS)
def test_every_page_fits_and_asks_nobody_else(view: str, new_page: Any, address: str, site: Path) -> None:
    page = new_page(address, **VIEWS[view])
    for path in sorted(site.rglob("*.html")):
        page.goto(address + path.relative_to(site).as_posix())
        assert page.evaluate("document.documentElement.scrollWidth") <= VIEWS[view]["viewport"]["width"], path
        assert page.evaluate(BEYOND) == [], path


@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_no_serious_problem(view: str, new_page: Any, address: str) -> None:
    page = new_page(address, **VIEWS[view])
    found = {}
    for name in MAIN:
        page.goto(address + name)
        violations = axe.Axe().run(page).response["violations"]
        for violation in violations:
            if violation["impact"] in ("serious", "critical"):
                targets = [node["target"] for node in violation["nodes"][:3]]
                found[f"{name}: {violation['id']}"] = targets
    assert found == {}


@pytest.mark.parametrize("opened", ["served", "as files"])
def test_search_finds_the_taps(opened: str, new_page: Any, address: str, site: Path) -> None:
    start = address if opened == "served" else f"{site.as_uri()}/"
    page = new_page(start, **VIEWS["light"])
    page.goto(f"{start}index.html")
    page.get_by_role("textbox", name="Search").click()
    page.keyboard.type("BottleneckTaps")
    page.locator(".md-search-result__link[href*='#mnv2zoo.features.BottleneckTaps']").first.click()
    page.locator("h2", has_text="BottleneckTaps").wait_for()
    assert page.url.endswith("api/features.html#mnv2zoo.features.BottleneckTaps")


def test_search_finds_chinese_words(new_page: Any, address: str) -> None:
    page = new_page(address, **VIEWS["light"])
    page.goto(f"{address}zh/finetune.html")
    page.get_by_role("textbox", name="搜索").click()
    page.keyboard.type("照片")
    page.keyboard.press("End")  # the search listens to keys, of which these characters have none
    page.locator(".md-search-result__link[href*='zh/finetune.html']").first.click()
    page.locator("h1", has_text="用自己的照片微调").wait_for()


@pytest.mark.parametrize("opened", ["served", "as files"])
def test_the_header_leads_to_a_translation_and_back(opened: str, new_page: Any, address: str, site: Path) -> None:
    start = address if opened == "served" else f"{site.as_uri()}/"
    page = new_page(start, **VIEWS["phone"])
    page.goto(f"{start}finetune.html")
    page.locator("header").get_by_role("link", name="中文").click()
    page.locator("h1", has_text="用自己的照片微调").wait_for()
    page.locator("header").get_by_role("link", name="English").click()
    page.locator("h1", has_text="Fine-tune").wait_for()
    assert page.url == f"{start}finetune.html"


@pytest.mark.parametrize("opened", ["served", "as files"])
def test_the_zoo_sorts(opened: str, new_page: Any, address: str, site: Path) -> None:
    start = address if opened == "served" else f"{site.as_uri()}/"
    page = new_page(start, **VIEWS["light"])
    page.goto(f"{start}zoo.html")

    def column(number: int) -> list[str]:
        cells = page.locator(f".zoo tbody tr td:nth-child({number})")
        return [words.strip() for words in cells.all_inner_texts()]

    def numbers(number: int) -> list[float]:
        return [float(words) for words in column(number) if words]

    for title, number in (("params (M)", 4), ("GMACs", 5), ("top-1 (%)", 7)):
        button, header = page.get_by_role("button", name=f"{title}"), page.locator(f".zoo th:nth-child({number})")
        button.click()
        assert header.get_attribute("aria-sort") == "ascending"
        assert numbers(number) == sorted(numbers(number))
        button.click()
        assert header.get_attribute("aria-sort") == "descending"
        assert numbers(number) == sorted(numbers(number), reverse=True)
        assert "" not in column(number)[: len(numbers(number))], "empty cells come last"
    page.get_by_role("button", name="family").click()
    assert column(3) == sorted(column(3))
    assert page.locator(".zoo th[aria-sort]").count() == 1


def test_the_zoo_filters(new_page: Any, address: str) -> None:
    page = new_page(address, **VIEWS["light"])
    page.goto(f"{address}zoo.html")
    filters = page.locator(".zoo-filters")
    weights = index.read(index.shipped_path()).values()

    def shown() -> int:
        count = page.locator(".zoo tbody tr:visible").count()
        assert page.locator(".zoo-count").inner_text() == f"{count} of {ROWS} shown"
        return count

    assert shown() == ROWS
    filters.get_by_label("trust").select_option("pinned")
    assert shown() == len([entry for entry in weights if entry.pinned])
    filters.get_by_label("source").select_option("this package")
    assert shown() == len([entry for entry in weights if entry.bundled])
    filters.get_by_role("button", name="Reset").click()
    page.locator(".zoo-count", has_text=f"{ROWS} of").wait_for()
    filters.get_by_label("top-1 (%) at least").fill("75")
    assert shown() == len([entry for entry in weights if entry.metrics.get("top1", 0) >= 75])
    filters.get_by_label("GMACs at most").fill("0.6")
    filters.get_by_label("params (M) at most").fill("5")
    assert page.locator(".zoo tbody tr:visible").all_inner_texts()[0].split()[0] == "mnv2zoo_110d"
    filters.get_by_role("button", name="Reset").click()
    page.locator(".zoo-count", has_text=f"{ROWS} of").wait_for()
    filters.get_by_label("search").fill("140 ra_in1k")
    assert shown() == 1
    filters.get_by_label("search").fill("")
    filters.get_by_label("license").select_option("Apache-2.0")
    assert shown() == len([entry for entry in weights if entry.license == "Apache-2.0"])
    filters.get_by_label("family").select_option("20-class")
    assert shown() == len([entry for entry in weights if entry.architecture.endswith("_c20")])


def test_the_zoo_is_a_table_without_scripts(new_page: Any, address: str) -> None:
    page = new_page(address, **VIEWS["light"], java_script_enabled=False)
    page.goto(f"{address}zoo.html")
    assert page.locator(".zoo tbody tr:visible").count() == ROWS
    page.locator(".zoo").get_by_role("link", name="mnv2zoo_100", exact=True).first.click()
    assert page.locator("h1").inner_text().startswith("mnv2zoo_100")


def test_code_copies(new_page: Any, address: str) -> None:
    page = new_page(address, **VIEWS["light"], permissions=["clipboard-read", "clipboard-write"])
    page.goto(f"{address}models/mnv2zoo_100.html")
    page.locator(".md-clipboard, .md-code__button[data-md-type='copy']").first.click()
    page.get_by_text("Copied to clipboard").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    source = (ROOT / "docs/models/mnv2zoo_100.md").read_text(encoding="utf-8")
    assert f"```python\n{copied.rstrip()}\n```" in source


def test_the_switch_makes_page_and_drawings_dark(new_page: Any, address: str) -> None:
    page = new_page(address, **VIEWS["light"])
    page.goto(f"{address}models/mnv2zoo_100.html")

    def colors() -> tuple[str, ...]:
        return tuple(
            page.locator(selector).first.evaluate(f"element => getComputedStyle(element).{style}")
            for selector, style in (("body", "backgroundColor"), (".drawing text", "fill"), (".drawing .box", "fill"))
        )

    light = colors()
    page.locator("label[title='Dark']").click()
    page.wait_for_function("document.body.dataset.mdColorScheme === 'slate'")
    page.wait_for_timeout(500)  # colors fade
    dark = colors()
    assert not set(light) & set(dark)
    page.goto(f"{address}zoo.html")
    assert page.evaluate("document.body.dataset.mdColorScheme") == "slate", "the choice is kept"

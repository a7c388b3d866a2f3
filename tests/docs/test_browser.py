"""The documentation as a person sees it: in Chromium, light and dark, on a desk and on a phone.

Needs Debian's package `chromium`, or another Chromium on the path.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mnv2zoo import architecture
from mnv2zoo.weights import index
from tests.conftest import ROOT
from tests.docs.test_code import COMMANDS, RUN

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


# What readers type, and the page that has to be among the first three results.
QUERIES = {
    "create_model": "create-model.html",
    "distillation": "finetune.html",
    "choose": "choose.html",
    "onnx": "deploy.html",
    "BottleneckTaps": "features.html",
    "create_model arguments": "create-model.html",
    "install": "install.html",
}


def test_search_finds_what_readers_type(new_page: Any, address: str) -> None:
    page = new_page(address, **VIEWS["light"])
    page.goto(f"{address}index.html")
    field = page.get_by_role("textbox", name="Search")
    field.click()
    found = {}
    for query, wanted in QUERIES.items():
        field.fill("")
        page.keyboard.press("End")  # the search listens to keys
        page.locator(".md-search-result__meta", has_text="Type to start searching").wait_for()
        page.keyboard.insert_text(query)
        page.keyboard.press("End")
        page.locator(".md-search-result__meta", has_text="matching documents").wait_for()
        # One item for each page; its sections are further links in it.
        links = page.locator(".md-search-result__item > .md-search-result__link:first-child")
        first = [link.get_attribute("href").partition("?")[0].rpartition("/")[2] for link in links.all()[:3]]
        if wanted not in first:
            found[query] = first
    assert found == {}


def test_search_finds_chinese_words(new_page: Any, address: str) -> None:
    page = new_page(address, **VIEWS["light"])
    page.goto(f"{address}zh/finetune.html")
    page.get_by_role("textbox", name="搜索").click()
    page.keyboard.type("微调")
    page.keyboard.press("End")  # the search listens to keys, of which these characters have none
    page.locator(".md-search-result__link[href*='zh/finetune.html']").first.click()
    page.locator("h1", has_text="用自己的图片微调").wait_for()


@pytest.mark.parametrize("opened", ["served", "as files"])
def test_the_header_leads_to_a_translation_and_back(opened: str, new_page: Any, address: str, site: Path) -> None:
    start = address if opened == "served" else f"{site.as_uri()}/"
    page = new_page(start, **VIEWS["phone"])
    page.goto(f"{start}finetune.html")
    page.locator("header").get_by_role("link", name="中文").click()
    page.locator("h1", has_text="用自己的图片微调").wait_for()
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

    for title, number in (("top-1 (%)", 4), ("ms", 6), ("MB", 7), ("GMACs", 9)):
        button, header = (
            page.get_by_role("button", name=title, exact=True),
            page.locator(f".zoo th:nth-child({number})"),
        )
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
    filters.get_by_label("MB at most").fill("20")
    names = [text.split()[0] for text in page.locator(".zoo tbody tr:visible").all_inner_texts()]
    assert names == ["mnv2zoo_100_c20", "mnv2zoo_110d"]  # recommended models first
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


CONTRAST = """(button) => {
  const light = (text) => {
    const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return { rgb: [r, g, b], a };
  };
  const luminance = (rgb) => rgb
    .map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
  const over = (front, back) => front.rgb.map((part, index) => front.a * part + (1 - front.a) * back[index]);
  const paper = light(getComputedStyle(button.closest("pre").querySelector("code")).backgroundColor).rgb;
  const ink = over(light(getComputedStyle(button).color), paper);
  const [more, less] = [luminance(ink), luminance(paper)].sort((a, b) => b - a);
  return (more + 0.05) / (less + 0.05);
}"""


@pytest.mark.parametrize("view", VIEWS)
def test_copy_buttons_are_visible_without_hovering(view: str, new_page: Any, address: str) -> None:
    page = new_page(address, **VIEWS[view])
    page.goto(f"{address}models/mnv2zoo_100.html")
    button = page.locator(".md-clipboard, .md-code__button[data-md-type='copy']").first
    assert button.is_visible()
    assert button.evaluate(CONTRAST) >= 3


# Tables and code that are wider than their place, which one has to scroll to read.
CUT = """() => [...document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code")]
    .filter((element) => element.scrollWidth > element.clientWidth + 1)
    .map((element) => element.innerText.slice(0, 60));"""


def test_nothing_is_cut_on_a_desk(new_page: Any, address: str, site: Path) -> None:
    page = new_page(address, **VIEWS["light"])
    cut = {}
    for path in sorted(site.rglob("*.html")):
        name = path.relative_to(site).as_posix()
        page.goto(address + name)
        if found := page.evaluate(CUT):
            cut[name] = found
    assert cut == {}


class Goal(NamedTuple):
    """What a reader comes for: the links to click from the home page, and the first line of code there."""

    clicks: tuple[str, ...]
    code: str


GOALS = {
    "pretrained model": Goal(
        ("Get a prediction in five minutes",), "mnv2zoo predict examples/coffee.jpg --model mnv2zoo_100_c20"
    ),
    "choice": Goal(("Choose a model",), 'timm.create_model("mnv2zoo_100_c20", pretrained=True)'),
    "fine-tune": Goal(("Fine-tune on your photos",), "mnv2zoo finetune photos --out run"),
    "backbone": Goal(("Use it as a backbone",), 'mnv2zoo.features.BottleneckTaps(model, ["Bottleneck_13"])'),
    "deploy": Goal(("Deploy", "Speed up inference"), "mnv2zoo.deploy.optimize(model, images)"),
    "arguments": Goal(("Look up create_model arguments",), 'timm.create_model("mnv2zoo_100_c20", pretrained=True)'),
    "own weights": Goal(("Load your own weights",), "mnv2zoo weights convert flowers.keras --out flowers"),
}


@pytest.mark.parametrize("goal", GOALS.values(), ids=GOALS.keys())
def test_a_goal_is_two_clicks_from_home_with_code_on_the_first_screen(goal: Goal, new_page: Any, address: str) -> None:
    assert len(goal.clicks) <= 2
    page = new_page(address, viewport={"width": 1280, "height": 800})
    page.goto(f"{address}index.html")
    for title in goal.clicks:
        page.locator("main").get_by_role("link", name=title, exact=True).first.click()
    code = page.locator("main pre code", has_text=goal.code).first
    code.wait_for()
    line = code.evaluate(LINE, goal.code)
    assert line["top"] >= 0
    assert line["bottom"] <= 800
    name = page.url.removeprefix(address).partition("#")[0].replace(".html", ".md")
    run = [*RUN[f"docs/{name}"], *COMMANDS.get(f"docs/{name}", ())]
    assert any(goal.code in code for code in run), "the tests run it"


# Where a line of code is on the screen.
LINE = """(element, wanted) => {
  const text = element.textContent, start = text.indexOf(wanted);
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT), range = document.createRange();
  let passed = 0, begun = false;
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const end = passed + node.length;
    if (!begun && start < end) { range.setStart(node, start - passed); begun = true; }
    if (begun && start + wanted.length <= end) { range.setEnd(node, start + wanted.length - passed); break; }
    passed = end;
  }
  const { top, bottom } = range.getBoundingClientRect();
  return { top, bottom };
}"""


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

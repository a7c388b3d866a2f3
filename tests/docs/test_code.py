"""The code in the documentation runs: every Python block of its pages, and the examples in docstrings."""

from __future__ import annotations

import doctest
import importlib.util
import os
import pkgutil
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

import pytest

import mnv2zoo
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# A fence, with the comment before it that says why its code is not run.
FENCE = re.compile(
    r"^(?: *<!-- not run: (?P<reason>.*?) -->\n+)?"
    r"(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```$",
    re.M | re.S,
)


class Block(NamedTuple):
    """A block of code on a page."""

    language: str
    code: str
    reason: str | None


def blocks_of(text: str) -> list[Block]:
    return [Block(found["language"], textwrap.dedent(found["code"]), found["reason"]) for found in FENCE.finditer(text)]


BLOCKS = {str(page.relative_to(ROOT)): blocks_of(page.read_text(encoding="utf-8")) for page in PAGES}
RUN = {page: [b.code for b in blocks if b.language == "python" and b.reason is None] for page, blocks in BLOCKS.items()}


def examples() -> list[doctest.DocTest]:
    """The docstrings with examples, of every module but the command line."""
    finder = doctest.DocTestFinder()
    found = finder.find(mnv2zoo, "mnv2zoo")
    for module in pkgutil.walk_packages(mnv2zoo.__path__, "mnv2zoo."):
        if not module.name.startswith(("mnv2zoo.cli", "mnv2zoo.__main__", "mnv2zoo.deploy.bundle")):
            found += finder.find(importlib.import_module(module.name), module.name)
    return [test for test in found if test.examples]


EXAMPLES = examples()


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, codes in RUN.items() if codes])
def test_the_python_blocks_of_a_page_run_in_their_order(page: str, workplace: Path) -> None:
    names: dict[str, object] = {}
    for number, code in enumerate(RUN[page], 1):
        exec(compile(code, f"{page}, Python block {number}", "exec"), names)


# The first commands of guides, and what a test adds to them so that they end soon.
COMMANDS = {
    "docs/five-minutes.md": ("mnv2zoo predict examples/coffee.jpg --model mnv2zoo_100_c20", "", "food_containers"),
    "docs/finetune.md": ("mnv2zoo finetune photos --out run", " --init random --epochs 1 --device cpu", ""),
    "docs/elsewhere.md": ("mnv2zoo weights convert flowers.keras --out flowers --labels names.txt", "", "flowers"),
}
KERAS = "import keras; keras.applications.MobileNetV2((96, 96, 3), weights=None, classes=3).save('flowers.keras')"


@pytest.mark.slow
@pytest.mark.parametrize("page", COMMANDS)
def test_the_first_command_of_a_guide_runs(page: str, workplace: Path) -> None:
    command, added, said = COMMANDS[page]
    assert command in [line for block in BLOCKS[page] if block.language == "sh" for line in block.code.splitlines()]
    if "keras" in command:
        if importlib.util.find_spec("keras") is None:
            pytest.skip("needs Keras, of the extra dev")
        (workplace / "names.txt").write_text("daisy\nrose\ntulip\n")
        environment = os.environ | {"KERAS_BACKEND": "torch", "KERAS_HOME": str(workplace)}
        subprocess.run([sys.executable, "-c", KERAS], env=environment, check=True, cwd=workplace)
    words = shlex.split(command + added)[1:]
    done = subprocess.run(
        [sys.executable, "-m", "mnv2zoo", *words], cwd=workplace, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout + done.stderr


def test_python_that_is_not_run_says_why() -> None:
    for page, blocks in BLOCKS.items():
        for block in blocks:
            # Another name for Python would hide a block from the test above.
            assert block.language not in ("py", "python3", "pycon"), f"{page}: name the language python"
            assert block.reason is None or len(block.reason) > 10, f"{page}: a reason"


def test_blocks_are_found_with_their_reasons() -> None:
    text = "```python\na\n```\n\n<!-- not run: no network -->\n\n```python\nb\n```\n\n- item\n\n"
    assert blocks_of(text + "    ```python\n    c\n    ```\n") == [
        Block("python", "a\n", None),
        Block("python", "b\n", "no network"),
        Block("python", "c\n", None),
    ]
    assert RUN["README.md"]
    assert RUN["docs/models/mnv2zoo_100.md"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_the_examples_of_a_docstring_run(example: doctest.DocTest, workplace: Path) -> None:
    example.globs = {"mnv2zoo": mnv2zoo}
    said: list[str] = []
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.DocTestRunner(optionflags=flags).run(example, out=said.append).failed == 0, "".join(said)


def test_the_examples_of_docstrings_are_found() -> None:
    names = {example.name for example in EXAMPLES}
    assert {
        "mnv2zoo.models.zoo.list_models",
        "mnv2zoo.features.BottleneckTaps",
        "mnv2zoo.deploy.optimize.optimize",
    } <= names

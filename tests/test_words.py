"""The checker of words: what each rule finds and leaves alone, and where it reads."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

import words

RULES, ALLOWED = words.read_rules()


def phrases(text: str, name: str = "page.md", rules: list[words.Rule] = RULES) -> list[tuple[int, str]]:
    return [(line, phrase) for line, phrase, _ in words.found_in(Path(name), text, rules)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.pattern}-{rule.match.pattern[:30]}")
def test_a_rule_matches_its_bad_examples_and_no_rule_the_good_ones(rule: words.Rule) -> None:
    assert rule.bad
    assert [text for text in rule.bad if not phrases(text, rules=[rule])] == []
    assert [(text, phrases(text)) for text in rule.good if phrases(text)] == []


def test_every_pattern_of_the_style_guide_has_a_rule() -> None:
    assert {rule.pattern for rule in RULES} == {f"P{number}" for number in range(1, 14)}


def test_a_page_is_read_outside_code_and_links() -> None:
    page = """# A page

Weights [lie](beside.md) in a `beside` folder, and the labels
stand next to it.
<!-- beside -->

```text
beside
```

```python
beside = 1  # the labels lie beside it
```

The fastest engine at
**hand** wins.
"""
    assert sorted(phrases(page)) == [(12, "beside"), (15, "at **hand")]


def test_a_phrase_ends_with_its_paragraph_and_with_code() -> None:
    assert phrases("the fastest at\n\nhand") == []
    assert phrases("- the fastest at\n- hand") == []
    assert phrases("the fastest at `x` hand") == []


def test_a_module_is_read_in_docstrings_comments_and_messages() -> None:
    module = '''"""Loads.

Runs go on bit for bit.
"""

anew = {"beside": 1}  # the cache is
# made anew


def load(path):
    """Weights are not looked
    at."""
    raise ValueError(
        f"the file at {path} holds "
        "an entry of its own, and goes "
        f"on after {anew}"
    )
'''
    assert sorted(phrases(module, "module.py")) == [
        (3, "go on"),
        (7, "anew"),
        (11, "are not looked at"),
        (15, "goes on"),
    ]


def test_scripts_and_settings_are_read_in_their_comments() -> None:
    assert phrases('beside = "beside"  # beside it\n# it is\n# at hand\n', "recipe.toml") == [
        (1, "beside"),
        (3, "at hand"),
    ]


def test_an_allowed_phrase_is_allowed_in_its_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one.md", "two.md"):
        (tmp_path / name).write_text("\nOne sits beside it.\n", encoding="utf-8")
    excuse = words.Allowed("one.md", "sits beside", "somebody sits")
    hits, used = words.check(words.files_of(["one.md", "two.md"]), RULES, [excuse])
    assert [(hit.file, hit.line, hit.text) for hit in hits] == [("two.md", 2, "beside")]
    assert used == {excuse}


def test_planted_sentences_fail_the_check(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\nPut the labels beside it.\n", encoding="utf-8")
    assert words.main([str(page)]) == 1
    assert f"{page}:3: 'beside' (P2)" in capfd.readouterr().out
    page.write_text("# Page\n\nPut the labels next to it.\n", encoding="utf-8")
    assert words.main([str(page)]) == 0


def test_every_file_that_people_read_is_read() -> None:
    files = {path.relative_to(ROOT).as_posix() for path in words.files_of([str(ROOT / name) for name in words.READ])}
    assert {"README.md", "docs/index.md", "mnv2zoo/errors.py", "examples/grocery/head.toml", "Makefile"} <= files

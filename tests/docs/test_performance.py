"""The page of figures says what was measured, and how to measure what was not."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.conftest import ROOT

PAGE = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
MACHINE = {"cpu": "A Processor", "flags": ["amx_bf16"], "cores": 2, "python": "3.11", "torch": "2.14", "timm": "1.0"}


def row(times: float, goal: float | None) -> dict[str, Any]:
    return {"ms_an_image": 2.5, "timm_ms_an_image": 17.5, "times_timm": times, "goal": goal, "rounds": 30}


DEPLOY = {
    "machine": MACHINE,
    "threads": 2,
    "versions": {"openvino": "2026.4"},
    "weights": "random",
    "batch 1": {"torchvision": row(0.8, None), "torch fp32": row(1.5, 1.6), "openvino bf16": row(8.5, 8.0)},
    "batch 32": {"torchvision": row(0.9, None), "torch fp32": row(3.6, 3.5)},
}


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of results, from which the page is made."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.setattr(importlib.import_module("catalog"), "ROOT", tmp_path)
    folder = tmp_path / "benchmarks/results"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def performance(results: Path) -> ModuleType:
    return importlib.import_module("performance")


def test_the_page_has_every_section_and_each_has_a_benchmark(performance: ModuleType) -> None:
    assert sorted(re.findall(r"<!-- generated: performance:(\w+) -->", PAGE)) == sorted(performance.SECTIONS)
    for section in performance.SECTIONS:
        assert (ROOT / f"benchmarks/{section}.py").is_file()
        assert f"benchmarks/{section}.py" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_what_was_not_measured_is_left_out_with_the_command_that_measures_it(performance: ModuleType) -> None:
    for section in performance.SECTIONS:
        assert f"`python benchmarks/{section}.py" in performance.performance(section)
        assert "|" not in performance.performance(section)
    assert list(performance.all_drawings()) == []


def test_goals_are_judged_as_measured(performance: ModuleType, results: Path) -> None:
    (results / "deploy.json").write_text(json.dumps(DEPLOY))
    text = performance.performance("deploy")
    cells = {
        line.split(" | ")[0].strip("| `"): [cell.strip(" |") for cell in line.split(" | ")[1:]]
        for line in text.splitlines()
        if line.startswith("|")
    }
    assert cells["torch fp32"] == ["2.5", "1.5", "1.6, not met", "2.5", "3.6", "3.5, met"]
    assert cells["openvino bf16"] == ["2.5", "8.5", "8, met", "", "", ""]
    assert cells["torchvision"] == ["2.5", "0.8", "", "2.5", "0.9", ""]
    assert "A Processor, 2 cores (amx_bf16)" in text
    assert "openvino 2026.4" in text


def test_drawings_show_each_bar_and_goal_and_tell_them_in_words(performance: ModuleType, results: Path) -> None:
    (results / "deploy.json").write_text(json.dumps(DEPLOY))
    drawings = dict(performance.all_drawings())
    assert set(drawings) == {"performance-batch-1.svg", "performance-batch-32.svg"}
    for name in drawings:
        assert f'--8<-- "drawings/{name}"' in performance.performance("deploy")
    root = ElementTree.fromstring(drawings["performance-batch-1.svg"])
    kinds = [path.get("class") for path in root.iter("path")]
    assert kinds.count("box strided") == 3
    assert kinds.count("shortcut") == 2
    assert "openvino bf16: 8.5, goal 8" in root.findtext("desc", "")


def test_accuracy_that_was_lost_is_judged_against_what_may_be_lost(performance: ModuleType, results: Path) -> None:
    rows = {
        "original": {"top1": 75.0, "points_lost": 0.0, "agreement": 100.0, "goal": None},
        "openvino bf16": {"top1": 74.9, "points_lost": 0.1, "agreement": 99.0, "goal": 0.3},
        "openvino int8": {"top1": 73.5, "points_lost": 1.5, "agreement": 97.0, "goal": 1.0},
    }
    measured = {"machine": MACHINE, "photos": 200, "calibration": 300, "engines": rows}
    (results / "deploy_accuracy.json").write_text(json.dumps(measured))
    text = performance.performance("deploy_accuracy")
    assert "| `openvino bf16` | 74.90 | 0.10 | 0.3, met | 99.00 |" in text
    assert "| `openvino int8` | 73.50 | 1.50 | 1, not met | 97.00 |" in text

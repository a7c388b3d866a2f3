"""The performance page shows what was measured, and how to measure the rest."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import report
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
    """The folder of a processor's results, from which the page is made."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.setattr(importlib.import_module("catalog"), "ROOT", tmp_path)
    monkeypatch.setattr(report, "RESULTS", tmp_path / "benchmarks/results")
    folder = report.RESULTS / "a"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def performance(results: Path) -> ModuleType:
    return importlib.import_module("performance")


AMD, INTEL = "AMD EPYC", "Intel(R) Xeon(R) Processor"


@pytest.fixture
def write(results: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes the results of a benchmark, as if it had run on a processor on a day."""

    def write(cpu: str, day: int, name: str, measured: dict[str, Any]) -> None:
        monkeypatch.setattr(report, "cpu_name", lambda: cpu)
        report.write(name, {**measured, "date": f"2026-11-{day:02}"})

    return write


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


def rows_of(text: str) -> dict[str, list[str]]:
    """The cells of a table's rows by the first of them."""
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]
    return {first.strip("`"): cells for first, *cells in rows}


def test_engines_have_their_times_and_speedups_and_no_goals(performance: ModuleType, results: Path) -> None:
    (results / "deploy.json").write_text(json.dumps(DEPLOY))
    text = performance.performance("deploy")
    rows = rows_of(text)
    assert rows["torch fp32"] == ["2.5", "1.5", "2.5", "3.6"]
    assert rows["openvino bf16"] == ["2.5", "8.5", "", ""]
    assert rows["torchvision"] == ["2.5", "0.8", "2.5", "0.9"]
    assert "goal" not in text
    assert text.endswith("*A.*\n")


def test_the_page_names_each_processor_once(performance: ModuleType, results: Path) -> None:
    (results / "deploy.json").write_text(json.dumps(DEPLOY))
    older = {**MACHINE, "flags": []}
    (results / "training.json").write_text(json.dumps({"machine": older}))
    (results / "import_time.json").write_text(json.dumps({"machine": {**MACHINE, "cpu": "Another(R)"}}))
    assert rows_of(performance.processors()) == {
        "processor": ["cores", "instructions", "versions"],
        "---": ["--:", "---", "---"],
        "A": ["2", "`amx_bf16`", "Python 3.11, torch 2.14, timm 1.0, openvino 2026.4"],
        "Another": ["2", "`amx_bf16`", "Python 3.11, torch 2.14, timm 1.0"],
    }


def newest(benchmark: str) -> dict[str, Any]:
    """The newest results in the repository."""
    files = sorted((ROOT / "benchmarks/results").glob(f"*/{benchmark}.json"))
    return max((json.loads(file.read_text()) for file in files), key=lambda results: results["date"])


def test_the_page_begins_with_the_engine_for_each_job(performance: ModuleType) -> None:
    rows = rows_of(PAGE.partition("<!-- end: engine_choice -->")[0])
    speed, accuracy = newest("deploy"), newest("deploy_accuracy")
    assert len(rows) == 2 + len(performance.JOBS)
    processor, engine, *times, lost = rows["get the most speed"]
    assert (processor, engine) == ("`avx512_vnni` or `amx_int8`", "`openvino int8`")
    assert times == [f"{speed[batch]['openvino int8']['times_timm']:.1f}" for batch in ("batch 1", "batch 32")]
    assert lost == f"{accuracy['engines']['openvino int8']['points_lost']:.2f}"


def test_an_engine_that_was_not_measured_has_no_speed(performance: ModuleType, results: Path) -> None:
    (results / "deploy.json").write_text(json.dumps(DEPLOY))
    (results / "deploy_accuracy.json").write_text(json.dumps({"engines": {}}))
    text = performance.engine_choice()
    rows = rows_of(text)
    assert rows["start at once, install nothing"] == ["any", "`torch fp32`", "1.5", "3.6", ""]
    assert rows["get the most speed without calibration images"][2:] == ["8.5", "", ""]
    assert text.endswith("*A.*\n")


def test_each_file_lies_in_the_folder_of_its_processor() -> None:
    for file in (ROOT / "benchmarks/results").rglob("*.json"):
        cpu = json.loads(file.read_text())["machine"]["cpu"]
        assert file == ROOT / "benchmarks/results" / report.folder(cpu) / file.name


def test_a_folder_has_the_short_name_of_its_processor() -> None:
    assert report.folder("Intel(R) Xeon(R) Processor @ 2.60GHz") == "intel-xeon-processor-2-60ghz"
    assert report.folder(INTEL) == "intel-xeon"
    assert report.folder("x86_64") == "x86-64"


def test_two_processors_keep_their_results_and_the_newest_are_shown(
    performance: ModuleType, write: Callable[..., None]
) -> None:
    write(INTEL, 3, "create_model", {"timm": {"median_ms": 30}, "mnv2zoo": {"median_ms": 10}, "ratio": 0.333})
    write(AMD, 2, "create_model", {"timm": {"median_ms": 40}, "mnv2zoo": {"median_ms": 20}, "ratio": 0.5})
    places = [str(file.relative_to(report.RESULTS)) for file in sorted(report.RESULTS.rglob("*.json"))]
    assert places == ["amd-epyc/create_model.json", "intel-xeon/create_model.json"]
    text = performance.performance("create_model")
    assert "| timm | 30 |" in text
    assert text.endswith("*Intel Xeon.*\n")
    assert set(rows_of(performance.processors())) == {"processor", "---", "AMD EPYC", "Intel Xeon"}
    write(AMD, 4, "create_model", {"timm": {"median_ms": 50}, "mnv2zoo": {"median_ms": 20}, "ratio": 0.4})
    assert performance.performance("create_model").endswith("*AMD EPYC.*\n")


def test_of_results_of_one_day_the_first_processor_is_shown(
    performance: ModuleType, write: Callable[..., None]
) -> None:
    for cpu in (INTEL, AMD):
        write(cpu, 3, "import_time", {"timm": {"median_ms": 30}, "more": {"median_ms": 10}})
    assert performance.performance("import_time").endswith("*AMD EPYC.*\n")


def test_speedups_of_each_processor_come_from_its_own_results(
    performance: ModuleType, write: Callable[..., None]
) -> None:
    write(INTEL, 3, "deploy", {**DEPLOY, "machine": {**MACHINE, "cpu": INTEL}})
    write(AMD, 2, "deploy", {"batch 1": {"timm, channels last": row(9, None), "onnxruntime fp32": row(4.26, None)}})
    write(AMD, 2, "create_model", {"ratio": 0.4})
    write(AMD, 2, "folder", {"no option, first": {"times_timm": 3.04}})
    write(AMD, 2, "folder_large", {"no option": {"times_timm": 3.94}})
    cases = {case: {"mnv2zoo": {"times_timm": 1.4}} for case in ("all layers, batch 32", "Bottleneck_12, batch 32")}
    write(INTEL, 2, "finetune_step", {"cases": cases})
    medians = {"timm": 3000, "mnv2zoo predict, first": 750, "mnv2zoo predict": 500}
    write(AMD, 2, "first_prediction", {name: {"median_ms": ms} for name, ms in medians.items()})
    write(
        INTEL,
        2,
        "detection_folder",
        {"results": {"no option, first": {"times_torchvision": 1.5}, "no option": {"times_torchvision": 2.5}}},
    )
    write(INTEL, 2, "large_photos", {"times_timm": {"first epoch with the check": 3, "later epochs": 24}})
    assert rows_of(performance.speedups()) == {
        "speedup over timm": ["AMD EPYC", "Intel Xeon"],
        "---": ["--:", "--:"],
        "one image, fastest `fp32` engine": ["4.3", "1.5"],
        "one image, fastest `bf16` engine": ["", "8.5"],
        "one image, fastest `int8` engine": ["", ""],
        "batch of 32, fastest `fp32` engine": ["", "3.6"],
        "batch of 32, fastest `bf16` engine": ["", ""],
        "batch of 32, fastest `int8` engine": ["", ""],
        "classify 1,000 images from a folder, first run": ["3.0", ""],
        "classify 1,000 images from a folder, later runs": ["", ""],
        "the same with 12-megapixel photos, first run": ["", ""],
        "the same with 12-megapixel photos, later runs": ["3.9", ""],
        "first prediction, first process": ["4.0", ""],
        "first prediction, later processes": ["6.0", ""],
        "load verified weights": ["2.5", ""],
        "SSDLite, over torchvision, on PyTorch": ["", "1.5"],
        "SSDLite, over torchvision, exported": ["", "2.5"],
        "fine-tune all layers, batch of 32": ["", "1.4"],
        "fine-tune from `Bottleneck_12": ["", "1.4"],
        "read 12-megapixel photos, first epoch": ["", "3.0"],
        "read 12-megapixel photos, later epochs": ["", "24.0"],
    }


def test_the_picked_engines_are_shown_for_the_most_threads(performance: ModuleType, results: Path) -> None:
    def measured(threads: int, batch: int, times: float, **more: Any) -> dict[str, Any]:
        ms = {"onnxruntime": 5.0 * batch, "openvino": 4.0 * batch}
        row = {"model": "mnv2zoo_100", "threads": threads, "batch": batch, "picked": "openvino", "ms": ms}
        return {**row, "times_fastest": times, **more}

    one = {"ms_after_pytorch": {"onnxruntime": 9.0, "openvino": 4.8}}
    rows = [measured(1, 1, 1.0, **one), measured(2, 1, 1.04, **one), measured(2, 32, 1.0)]
    (results / "engines.json").write_text(json.dumps({"machine": MACHINE, "worst": 1.04, "rows": rows}))
    text = performance.performance("engines")
    assert "| `mnv2zoo_100` | `openvino` | 4.0 | `openvino` | 4.0 | 4.8 |" in text
    assert text.count("`mnv2zoo_100`") == 1
    assert "at most 4 % longer" in text


def test_growth_is_the_worst_of_all_sizes(performance: ModuleType, results: Path) -> None:
    sizes = {
        "1000": {"us_per_unit": 18.0, "mb": 715},
        "10000": {"us_per_unit": 27.0, "mb": 719, "growth": 1.5},
        "100000": {"us_per_unit": 20.0, "mb": 1719, "growth": 1.11},
    }
    measured = {"machine": MACHINE, "results": {"resume": {"unit": "images", "sizes": sizes}}}
    (results / "scale.json").write_text(json.dumps(measured))
    row = "| 1,000 to 100,000 images | 18.0 | 20.0 | 1.50 | 715 | 1,719 |"
    assert row in performance.performance("scale")


def test_drawings_show_each_bar_and_describe_it(performance: ModuleType, results: Path) -> None:
    (results / "deploy.json").write_text(json.dumps(DEPLOY))
    drawings = dict(performance.all_drawings())
    assert set(drawings) == {"performance-batch-1.svg", "performance-batch-32.svg"}
    for name in drawings:
        assert f'--8<-- "drawings/{name}"' in performance.performance("deploy")
    root = ElementTree.fromstring(drawings["performance-batch-1.svg"])
    assert [path.get("class") for path in root.iter("path")].count("box strided") == 3
    description = root.findtext("desc", "")
    assert "openvino bf16: 8.5" in description
    assert "goal" not in description


def test_the_accuracy_of_each_engine_is_shown(performance: ModuleType, results: Path) -> None:
    rows = {
        "original": {"top1": 75.0, "points_lost": 0.0, "agreement": 100.0, "goal": None},
        "openvino bf16": {"top1": 74.9, "points_lost": 0.1, "agreement": 99.0, "goal": 0.3},
    }
    measured = {"machine": MACHINE, "photos": 200, "calibration": 300, "engines": rows}
    (results / "deploy_accuracy.json").write_text(json.dumps(measured))
    text = performance.performance("deploy_accuracy")
    assert "| `openvino bf16` | 74.90 | 0.10 | 99.00 |" in text
    assert "| PyTorch | 75.00 | 0.00 | 100.00 |" in text


def test_without_options_the_first_process_and_later_ones_have_rows(performance: ModuleType, results: Path) -> None:
    def row(first: float, median: float, times: float) -> dict[str, Any]:
        return {"first_s": first, "median_s": median, "times_timm": times}

    rows = {"timm": row(30.5, 30.0, 1.0), "torch fp32": row(12.5, 12.0, 2.5)}
    rows |= {"no option, first": row(9.9, 8.0, 3.75), "no option": row(9.8, 4.0, 7.5)}
    (results / "folder.json").write_text(json.dumps({"machine": MACHINE, "images": 1000, "goals": {}, **rows}))
    found = rows_of(performance.performance("folder"))
    assert found["1,000 images"] == ["first run, s", "later runs, s", "speedup over timm"]
    assert found["timm"] == ["30.5", "30.0", "1.0"]
    assert found["torch fp32"] == ["12.5", "12.0", "2.5"]
    assert found["mnv2zoo predict`, first process"] == ["8.0", "", "3.75"]
    assert found["mnv2zoo predict`, later processes"] == ["", "4.0", "7.5"]


def test_steps_of_fine_tuning_name_the_programs_and_what_they_train(performance: ModuleType, results: Path) -> None:
    ours = {"images_per_second": 40.0, "times_timm": 2.5, "peak_mb": 900}
    cases = {
        "all layers, batch 32": {"timm": {"images_per_second": 20.0, "times_timm": 1.0, "peak_mb": 1000}},
        "Bottleneck_12, batch 32": {"mnv2zoo": ours, "mnv2zoo --compile": {**ours, "times_timm": 3.0}},
    }
    measured = {"machine": MACHINE, "threads": 2, "side": 224, "cases": cases}
    (results / "finetune_step.json").write_text(json.dumps(measured))
    text = performance.performance("finetune_step")
    assert "| all layers, batch 32 | timm's `train.py` | 20.0 | 1.0 | 1000 |" in text
    assert "| `--train Bottleneck_12`, batch 32 | `mnv2zoo finetune` | 40.0 | 2.5 | 900 |" in text
    assert "| `--train Bottleneck_12`, batch 32 | `mnv2zoo finetune --compile` | 40.0 | 3.0 | 900 |" in text

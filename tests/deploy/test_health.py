"""What the checks say of Python, the packages, the processor and the engines."""

import platform
import sys

import onnxruntime
import pytest
import torch

from mnv2zoo.deploy import health
from mnv2zoo.deploy.engines import ENGINES
from tests.conftest import ROOT


def test_all_is_well_here():
    found = {finding.check: finding for finding in health.findings()}
    assert found.keys() >= {"Python", "packages", "processor", *(f"engine {name}" for name in ENGINES)}
    assert [one for one in found.values() if one.status == "broken"] == []
    assert found["Python"].found.startswith(platform.python_version())
    assert f"torch {torch.__version__.partition('+')[0]}" in found["packages"].found
    assert found["engine onnxruntime"].found.startswith(onnxruntime.__version__)
    for precision in ENGINES["openvino"].precisions:
        assert f"{precision} {health.speed(precision, health.instructions())}" in found["engine openvino"].found


def test_a_package_that_is_too_old_is_broken(monkeypatch, tmp_path):
    installed = tmp_path / "timm-1.0.0.dist-info/METADATA"
    installed.parent.mkdir()
    installed.write_text("Metadata-Version: 2.1\nName: timm\nVersion: 1.0.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    finding = health.packages()
    assert finding.status == "broken"
    assert finding.found.startswith("timm 1.0.0, needs >=1.0.")
    assert "torch" not in finding.found


@pytest.mark.parametrize(
    ("flags", "precision", "expected"),
    [
        ("avx2 avx512_vnni", "int8", "fast (avx512_vnni)"),
        ("avx2 avx512_vnni", "bf16", "slow (no instructions for it)"),
        ("avx512_vnni amx_bf16 amx_int8", "bf16", "fast (amx_bf16)"),
        ("avx512_vnni amx_bf16 amx_int8", "int8", "fast (amx_int8)"),
        ("", "int8", "unknown"),
    ],
)
def test_a_precision_is_as_fast_as_its_instructions(flags, precision, expected):
    assert health.speed(precision, flags.split()) == expected


def test_fp32_is_as_fast_as_pytorch_says():
    capability = torch.backends.cpu.get_cpu_capability()
    assert health.speed("fp32", []) == ("slow" if capability == "DEFAULT" else f"fast ({capability})")


def test_an_engine_that_is_not_there_is_a_note_with_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    finding = health.engine("openvino")
    assert (finding.status, finding.found) == ("note", "the engine openvino requires openvino")
    assert "[deploy]" in finding.fix


def test_an_engine_that_cannot_be_imported_is_broken(monkeypatch, tmp_path):
    (tmp_path / "openvino.py").write_text("raise ImportError('libopenvino.so: cannot open shared object file')")
    for name in [name for name in sys.modules if name.partition(".")[0] == "openvino"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path))
    finding = health.engine("openvino")
    assert finding.status == "broken"
    assert "libopenvino.so" in finding.found
    assert "openvino" in finding.fix


def test_the_issue_form_asks_for_the_report():
    form = (ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text(encoding="utf-8")
    assert "mnv2zoo doctor --json" in form

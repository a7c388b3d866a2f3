"""Exported bundles open in the tools of their formats' makers."""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import netron
import pytest

import mnv2zoo

SCRIPTS = Path(sysconfig.get_path("scripts"))
# Convolutions of the 20-class network: of the stem, 17 bottlenecks with an expansion, the head and the classifier.
CONVOLUTIONS, DEPTHWISE = 1 + 17 * 3 + 1 + 1, 17


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    place = tmp_path_factory.mktemp("bundles")
    return {
        form: mnv2zoo.deploy.export("mnv2zoo_100_c20", place / form, form) / model
        for form, model in (("onnx", "model.onnx"), ("openvino", "model.xml"))
    }


def told(*command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


@pytest.mark.ecosystem("openvino", "`benchmark_app` runs OpenVINO and ONNX bundles")
@pytest.mark.parametrize("form", ["openvino", "onnx"])
def test_benchmark_app_runs_the_bundle(bundles, form):
    side = json.loads((bundles[form].parent / "preprocess.json").read_text())["input_size"][-1]
    shape = f"images[1,3,{side},{side}]"
    said = told(SCRIPTS / "benchmark_app", "-m", bundles[form], "-niter", 8, "-api", "sync", "-shape", shape)
    assert re.search(r"Count:\s+8 iterations", said)
    assert re.search(rf"images.*\[1,3,{side},{side}\]", said)
    assert float(re.search(r"Throughput:\s+([\d.]+) FPS", said)[1]) > 0


@pytest.mark.ecosystem("onnxruntime", "`onnxruntime_test` runs ONNX bundles")
def test_the_tool_of_onnxruntime_runs_the_bundle(bundles):
    said = told(sys.executable, "-m", "onnxruntime.tools.onnxruntime_test", bundles["onnx"], 4)
    assert "iterations: 4" in said
    assert float(re.search(r"avg latency: ([\d.]+) ms", said)[1]) > 0


@pytest.mark.ecosystem("netron", "its parsers read the graphs of ONNX and OpenVINO bundles, with every convolution")
@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_netron_reads_the_graph(bundles, form, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed, and the parsers of Netron are JavaScript")
    source = shutil.copytree(Path(netron.__file__).parent, tmp_path / "netron")
    (source / "package.json").write_text('{"type": "module"}')
    graph = json.loads(told(node, Path(__file__).with_name("netron.mjs"), source, bundles[form]))
    count = graph["count"]
    assert graph["inputs"] == ["images"]
    if form == "onnx":
        assert (graph["format"][:4], count["Conv"]) == ("ONNX", CONVOLUTIONS)
    else:
        assert graph["format"] == "OpenVINO IR"
        assert (count["Convolution"], count["GroupConvolution"]) == (CONVOLUTIONS - DEPTHWISE, DEPTHWISE)

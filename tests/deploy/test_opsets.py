"""ONNX files in the opset that you ask for compute the same, and run on the runtime that it is for."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from mnv2zoo import deploy
from mnv2zoo.deploy import engines, opsets
from mnv2zoo.deploy.contents import Logits
from mnv2zoo.errors import DeployError
from tests.conftest import SAMPLES, needs_samples
from tests.deploy.conftest import expected, network, segmenter

# By https://github.com/onnx/onnx/blob/main/docs/Versioning.md
IR_VERSIONS = {14: 7, 15: 8, 17: 8, 18: 8, 19: 9, 21: 10}


def old_enough():
    """A Python 3.10, the newest that ONNX Runtime 1.14 has wheels for; None where there is none."""
    places = [shutil.which("python3.10"), *Path.home().glob(".pyenv/versions/3.10*/bin/python")]
    for place in filter(None, places):  # pyenv puts a python3.10 on the path that may start none
        if not subprocess.run([place, "-c", "import venv"], capture_output=True).returncode:
            return place
    return None


@pytest.fixture(scope="module")
def small():
    return network("mnv2zoo_050_c20", num_classes=3)


@pytest.fixture(scope="module")
def exported(small):
    return engines.to_onnx(deploy.fold(small), torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(("opset", "ir_version"), IR_VERSIONS.items())
def test_a_file_in_another_opset_computes_the_same(small, exported, x, opset, ir_version):
    document = opsets.convert(onnx.load_from_string(exported), opset)
    onnx.checker.check_model(document, full_check=True)
    assert (opsets.version(document), document.ir_version) == (opset, ir_version)
    (found,) = onnxruntime.InferenceSession(document.SerializeToString()).run(None, {"images": x.numpy()})
    np.testing.assert_allclose(found, expected(small, x), rtol=1e-3, atol=1e-4)


def test_without_an_opset_the_file_stays_as_it_is(exported):
    assert opsets.convert(onnx.load_from_string(exported), None).SerializeToString() == exported


@pytest.mark.parametrize("opset", [0, 13, 99])
def test_an_opset_that_there_is_no_converter_to_is_refused_before_anything_is_written(small, opset, tmp_path):
    with pytest.raises(DeployError) as error:
        deploy.export(small, tmp_path / "bundle", opset=opset)
    assert (error.value.where, error.value.found) == ("opset", opset)
    assert error.value.expected == f"14 to {onnx.defs.onnx_opset_version()}"
    assert not list(tmp_path.iterdir())


def test_an_operator_that_an_opset_lacks_is_an_error():
    model = deploy.fold(Logits(segmenter("lraspp")))
    document = onnx.load_from_string(engines.to_onnx(model, torch.zeros(1, 3, 64, 64)))
    with pytest.raises(DeployError) as error:
        opsets.convert(document, 14)
    assert (error.value.problem, error.value.where) == ("the model cannot be converted to opset 14", "opset")


@pytest.fixture(scope="session")
def old_python(made_once):
    """A Python with ONNX Runtime 1.14, in an environment of its own."""
    python = old_enough()
    if python is None:
        pytest.skip("no Python 3.10, for which ONNX Runtime 1.14 has a wheel")

    def make(folder):
        subprocess.run([python, "-m", "venv", folder / "venv"], check=True)
        pip = [folder / "venv/bin/python", "-m", "pip", "install", "-q", "onnxruntime==1.14.*", "numpy<2", "pillow"]
        done = subprocess.run(pip, capture_output=True, text=True, timeout=400)
        if done.returncode:
            (folder / "error").write_text(done.stderr.strip().splitlines()[-1])

    folder = made_once("onnxruntime-1.14", make)
    if (folder / "error").exists():
        pytest.skip(f"pip cannot install ONNX Runtime 1.14: {(folder / 'error').read_text()}")
    return folder / "venv/bin/python"


@pytest.mark.slow
@needs_samples
def test_opset_17_runs_on_onnx_runtime_1_14(old_python, tmp_path):
    bundle = deploy.export("mnv2zoo_100_c20", tmp_path / "bundle", opset=17)
    photos = sorted(SAMPLES.glob("*.jpg"))[::10]
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["opset"], manifest["ir_version"]) == (17, 8)

    def rows(python):
        command = [python, bundle / "predict.py", *photos, "--topk", "20", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
        assert done.returncode == 0, done.stderr
        return [
            {one["class"]: one["score"] for one in json.loads(line)["predictions"]} for line in done.stdout.splitlines()
        ]

    # Both by the same reader of images: releases of Pillow decode JPEG in nearly the same way.
    for old, new in zip(rows(old_python), rows(sys.executable), strict=True):
        assert old == pytest.approx(new, abs=1e-3)

"""LiteRT files in each layout and precision classify photos as PyTorch does."""

import json
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch

import mnv2zoo
from mnv2zoo import deploy
from mnv2zoo.data import decode, pixels
from mnv2zoo.deploy.checks import missing
from mnv2zoo.deploy.formats import TARGETS
from mnv2zoo.errors import DeployError
from tests.conftest import SAMPLES, needs_samples
from tests.deploy.conftest import network

needs_litert = pytest.mark.skipif(bool(missing(TARGETS["litert"].needs)), reason="needs the extra litert")
BUNDLED = "mnv2zoo_100_c20"


def prepared(photos, bundle):
    config = json.loads((bundle / "preprocess.json").read_text(encoding="utf-8"))
    return np.stack([pixels.network_input(decode.read(photo), config) for photo in photos])


@pytest.mark.slow
@needs_litert
@needs_samples
@pytest.mark.parametrize(
    ("precision", "layout", "bytes_per_weight", "near"),
    [("fp32", "nhwc", 4, 1e-4), ("fp16", "nchw", 2, 1e-2), ("int8", "nhwc", 1, 0.4)],
)
def test_a_file_computes_what_pytorch_computes(precision, layout, bytes_per_weight, near, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    calibration = SAMPLES if precision == "int8" else None
    bundle = deploy.export(
        BUNDLED, tmp_path / "bundle", "litert", precision=precision, layout=layout, calibration=calibration
    )
    photos = sorted(SAMPLES.glob("*.jpg"))[::10]
    images = prepared(photos, bundle)
    model = timm.create_model(BUNDLED, pretrained=True).eval()
    with torch.inference_mode():
        wanted = model(torch.from_numpy(images)).numpy()

    interpreter = Interpreter(str(bundle / "model.tflite"))
    infer = interpreter.get_signature_runner()
    ((given, details),), ((taken, outputs),) = infer.get_input_details().items(), infer.get_output_details().items()
    assert tuple(details["shape"]) == ((1, 64, 64, 3) if layout == "nhwc" else (1, 3, 64, 64))
    assert details["dtype"] == outputs["dtype"] == np.float32
    rows = images.transpose(0, 2, 3, 1) if layout == "nhwc" else images
    found = np.concatenate([infer(**{given: row[None]})[taken] for row in rows])
    assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < near
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert (bundle / "model.tflite").stat().st_size < 1.3 * weights * bytes_per_weight

    command = [sys.executable, bundle / "predict.py", *photos, "--topk", "20", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    temperature = mnv2zoo.weights.entry(BUNDLED).temperature
    scores = torch.from_numpy(found / temperature).softmax(1).numpy()
    for line, own in zip(done.stdout.splitlines(), scores, strict=True):
        for one in json.loads(line)["predictions"]:
            assert one["score"] == pytest.approx(own[one["class"]], abs=1e-4)
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["precision"], manifest["layout"]) == (precision, layout)


@pytest.mark.parametrize(
    ("format", "options", "where", "fix"),
    [
        ("onnx", {"layout": "nhwc"}, "layout", "Formats that support nhwc: litert."),
        ("litert", {"layout": "hwc"}, "layout", None),
        ("litert", {"precision": "bf16"}, "precision", "Formats that support bf16: openvino."),
    ],
)
def test_what_the_runtime_has_not_is_refused_before_anything_is_written(format, options, where, fix, tmp_path):
    with pytest.raises(DeployError) as error:
        deploy.export(network("mnv2zoo_050_c20", num_classes=3), tmp_path / "bundle", format, **options)
    assert error.value.where in (where, None)
    assert fix is None or error.value.fix == fix
    assert not list(tmp_path.iterdir())

"""Runtimes without PyTorch: what they leave of the thread that calls them, and where they differ too much."""

import subprocess
import sys

import pytest

from mnv2zoo.errors import DeployError
from mnv2zoo.runtimes import runners

SIGNALS = """
import ctypes, faulthandler, gc, signal
import numpy as np, openvino
from openvino import opset13 as ops
from mnv2zoo.runtimes import runners


class Stack(ctypes.Structure):
    _fields_ = (("memory", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def stack():
    found = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
    return found.memory, found.flags, found.size


def model(folder):
    images = ops.parameter([-1, 3, 8, 8], np.float32, name="images")
    weight = ops.constant(np.ones((4, 3, 3, 3), np.float32))
    outputs = ops.relu(ops.convolution(images, weight, [1, 1], [0, 0], [0, 0], [1, 1]))
    openvino.save_model(openvino.Model([outputs], [images]), f"{folder}/model.xml", compress_to_fp16=False)
    parts = {name: open(f"{folder}/model.{end}", "rb").read() for name, end in (("model", "xml"), ("weights", "bin"))}
    return runners.openvino(parts, (3, 8, 8), "fp32", 1)


import sys
if "faulthandler" in sys.argv:
    faulthandler.enable()
before = stack()
models = [model(sys.argv[1]) for _ in range(3)]
for run in models:
    for count in (1, 3):
        assert run(np.ones((count, 3, 8, 8), np.float32))[0].max() == 27
for _ in range(3):  # the first first, so that each is destroyed while a later one lives
    del run, models[0]
    gc.collect()
    run = None
received = []
signal.signal(signal.SIGUSR1, lambda number, frame: received.append(number))
signal.raise_signal(signal.SIGUSR1)
assert received == [signal.SIGUSR1]
assert stack() == before, (stack(), before)
print("alive")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="OpenVINO sets an alternate signal stack on Linux alone")
@pytest.mark.parametrize("faulthandler", ["faulthandler", "none"])
def test_a_process_survives_signals_after_openvino_models_are_destroyed_out_of_order(tmp_path, faulthandler):
    pytest.importorskip("openvino")
    command = [sys.executable, "-c", SIGNALS, str(tmp_path), faulthandler]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["alive"]), done.stderr[-2000:]


@pytest.mark.parametrize(("precision", "near", "far"), [("fp32", 9e-4, 2e-3), ("bf16", 0.09, 0.2), ("int8", 0.3, 0.5)])
def test_outputs_may_differ_as_far_as_the_precision_explains(precision, near, far):
    runners.require_near("onnxruntime", precision, near)
    for error in (far, float("nan")):
        with pytest.raises(DeployError) as failure:
            runners.require_near("onnxruntime", precision, error)
        assert failure.value.found == f"{error:.2%}"


@pytest.mark.parametrize(("setting", "threads"), [("3", 3), ("2,4", 2), (" 5 ", 5)])
def test_omp_num_threads_decides_how_many_threads_compute(monkeypatch, setting, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert runners.cores() == threads


@pytest.mark.parametrize("setting", ["", "0", "many"])
def test_without_a_usable_setting_all_cores_compute(monkeypatch, setting):
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    monkeypatch.setattr("mnv2zoo.system.posix.cores", lambda: 7)
    assert runners.cores() == 7

"""Engines compute batches of any size, on any threads, in any process."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from mnv2zoo import deploy
from mnv2zoo.deploy import engines
from mnv2zoo.deploy.calibration import prepare
from mnv2zoo.deploy.depthwise import DepthwiseSum
from mnv2zoo.deploy.engines import ENGINES
from tests.conftest import ROOT, needs_cuda
from tests.deploy.conftest import expected

SLOW = [name for name, engine in ENGINES.items() if engine.slow_to_compile]


def test_torch_computes_large_batches_in_parts_and_in_order(small):
    images = torch.randn(11, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    fast = deploy.optimize(small, images[:1], "torch", threads=1)
    torch.testing.assert_close(fast(images), expected(small, images), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_images_spread_over_threads_come_back_in_order(small, engine, threads):
    images = torch.randn(9, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    fast = deploy.optimize(small, images[:1], engine, threads=threads)
    for number in (1, 3, 9):
        torch.testing.assert_close(fast(images[:number]), expected(small, images[:number]), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_openvino_ends_right_after_it_answered(small, x):
    # In a process of its own, which can be ended where it hangs; other threads there make Python's lock hard to get.
    code = """if True:
        import sys
        import threading
        import numpy
        from mnv2zoo.runtimes import runners

        def work():
            while True:
                pass

        for _ in range(2):
            threading.Thread(target=work, daemon=True).start()
        parts = {"model": sys.stdin.buffer.read()}
        for _ in range(80):
            run = runners.openvino(parts, (3, 64, 64), "fp32", 1)
            run(numpy.zeros((2, 3, 64, 64), "float32"))
            del run
    """
    subprocess.run([sys.executable, "-c", code], input=engines.to_onnx(small, x), check=True, timeout=300)


@pytest.mark.slow
def test_int8_of_openvino_covers_every_convolution(small, x):
    import openvino

    folded = deploy.fold(small)
    parts = ENGINES["openvino"].prepare(engines.Source(folded, x[:1], prepare(x, small, x)), "int8")
    found = openvino.Core().read_model(parts["model"], parts["weights"]).get_ops()
    weights = [op for op in found if op.get_type_name() == "Constant" and op.get_element_type() == openvino.Type.i8]
    assert len(weights) == sum(isinstance(module, nn.Conv2d | nn.Linear) for module in folded.modules())


@pytest.mark.slow
@pytest.mark.parametrize("engine", SLOW)
def test_compiled_code_agrees_whatever_the_batch_and_is_compiled_once(small, engine, x):
    counters.clear()
    fast = deploy.optimize(small, x[:2], engine)
    five = torch.cat([x, x[:2]])
    for number in (2, 1, 3, 5):
        torch.testing.assert_close(fast(five[:number]), expected(small, five[:number]), rtol=1e-3, atol=1e-3)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_reports_a_device_that_its_parent_has_used():
    code = """if True:
        import os, sys, torch
        from mnv2zoo.deploy import engines
        from mnv2zoo.errors import DeployError

        def fail():
            with engines.usable(torch.device("cuda", 0)):
                raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")

        try:
            fail()
        except RuntimeError as error:
            assert type(error) is RuntimeError  # here it has another reason
        if not os.fork():
            try:
                fail()
            except DeployError as error:
                assert error.found == "Cannot re-initialize CUDA in forked subprocess"
                assert error.problem == "a forked process cannot use cuda:0, because its parent has used it"
                os._exit(0)
            os._exit(1)
        sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
    """
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100, cwd=ROOT)


def test_threads_are_set_for_the_run_alone(small, x):
    before = torch.get_num_threads()
    fast = deploy.optimize(small, x, "torch", threads=before + 1)
    fast(x)
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_what_inductor_compiles_for_a_device_agrees_whatever_the_batch(small, x):
    counters.clear()
    source = engines.Source(deploy.fold(small), x[:2])
    plan = engines.Plan(source.own("fp32"), {}, (2, 3, 64, 64), "fp32", 1, torch.device("cpu"))
    run = engines._inductor_on_device(plan)  # the CPU is a device without graphs
    five = torch.cat([x, x[:2]])
    for number in (2, 1, 3, 5):
        torch.testing.assert_close(run(five[:number])[0], expected(small, five[:number]), rtol=1e-3, atol=1e-3)
    assert counters["stats"]["unique_graphs"] == 1
    assert not any(isinstance(module, DepthwiseSum) for module in plan.network.modules())  # the plan's own is unchanged


@pytest.mark.slow
@pytest.mark.slow
def test_the_tenth_network_is_compiled_too(monkeypatch):
    monkeypatch.setattr(engines, "TUNED", {})
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6()).eval()
    counters.clear()
    for number in range(1, 11):
        images = torch.randn(number, 3, 8, 8)
        source = engines.Source(network, images)
        plan = engines.Plan(source.own("fp32"), {}, tuple(images.shape), "fp32", 1, torch.device("cpu"))
        torch.testing.assert_close(engines._inductor_on_device(plan)(images)[0], network(images))
    assert counters["stats"]["unique_graphs"] == 10


@needs_cuda
def test_inductor_on_a_gpu_agrees_in_every_thread(small, x):
    fast = deploy.optimize(small, x[:2], "inductor", "fp16", device="cuda")
    batches = [torch.randn(1 + number % 3, 3, 64, 64) for number in range(30)]
    with ThreadPoolExecutor(4) as pool:
        for found, batch in zip(pool.map(fast, batches), batches, strict=True):
            wanted = expected(small, batch)
            assert (found.cpu() - wanted).norm() < 0.05 * wanted.norm()


FORK = """
import os, pickle, sys, time
import numpy as np, timm, torch
import mnv2zoo
from tests.conftest import random_state_dict

engine, ending = sys.argv[1:]
model = timm.create_model("mnv2zoo_035", num_classes=5).eval()
model.load_state_dict(random_state_dict("mnv2zoo_035", num_classes=5))
images = torch.rand(8, 3, 128, 128, generator=torch.Generator().manual_seed(0))
fast = mnv2zoo.deploy.optimize(model, images, engine, threads=2)
unused = pickle.loads(pickle.dumps(fast))  # the child ends without a call of this one
wanted = fast(images), fast(images[:1]), fast(torch.cat([images, images]))
unused(images)


def same():
    found = fast(images), fast(images[:1]), fast(torch.cat([images, images]))
    for ours, theirs in zip(found, wanted):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-3, atol=1e-3)


def wait(child):
    started = time.monotonic()
    while time.monotonic() - started < 60:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0, status
            return
        time.sleep(0.05)
    os.kill(child, 9)
    sys.exit("it hangs")


child = os.fork()
if not child:
    same()
    grandchild = os.fork()
    if not grandchild:
        same()
        os._exit(0)
    wait(grandchild)
    same()
    sys.exit(0) if ending == "exit" else os._exit(0)
wait(child)
same()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("engine", "ending"), [("torch", ""), ("onnxruntime", "exit"), ("openvino", "exit")])
def test_a_forked_process_runs_what_its_parent_optimized(engine, ending):
    env = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", FORK, engine, ending]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr

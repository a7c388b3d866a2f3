"""Optimized networks compute what the originals compute, on every engine."""

import itertools
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform, resolve_data_config
from torch import nn
from torchvision.transforms.functional import to_pil_image, to_tensor

import mnv2zoo
from mnv2zoo import deploy
from mnv2zoo.data import decode
from mnv2zoo.deploy import agreement, detectors
from mnv2zoo.deploy.calibration import prepare
from mnv2zoo.deploy.engines import ENGINES
from mnv2zoo.errors import DeployError, DeviceError, MissingExtraError
from tests.conftest import GOOGLE, ROOT, SAMPLES, needs_cuda, needs_google, save_photos
from tests.deploy.conftest import DETECTORS, detector, detector_images, expected, network, segmenter

NAMES = list(mnv2zoo.architecture.CONFIGS)
SLOW = [name for name, engine in ENGINES.items() if engine.slow_to_compile]
optimization = import_module("mnv2zoo.deploy.optimize")  # the module, which `deploy.optimize` the function hides
QUICK = [name for name, engine in ENGINES.items() if not engine.slow_to_compile]


@pytest.mark.slow
@pytest.mark.parametrize("engine", QUICK)
@pytest.mark.parametrize("name", ["mnv2zoo_035", "mnv2zoo_050_c20"])
def test_every_engine_agrees_whatever_the_batch(name, engine, x):
    model = network(name)
    fast = deploy.optimize(model, x[:1], engine)
    assert (fast.engine, fast.precision) == (engine, "fp32")
    assert fast.max_abs_error < 1e-3
    wanted = expected(model, x)
    torch.testing.assert_close(fast(x), wanted, rtol=1e-3, atol=1e-3)
    for number in range(3):
        torch.testing.assert_close(fast(x[number : number + 1]), wanted[number : number + 1], rtol=1e-3, atol=1e-3)
    assert fast(x[:0]).shape == wanted[:0].shape


@pytest.mark.slow
@pytest.mark.parametrize("engine", QUICK)
def test_many_threads_may_ask_at_once(small, engine):
    optimized = deploy.optimize(small, torch.randn(2, 3, 32, 32), engine)
    batches = [torch.randn(1 + number % 3, 3, 32, 32) for number in range(60)]
    with ThreadPoolExecutor(8) as pool:
        for found, batch in zip(pool.map(optimized, batches), batches, strict=True):
            torch.testing.assert_close(found, expected(small, batch), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="only Linux tells what a process has in memory")
def test_an_engine_that_is_let_go_leaves_no_weights_in_memory(small, x):
    def memory():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    sizes = []
    for _ in range(15):
        deploy.optimize(small, x[:1], "torch")(x)
        sizes.append(memory())
    weights = sum(tensor.nbytes for tensor in small.state_dict().values())
    assert sizes[-1] - sizes[2] < 12 * weights / 2


@pytest.mark.slow
@pytest.mark.parametrize("engine", QUICK)
def test_taps_stay_an_ordered_dict(small, engine, x):
    taps = mnv2zoo.features.BottleneckTaps(small, ["C2", "Bottleneck_3"], location="expansion")
    found = deploy.optimize(taps, x, engine)(x)
    assert list(found) == ["C2", "Bottleneck_3"]
    for name, value in expected(taps, x).items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("engine", [name for name in QUICK if "bf16" in ENGINES[name].precisions])
def test_bf16_is_near(engine, x):
    model = network("mnv2zoo_050_c20")
    fast = deploy.optimize(model, x, engine, "bf16")
    wanted = expected(model, x)
    assert fast.max_abs_error > 0
    assert (fast(x) - wanted).norm() < 0.1 * wanted.norm()
    assert fast(x).dtype == torch.float32


INT8 = [name for name, engine in ENGINES.items() if "int8" in engine.precisions]


@pytest.mark.slow
@needs_google
@pytest.mark.parametrize("engine", INT8)
def test_int8_keeps_the_classes_of_real_photos(engine):
    model = google()
    example = torch.zeros(1, 3, 224, 224)
    fast = deploy.optimize(model, example_photos(1), engine, "int8", calibration=SAMPLES)
    assert fast.precision == "int8"
    assert fast.agreement >= 80
    assert fast.accuracy is None
    assert fast(example.repeat(2, 1, 1, 1)).shape == (2, 1000)


@pytest.mark.slow
@pytest.mark.parametrize("engine", INT8)
def test_int8_reports_accuracy_where_classes_are_known(engine, tmp_path):
    model = network("mnv2zoo_050_c20", num_classes=2)
    model.pretrained_cfg |= {"label_names": ["odd", "even"]}
    pictures = torch.rand(12, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for number, image in enumerate(pictures):
        folder = tmp_path / ("even", "odd")[number % 2]
        folder.mkdir(exist_ok=True)
        to_pil_image(image).save(folder / f"{number}.png")
    fast = deploy.optimize(model, pictures[:1], engine, "int8", calibration=tmp_path)
    before, after = fast.accuracy
    images = prepare(tmp_path, model, pictures[:1]).images
    truth = torch.tensor([1] * 6 + [0] * 6)  # even, class 1, comes first
    assert before == pytest.approx(100 * (expected(model, images).argmax(1) == truth).float().mean().item())
    assert after == pytest.approx(100 * (fast(images).argmax(1) == truth).float().mean().item())


@pytest.mark.slow
def test_auto_keeps_the_fastest_and_says_why(small, x):
    fast = deploy.optimize(small, x)
    tried = {attempt.engine: attempt for attempt in fast.tried}
    assert list(tried) == list(ENGINES)
    timed = {name: attempt.milliseconds for name, attempt in tried.items() if attempt.milliseconds is not None}
    assert set(timed) == set(QUICK)
    assert timed[fast.engine] <= optimization.AS_FAST * min(timed.values())
    assert tried[fast.engine].verdict == "chosen"
    for name in timed.keys() - {fast.engine}:
        margin = 100 * (timed[name] / timed[fast.engine] - 1)
        assert tried[name].verdict == (f"slower by {margin:.0f} %" if margin > 0 else "as fast")
    assert "minute" in tried["inductor"].verdict
    torch.testing.assert_close(fast(x), expected(small, x), rtol=1e-3, atol=1e-3)


def test_auto_prefers_an_engine_whose_threads_leave_the_cores_to_others():
    assert optimization._preferred({"torch": 9.0, "onnxruntime": 4.0, "openvino": 4.1}) == "openvino"
    assert optimization._preferred({"torch": 9.0, "onnxruntime": 4.0, "openvino": 4.3}) == "onnxruntime"
    assert optimization._preferred({"torch": 3.9, "onnxruntime": 4.0}) == "torch"


@pytest.mark.slow
def test_auto_makes_do_with_what_is_there(small, x, monkeypatch):
    there = {
        name: engine if name == "torch" else replace(engine, needs=("mnv2zoo_no_such_package",), slow_to_compile=False)
        for name, engine in ENGINES.items()
    }
    monkeypatch.setattr(optimization, "ENGINES", there)
    fast = deploy.optimize(small, x)
    assert fast.engine == "torch"
    assert "not installed: mnv2zoo_no_such_package" in fast.tried[-1].verdict
    with pytest.raises(MissingExtraError, match=r"\[deploy\]"):
        deploy.optimize(small, x, "openvino")


def failing_after(calls):
    """The engine `torch`, which raises an error after some calls."""

    def start(plan):
        run, numbers = ENGINES["torch"].start(plan), itertools.count()

        def runner(images):
            if next(numbers) >= calls:
                raise MemoryError("no memory for the outputs")
            return run(images)

        return runner

    return replace(ENGINES["torch"], start=start)


def test_an_engine_that_fails_while_it_is_timed_is_left_out(small, x, monkeypatch):
    monkeypatch.setattr(optimization, "ENGINES", {"torch": ENGINES["torch"], "openvino": failing_after(2)})
    fast = deploy.optimize(small, x)
    assert fast.engine == "torch"
    assert [attempt.verdict for attempt in fast.tried] == ["chosen", "MemoryError: no memory for the outputs"]


def test_engines_that_all_fail_are_named(small, x, monkeypatch):
    monkeypatch.setattr(optimization, "ENGINES", {"torch": failing_after(0), "openvino": failing_after(1)})
    with pytest.raises(DeployError, match="no engine can run the model") as error:
        deploy.optimize(small, x)
    assert error.value.found == "; ".join(
        f"{name}: MemoryError: no memory for the outputs" for name in ("torch", "openvino")
    )


class Drifting(nn.Module):
    """Gives other numbers at every call, so that no engine can agree with it."""

    def forward(self, x):
        return torch.rand(len(x), 5)


class NotANumber(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) * float("nan")


class LaterNotANumber(nn.Module):
    def forward(self, x):
        return {"sound": x.mean((2, 3)), "not": x.mean((2, 3)) * float("nan")}


@pytest.mark.parametrize("model", [Drifting(), NotANumber(), LaterNotANumber()])
def test_disagreement_is_an_error(model, x):
    with pytest.raises(DeployError, match="differ from the model's"):
        deploy.optimize(model.eval(), x, "torch")


def google():
    model = timm.create_model("mnv2zoo_100", pad_type="same").eval()
    model.load_state_dict(load_file(GOOGLE))
    model.pretrained_cfg = {**model.pretrained_cfg, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    return model


def example_photos(count):
    preprocess = create_transform(**resolve_data_config(pretrained_cfg=google().pretrained_cfg))
    return torch.stack([preprocess(decode.read(path)) for path in sorted(SAMPLES.glob("*.jpg"))[:count]])


@pytest.mark.slow
@needs_google
@pytest.mark.parametrize("engine", QUICK)
def test_real_photos_get_the_same_classes(engine):
    model, photos = google(), example_photos(20)
    fast = deploy.optimize(model, photos[:1], engine)
    wanted = expected(model, photos)
    torch.testing.assert_close(fast(photos), wanted, rtol=1e-3, atol=2e-3)
    assert torch.equal(fast(photos).argmax(1), wanted.argmax(1))


@pytest.mark.parametrize(
    "wrong", [torch.randn(3, 64, 64), torch.randn(1, 3, 96, 64), torch.zeros(1, 3, 64, 64).int(), "photo"]
)
def test_other_images_than_the_example_are_refused(small, x, wrong):
    with pytest.raises(DeployError, match="with an example of that shape"):
        deploy.optimize(small, x, "torch")(wrong)


# Detectors and segmenters.

NOTHING = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "scores": torch.zeros(0)}


@pytest.mark.slow
@pytest.mark.parametrize("engine", QUICK)
@pytest.mark.parametrize("kind", DETECTORS)
def test_a_detector_finds_the_same_boxes_on_every_engine(kind, engine):
    whole, images = detector(kind), detector_images(kind, 3)
    fast = deploy.optimize(whole, images[:1], engine)
    assert (fast.engine, fast.precision, fast.agreement) == (engine, "fp32", None)
    assert 0 < fast.max_abs_error < 1e-3
    wanted = expected(whole, list(images))
    assert min(len(one["boxes"]) for one in wanted) > 5
    for given in (images, list(images)):
        found = fast(given)
        assert [set(one) for one in found] == [{"boxes", "labels", "scores"}] * 3
        assert agreement.matched(found, wanted) >= 99
    assert fast(images[:0]) == []


@pytest.mark.parametrize("kind", DETECTORS)
def test_a_detectors_boxes_are_in_pixels_of_the_given_images(kind):
    whole, example = detector(kind), detector_images(kind)
    larger = [torch.rand(3, 210, 300), example[0]]  # the second fills the size, as the batch of the original does
    assert agreement.matched(deploy.optimize(whole, example, "torch")(larger), expected(whole, larger)) == 100


def test_other_boxes_than_the_detectors_are_an_error(monkeypatch):
    whole, images = detector("ssdlite"), detector_images("ssdlite")
    monkeypatch.setattr(detectors.PostProcessing, "__call__", lambda self, outputs, sizes: [NOTHING] * len(sizes))
    with pytest.raises(DeployError) as error:
        deploy.optimize(whole, images, "torch")
    assert error.value.problem == "the boxes of the engine torch differ from the detector's"
    assert error.value.found == "0.0 %"


@pytest.mark.parametrize(
    "wrong", [torch.rand(3, 160, 160), [torch.rand(1, 3, 160, 160)], "photo", torch.zeros(1).int()]
)
def test_a_detector_refuses_what_are_no_images(wrong):
    fast = deploy.optimize(detector("ssdlite"), detector_images("ssdlite"), "torch")
    with pytest.raises(DeployError) as error:
        fast(wrong)
    assert error.value.problem == "the input of the detector is not a batch or list of images"


@pytest.mark.slow
@pytest.mark.parametrize("engine", INT8)
def test_int8_of_a_detector_reports_the_boxes_that_stay(engine):
    whole, images = detector("ssdlite"), detector_images("ssdlite", 24)
    batches = [
        (list(part), [{"labels": torch.ones(1)}] * 8) for part in images.split(8)
    ]  # as a detector's loader gives
    fast = deploy.optimize(whole, images[:1], engine, "int8", calibration=batches)
    measured = agreement.matched(fast(images), expected(whole, list(images)), iou=0.5, score=1, at_least=0.3)
    assert fast.agreement == pytest.approx(measured)
    assert 50 < fast.agreement < 100
    assert fast.max_abs_error > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("engine", INT8)
@pytest.mark.parametrize("kind", ["lraspp", "deeplabv3"])
def test_int8_of_a_segmenter_reports_the_pixels_that_stay(kind, engine):
    whole, images = segmenter(kind), torch.rand(24, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    batches = [(part, torch.zeros(8, 64, 96, dtype=torch.long)) for part in images.split(8)]  # images and masks
    fast = deploy.optimize(whole, images[:1], engine, "int8", calibration=batches)
    same = fast(images)["out"].argmax(1) == expected(whole, images)["out"].argmax(1)
    assert fast.agreement == pytest.approx(100 * same.double().mean().item())
    assert 80 < fast.agreement < 100


@pytest.mark.slow
@pytest.mark.skipif(not SAMPLES.is_dir(), reason="sample photos are absent")
@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        (detector("ssdlite"), {}),
        (segmenter("lraspp"), {"preprocessing": {"mean": [0.5] * 3, "std": [0.5] * 3}}),
    ],
)
def test_int8_of_a_detector_or_segmenter_takes_a_folder(model, arguments):
    images = prepare(SAMPLES, model, torch.rand(1, 3, 160, 160), arguments.get("preprocessing")).images
    assert images.shape == (100, 3, 160, 160)
    photo = decode.read(sorted(SAMPLES.glob("*.jpg"))[0]).resize((160, 160), Image.Resampling.BILINEAR)
    wanted = to_tensor(photo) if not arguments else to_tensor(photo) * 2 - 1
    torch.testing.assert_close(images[0], wanted, rtol=0, atol=1e-5)
    fast = deploy.optimize(model, images[:1], "openvino", "int8", calibration=SAMPLES, **arguments)
    assert fast.precision == "int8"


@pytest.mark.slow
def test_a_cached_detector_finds_the_same_boxes(tmp_path):
    whole, images = detector("ssdlite"), detector_images("ssdlite")
    first = deploy.optimize(whole, images, "onnxruntime", cache=tmp_path)(images)
    entries = list(tmp_path.rglob("*"))
    assert entries
    second = deploy.optimize(whole, images, "onnxruntime", cache=tmp_path)(images)
    assert list(tmp_path.rglob("*")) == entries
    assert agreement.matched(second, first) == 100


@pytest.mark.slow
@pytest.mark.parametrize("engine", QUICK)
def test_a_detector_works_in_another_process(engine):
    whole, images = detector("ssdlite"), detector_images("ssdlite")
    fast = deploy.optimize(whole, images, engine)
    wanted = expected(whole, list(images))
    for method in ("fork", "spawn"):  # with the engine's threads lost, and with the detector pickled
        with multiprocessing.get_context(method).Pool(1) as pool:
            found = pool.apply_async(run_detector, (fast, images.numpy())).get(timeout=120)
        assert (
            agreement.matched(
                [{name: torch.from_numpy(values) for name, values in one.items()} for one in found], wanted
            )
            == 100
        )


def run_detector(fast, images):
    """Detections as numpy arrays, which processes exchange without shared memory."""
    return [{name: values.numpy() for name, values in one.items()} for one in fast(torch.from_numpy(images))]


# Devices other than the CPU.


def test_the_cpu_is_a_device_too(small, x):
    fast = deploy.optimize(small, x, "torch", device="cpu")
    assert fast.device == torch.device("cpu")
    assert repr(fast).startswith("Optimized(torch, fp32, max_abs_error=")
    assert torch.equal(fast(x), deploy.optimize(small, x, "torch")(x))


@pytest.mark.slow
def test_a_second_device_computes_what_the_cpu_computes(tiny, tmp_path):
    photos = save_photos(tmp_path / "photos", 5)
    command = [sys.executable, "-m", "tests.fake_engines", tiny, str(photos)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split()[-1] == "prediction"


@pytest.mark.parametrize("device", ["cuda:99", "nonsense"])
def test_a_device_that_is_not_there_is_an_error(small, x, device):
    with pytest.raises(DeviceError) as error:
        deploy.optimize(small, x, "torch", device=device)
    assert error.value.problem == f"cannot use the device {device!r}"


@pytest.mark.parametrize(
    ("engine", "precision", "device", "problem", "fix"),
    [
        (
            "torch",
            "int8",
            "cuda",
            "the engine torch does not support int8 on cuda",
            "Engines that support it on other devices: onnxruntime, openvino on cpu; openvino on xpu.",
        ),
        (
            "openvino",
            "bf16",
            "xpu",
            "the engine openvino does not support bf16 on xpu",
            "Engines that support it: torch, inductor.",
        ),
        (
            "onnxruntime",
            "fp32",
            "mps",
            "the engine onnxruntime does not support the device mps",
            "Engines that support it: torch, inductor.",
        ),
        ("openvino", "fp32", "cuda", "the engine openvino does not support the device cuda", None),
    ],
)
def test_an_engine_names_those_that_can(engine, precision, device, problem, fix):
    with pytest.raises(DeployError) as error:
        optimization._check_engine(engine, precision, torch.device(device))
    assert error.value.problem == problem
    assert fix is None or error.value.fix == fix


@pytest.mark.parametrize(("engine", "device"), [("onnxruntime", "cuda"), ("openvino", "xpu")])
def test_a_runtime_without_the_device_is_left_out_and_refused(engine, device):
    pytest.importorskip(engine)
    place = torch.device(device, 0)
    if ENGINES[engine].has(place):
        pytest.skip(f"{engine} has {device} here")
    goal = optimization.Goal("fp32", 1, place, None)
    assert optimization._reason_to_skip(engine, goal) == f"does not support the device {place}"
    with pytest.raises(DeployError) as error:
        optimization._check_engine(engine, "fp32", place)
    assert error.value.where == "device"


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_gpu_computes_what_the_cpu_computes_whatever_the_batch(precision):
    model, images = network("mnv2zoo_050_c20"), torch.randn(9, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    fast = deploy.optimize(model, images[:2], "torch", precision, device="cuda")
    assert (fast.engine, fast.precision, fast.device) == ("torch", precision, torch.device("cuda", 0))
    assert next(model.parameters()).device.type == "cpu"
    wanted = expected(model, images)
    for number in (2, 1, 9, 2):
        for given in (images[:number], images[:number].cuda()):
            found = fast(given)
            assert (found.dtype, found.device) == (torch.float32, fast.device)
            assert (found.cpu() - wanted[:number]).norm() < 0.1 * wanted[:number].norm()
    assert fast(images[:0]).shape == (0, 20)
    with pytest.raises(DeployError):
        fast(images[:, :, 1:])


@needs_cuda
def test_a_model_on_the_gpu_stays_there(x):
    model = network().cuda()
    fast = deploy.optimize(model, x.cuda(), device="cuda")
    assert next(model.parameters()).device.type == "cuda"
    assert {attempt.engine: attempt.verdict for attempt in fast.tried}[
        "openvino"
    ] == "does not support the device cuda:0"
    assert (fast(x) - expected(model, x.cuda())).norm() < 0.1 * fast(x).norm()


@needs_cuda
@pytest.mark.parametrize("kind", DETECTORS)
def test_a_detector_gives_its_boxes_on_the_gpu(kind):
    whole, images = detector(kind), detector_images(kind)
    fast = deploy.optimize(whole, images, "torch", device="cuda")
    for given in (images, list(images.cuda())):
        found = fast(given)
        assert [set(one) for one in found] == [{"boxes", "labels", "scores"}] * 2
        assert found[0]["boxes"].device.type == "cuda"
        assert min(len(one["boxes"]) for one in found) > 5


@needs_cuda
def test_a_spawned_process_records_its_own_graphs(x):
    fast = deploy.optimize(network(), x, "torch", device="cuda")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply_async(run_on_gpu, (fast, x.numpy())).get(timeout=120)
    wanted = fast(x).cpu()
    assert (torch.from_numpy(found) - wanted).norm() < 0.05 * wanted.norm()  # cuDNN may pick other algorithms there


def run_on_gpu(fast, images):
    return fast(torch.from_numpy(images)).cpu().numpy()

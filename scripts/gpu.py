"""Checks and measures the package on a GPU, and writes `docs/results/gpu.json`.

    python scripts/gpu.py --photos PHOTOS

`PHOTOS` contains some JPEG files, from which the training data is built. Each section is written as soon as it is
measured, and tables by batch size row by row. Failed sections are named at the end; `--only SECTION` repeats one.
While the tests run, another process compiles what is measured later: compilation takes minutes.

All models are MobileNetV2 1.0 at 224 pixels with random weights, on which speed does not depend. Compared models take
turns, and figures are medians.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import datetime
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import create_dataset, create_loader
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import detection as torchvision_detection
from torchvision.models import segmentation as torchvision_segmentation

import mnv2zoo
from mnv2zoo import architecture, deploy, detection, segmentation
from mnv2zoo.deploy.engines import ENGINES

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs/results/gpu.json"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
BATCHES = (1, 32, 256, 1024)
COMPILED = 256  # the batch size at which `inductor` is measured
COMPILING = ("compiled", "steps")  # sections that wait for compilation
CHECKS = ("tests/test_gpu.py", *(f"tests/deploy/test_{name}.py" for name in ("graphs", "engines", "optimize")))
SIDE, CLASSES = 224, 10
TRAIN_BATCH, IMAGES, EPOCHS, WORKERS = 256, 4096, 3, 14


class Measurement:
    """The inputs of each section: the device, the duration of measurements, and the photos.

    Args:
        args: The command-line arguments.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.device = torch.device(args.device)
        self.seconds: float = args.seconds
        self.photos: Path | None = args.photos
        self.shrink: int = args.shrink
        self.half = "bf16" if args.device == "cpu" else "fp16"
        self.out: Path = args.out

    def images(self, batch: int) -> Tensor:
        """Returns a batch of random images on the device."""
        return torch.randn(max(batch // self.shrink, 1), 3, SIDE, SIDE, device=self.device)

    def rates(self, calls: Mapping[str, Callable[[], object]], batch: int) -> dict[str, dict[str, float]]:
        """Returns milliseconds per call and images per second of calls that take turns."""
        times = self.take_turns(calls)
        rows = {name: {"ms": ms, "images_per_second": round(1000 * batch / ms)} for name, ms in times.items()}
        print(f"batch {batch}:", rows, flush=True)
        return rows

    def write(self, results: Mapping[str, Any]) -> None:
        """Writes the results so far."""
        self.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")

    def synchronize(self) -> None:
        """Waits for the device."""
        if self.device.type != "cpu":
            torch.get_device_module(self.device).synchronize()

    def take_turns(self, calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        """Returns the median milliseconds of each call. The calls take turns."""
        times: dict[str, list[float]] = {name: [] for name in calls}
        for call in calls.values():
            for _ in range(3):
                call()
        self.synchronize()
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end or not all(times.values()):
            for name, call in calls.items():
                began = time.perf_counter()
                call()
                self.synchronize()
                times[name].append(time.perf_counter() - began)
        return {name: round(1000 * statistics.median(series), 4) for name, series in times.items()}


# Sections. Each returns its results.


def about(measurement: Measurement, results: dict[str, Any]) -> dict[str, Any]:
    """The GPU and the versions."""
    device = measurement.device
    card = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        "card": card.name if card else str(device),
        "memory_gib": round(card.total_memory / 2**30, 1) if card else None,
        "date": datetime.date.today().isoformat(),
        "tf32": {"convolutions": torch.backends.cudnn.allow_tf32, "products": torch.backends.cuda.matmul.allow_tf32},
        "versions": {name: version(name) for name in ("torch", "torchvision", "timm")},
    }


def checks(measurement: Measurement, results: dict[str, Any]) -> dict[str, Any]:
    """The tests that need a GPU. PyTorch caches on disk what the other process compiles."""
    with tempfile.TemporaryDirectory() as folder, compiling(measurement, Path(folder) / "discarded.json"):
        return tests()


@contextlib.contextmanager
def compiling(measurement: Measurement, out: Path) -> Iterator[None]:
    """Runs the sections that compile in another process, and waits for it."""
    options = ["--device", str(measurement.device), "--shrink", str(measurement.shrink), "--seconds", "0"]
    words = [sys.executable, __file__, *options, "--only", *COMPILING, "--out", str(out)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as ahead:
        try:
            yield
        except BaseException:
            ahead.terminate()
            raise


def tests() -> dict[str, Any]:
    """Runs the tests that need a GPU."""
    words = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "--durations=10", "-p", "no:cacheprovider", *CHECKS]
    lines = [""]
    # Line by line, to show which test takes long. Nothing continues if this process is stopped.
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            for line in running.stdout:
                print(line, end="", flush=True)
                lines.append(line.strip())
        finally:
            running.terminate()
    if running.returncode:
        raise RuntimeError("tests failed")
    return {"pytest": lines[-1]}


@torch.inference_mode()
def inference(measurement: Measurement, results: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds per batch of the engine `torch` and of timm in eager mode, by batch size and precision."""
    rows = results["inference"] = {}
    for batch in BATCHES:
        images = measurement.images(batch)
        calls: dict[str, Callable[[], object]] = {}
        for precision in ENGINES["torch"].precisions_on(measurement.device):
            calls[f"timm eager {precision}"] = timm_eager(images, DTYPES[precision], measurement.device)
            calls[f"torch {precision}"] = on_engine(images, "torch", precision, measurement.device)
        rows[str(batch)] = measurement.rates(calls, len(images))
        measurement.write(results)
    return rows


@torch.inference_mode()
def compiled(measurement: Measurement, results: dict[str, Any]) -> dict[str, Any]:
    """The same for the engine `inductor`, next to those two."""
    images, half = measurement.images(COMPILED), measurement.half
    calls = {
        f"{engine} {half}": on_engine(images, engine, half, measurement.device) for engine in ("inductor", "torch")
    }
    calls[f"timm eager {half}"] = timm_eager(images, DTYPES[half], measurement.device)
    return {str(COMPILED): measurement.rates(calls, len(images))}


def network(name: str) -> nn.Module:
    """Builds a model in evaluation mode, with the same weights in every process."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name).eval()
    return model


def timm_eager(images: Tensor, dtype: torch.dtype, device: torch.device) -> Callable[[], object]:
    """timm's model in its benchmark's fastest eager configuration: channels last, weights in the given dtype."""
    model = network("mobilenetv2_100").to(device, dtype, memory_format=torch.channels_last)
    given = images.to(dtype).contiguous(memory_format=torch.channels_last)
    return lambda: model(given)


def on_engine(images: Tensor, engine: Any, precision: Any, device: torch.device) -> Callable[[], object]:
    """Our model on an engine."""
    fast = deploy.optimize(network("mnv2zoo_100"), images, engine, precision, device=str(device))
    print(f"{fast!r} at batch {len(images)}", flush=True)
    return lambda: fast(images)


@torch.inference_mode()
def bound(measurement: Measurement, results: dict[str, Any]) -> dict[str, Any]:
    """The limit set by memory bandwidth at batch 256 in fp16, and the share of it that timm and the engines reach.

    The limit assumes that every convolution of the folded model, with its activation and residual, reads its input and
    weights once and writes its output once, at the rate at which the device copies a 2 GiB tensor.
    """
    batch = 256
    moved = bytes_moved(batch, 2)
    source = torch.empty(2**30 // measurement.shrink, dtype=torch.float16, device=measurement.device)
    target = torch.empty_like(source)
    copy_ms = measurement.take_turns({"copy": lambda: target.copy_(source)})["copy"]
    rate = 2 * source.numel() * source.element_size() / copy_ms * 1000
    limit_ms = 1000 * moved / rate
    measured = results["inference"][str(batch)] | results.get("compiled", {}).get(str(batch), {})
    return {
        "batch": batch,
        "gb_per_second": round(rate / 1e9),
        "mb_moved": round(moved / 1e6),
        "limit_ms": round(limit_ms, 3),
        "part_reached_percent": {
            name: round(100 * limit_ms / row["ms"], 1)
            for name, row in measured.items()
            if name.endswith(measurement.half)
        },
    }


def bytes_moved(batch: int, element: int) -> int:
    """Bytes that the folded model's layers read and write for a batch, if each tensor moves once per layer."""
    moved = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal moved
        weights = sum(parameter.numel() for parameter in module.parameters())
        moved += element * (batch * (inputs[0].numel() + output.numel()) + weights)

    model = network("mnv2zoo_100")
    hooks = [
        module.register_forward_hook(count) for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    with torch.inference_mode():
        model(torch.zeros(1, 3, SIDE, SIDE))
    for hook in hooks:
        hook.remove()
    for block in architecture.bottlenecks(architecture.get("mnv2zoo_100")):
        if block.shortcut:  # the residual is also read
            moved += element * batch * block.out_channels * (SIDE // block.reduction) ** 2
    return moved


@torch.inference_mode()
def heads(measurement: Measurement, results: dict[str, Any]) -> dict[str, Any]:
    """Our SSDLite and LR-ASPP, eager and on the engine `torch` in fp16, next to torchvision's with MobileNetV3."""
    device = measurement.device
    rows = results["heads"] = {}
    torch.manual_seed(0)
    cases: dict[str, tuple[nn.Module, nn.Module, tuple[int, int]]] = {
        "ssdlite": (
            detection.ssdlite("mnv2zoo_100", 91, size=(320, 320), score_thresh=0.5),
            torchvision_detection.ssdlite320_mobilenet_v3_large(
                weights=None, weights_backbone=None, num_classes=91, score_thresh=0.5
            ),
            (320, 320),
        ),
        "lraspp": (
            segmentation.lraspp("mnv2zoo_100", 21),
            torchvision_segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=21),
            (360, 480),
        ),
    }
    for name, (ours, theirs, size) in cases.items():
        for batch in (1, max(32 // measurement.shrink, 2)):
            images = torch.rand(batch, 3, *size, device=device)
            calls: dict[str, Callable[[], object]] = {
                "torchvision eager fp32": eager(theirs, images, device),
                "mnv2zoo eager fp32": eager(ours, images, device),
            }
            fast = deploy.optimize(ours.cpu().eval(), images, "torch", measurement.half, device=str(device))
            calls[f"mnv2zoo torch {measurement.half}"] = lambda fast=fast, images=images: fast(images)  # type: ignore[misc]
            rows[f"{name}, batch {batch}"] = measurement.take_turns(calls)
            print(name, batch, rows[f"{name}, batch {batch}"], flush=True)
            measurement.write(results)
    return rows


def eager(model: nn.Module, images: Tensor, device: torch.device) -> Callable[[], object]:
    """A model in eager mode."""
    placed = copy.deepcopy(model).eval().to(device)
    given = list(images) if isinstance(placed, torchvision_detection.ssd.SSD) else images
    return lambda: placed(given)


def steps(measurement: Measurement, results: dict[str, Any]) -> dict[str, Any]:
    """Training images per second of timm's model and ours in the same loop, with images already on the device."""
    batch = max(TRAIN_BATCH // measurement.shrink, 2)
    images = torch.randn(batch, 3, SIDE, SIDE, device=measurement.device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=measurement.device) % CLASSES
    calls = {
        f"{name}{', compiled' if compiled else ''}": training_step(name, images, labels, compiled)
        for name in ("mnv2zoo_100", "mobilenetv2_100")
        for compiled in (False, True)
    }
    return measurement.rates(calls, batch)


def training_step(name: str, images: Tensor, labels: Tensor, compiled: bool) -> Callable[[], object]:
    """A training step with bf16 autocast and channels last."""
    torch.manual_seed(0)
    model: Any = timm.create_model(name, num_classes=CLASSES).to(images.device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    model.train()
    run = torch.compile(model) if compiled else model

    def step() -> None:
        with torch.autocast(images.device.type, torch.bfloat16):
            loss = functional.cross_entropy(run(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def training(measurement: Measurement, results: dict[str, Any]) -> dict[str, Any]:
    """Training images per second from JPEG files: `finetune`, and a loop of timm's parts with its best flags.

    Both decode the same photos with the same number of processes, crop at random, flip, and
    train in bf16 with channels last. The first epoch is a warm-up.
    """
    if measurement.photos is None:
        raise ValueError("training needs --photos")
    number = max(IMAGES // measurement.shrink, 64)
    rows: dict[str, list[int]] = {}
    results["training"] = {"images": number, "workers": WORKERS, "images_per_second_by_epoch": rows}
    with tempfile.TemporaryDirectory() as folder:
        data = copied(measurement.photos, Path(folder) / "photos", number)
        for name, epochs in TRAININGS.items():
            rows[name] = epochs(data, Path(folder) / name, measurement)
            print(name, rows[name], flush=True)
            measurement.write(results)
    return results["training"]  # type: ignore[no-any-return]


def copied(photos: Path, target: Path, number: int) -> Path:
    """Builds class folders with that many copies of the photos, and a few for validation."""
    files = sorted(photos.glob("*.jpg"))
    for split, count in (("train", number), ("val", 64)):
        for place in range(count):
            folder = target / split / f"class{place % CLASSES}"
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(files[place % len(files)], folder / f"{place}.jpg")
    return target


def our_epochs(data: Path, out: Path, measurement: Measurement, **options: Any) -> list[int]:
    """Images per second of the epochs of `finetune`."""
    result = mnv2zoo.finetune(
        data,
        out=out,
        init="random",
        epochs=EPOCHS,
        batch_size=max(TRAIN_BATCH // measurement.shrink, 4),
        workers=WORKERS,
        val_fraction=0.01,
        precision="bf16",
        color_jitter=0.0,
        device=str(measurement.device),
        **options,
    )
    return [round(row["images_per_second"]) for row in result.history]


def timms_epochs(data: Path, out: Path, measurement: Measurement, compiled: bool = False) -> list[int]:
    """Images per second of epochs as timm's `train.py` runs them: --amp --amp-dtype bfloat16 --channels-last."""
    device = measurement.device
    loader = create_loader(
        create_dataset("", str(data / "train")),
        input_size=(3, SIDE, SIDE),
        batch_size=max(TRAIN_BATCH // measurement.shrink, 4),
        is_training=True,
        num_workers=WORKERS,
        persistent_workers=True,
        use_prefetcher=device.type == "cuda",
        pin_memory=True,
        device=device,
    )
    model: Any = timm.create_model("mobilenetv2_100", num_classes=CLASSES)
    model.to(device, memory_format=torch.channels_last).train()
    optimizer = create_optimizer_v2(model, "sgd", lr=0.01)
    run = torch.compile(model) if compiled else model
    rates = []
    for _ in range(EPOCHS):
        began, seen = time.perf_counter(), 0
        for given, labels in loader:
            images = given.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16):
                loss = functional.cross_entropy(run(images), labels.to(device, non_blocking=True))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seen += len(images)
        measurement.synchronize()
        rates.append(round(seen / (time.perf_counter() - began)))
    return rates


# Compiled trainings come last.
TRAININGS: dict[str, Callable[[Path, Path, Measurement], list[int]]] = {
    "mnv2zoo, all": our_epochs,
    "timm": timms_epochs,
    "mnv2zoo, all, augmented on the device": partial(our_epochs, augment_on="device"),
    "mnv2zoo, head": partial(our_epochs, train="head"),
    "mnv2zoo, all, compiled": partial(our_epochs, compile=True),
    "timm, compiled": partial(timms_epochs, compiled=True),
}

SECTIONS: dict[str, Callable[[Measurement, dict[str, Any]], dict[str, Any]]] = {
    "about": about,
    "checks": checks,
    "inference": inference,
    "compiled": compiled,
    "bound": bound,
    "heads": heads,
    "steps": steps,
    "training": training,
}


def main() -> int:
    """Runs the sections, and writes the results of each as soon as it finishes."""
    args = arguments()
    began, measurement, failed = time.perf_counter(), Measurement(args), []
    results = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
    card = about(measurement, results)
    if results.get("about", {}).get("card") != card["card"]:
        results = {}  # never mixes the results of two cards
    for name in ["about", *[name for name in args.only or SECTIONS if name != "about"]]:
        try:
            results[name] = SECTIONS[name](measurement, results)
        except Exception:
            traceback.print_exc()
            failed.append(name)
        measurement.write(results)
        print(f"{name}: {json.dumps(results.get(name))}; {time.perf_counter() - began:.0f} s", flush=True)
        torch.cuda.empty_cache()  # does nothing without a CUDA GPU
    print(f"failed: {', '.join(failed)}" if failed else f"written to {args.out}")
    return len(failed)


def arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of JPEG photos, for the section `training`")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="*", choices=list(SECTIONS), help="sections to measure")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--seconds", type=float, default=2, help="duration of each comparison (default: 2)")
    parser.add_argument("--shrink", type=int, default=1, help="divisor of batch and data sizes, to try this on a CPU")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

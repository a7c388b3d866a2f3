"""Runs a model on the fastest engine of this machine, and checks its outputs against PyTorch's."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from mnv2zoo.deploy import agreement, checks
from mnv2zoo.deploy.calibration import Calibration, Images, prepare
from mnv2zoo.deploy.detectors import Detections, Split, is_detector
from mnv2zoo.deploy.engines import ENGINES, Plan, Runner, Source, fork_safe, torch_threads, usable
from mnv2zoo.deploy.fingerprint import cache_key
from mnv2zoo.deploy.fold import fold
from mnv2zoo.errors import DeployError, nearest
from mnv2zoo.models.pretrained import find_device
from mnv2zoo.models.timm_compat import pytree
from mnv2zoo.runtimes.cache import Cache, versions
from mnv2zoo.runtimes.runners import Parts, PerProcess, require_near

EngineName = Literal["auto", "torch", "inductor", "onnxruntime", "openvino"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
TIMED_SECONDS, TIMED_RUNS = 0.5, 20  # how long `auto` times an engine, whichever ends first
# Boxes of the example, in percent, that an engine has to find in fp32. Rounding decides which of two boxes with nearly
# the same score suppresses the other, so a few may differ.
SAME_BOXES = 98
NEARLY_SAME = (0.9, 0.02)  # IoU and difference of scores of boxes that a device and the CPU make of the same outputs
COMPARED = 16  # images of the example on which outputs of a device are compared with the original's on the CPU


@dataclass(frozen=True)
class Attempt:
    """What came of trying an engine.

    Attributes:
        engine: Its name.
        milliseconds: Median time for the example; None where it was not timed.
        error: Distance of its outputs from the original's, as a part of their norm; None where it did not
            run.
        verdict: `chosen`, `slower`, or why it was left out.
    """

    engine: str
    milliseconds: float | None
    error: float | None
    verdict: str


class Optimized:
    """A network on an engine: a function from images (N, C, H, W) to what the network gives.

    N may be any number; C, H and W are the example's. It can be pickled and copied, and used in a forked process;
    each process starts the engine for itself at the first call, without compiling or exporting the network again
    (`inductor` compiles again).

    Attributes:
        engine: The engine's name.
        precision: `fp32`, `fp16`, `bf16` or `int8`.
        device: Where it computes and gives its outputs.
        max_abs_error: Largest difference of an output from the original's on the example.
        agreement: In int8, how far it agrees with the original on the calibration images, in percent: images with the
            same top class; for a segmenter, pixels with the same class; for a detector, boxes with a score of at least
            0.3 that have a partner of the same class with an IoU of at least 0.5. None for other models and precisions.
        accuracy: Top-1 on the calibration images before and after, in percent; None where their classes
            are not known: without labels or class folders, where a folder's name is none of the network's
            classes, and where the network's class names are not known. The calibration images set the ranges,
            so other images may fare a little worse.
        tried: The engines that were tried, and what came of each.

    Args:
        runner: Runs the engine: from images (N, C, H, W) to the outputs in a row.
        engine: The engine's name.
        precision: As the attribute.
        example: Images (N, C, H, W), whose shape but for N the network takes.
        expected: What the original gives for the example.
        device: As the attribute.
    """

    def __init__(
        self,
        runner: Runner,
        engine: str,
        precision: str,
        example: Tensor,
        expected: Any,
        device: torch.device = checks.CPU,
    ) -> None:
        self.engine, self.precision, self.device = engine, precision, device
        self.max_abs_error = 0.0
        self.agreement: float | None = None
        self.accuracy: tuple[float, float] | None = None
        self.tried: Sequence[Attempt] = ()
        self._runner = runner
        self._shape = tuple(example.shape[1:])
        leaves, self._structure = pytree.tree_flatten(expected)
        self._outputs = [(leaf.shape[1:], leaf.dtype) for leaf in leaves]

    def __call__(self, x: Tensor) -> Any:
        """Runs the network.

        Args:
            x: Images (N, C, H, W) of floating-point numbers, as the network's preprocessing makes them.

        Returns:
            What the network gives: logits, or an ordered dict of maps; on the engine's device.

        Raises:
            DeployError: If the shape is another than the example's but for N, the images are on another device than
                the engine or the CPU, or a forked process cannot use the device.
        """
        if not checks.are_images(x, self.device) or tuple(x.shape[1:]) != self._shape:
            raise DeployError(
                "the images have another shape than the example",
                expected="floating-point ({}) {}".format(
                    ", ".join(["N", *map(str, self._shape)]), checks.places(self.device)
                ),
                found=checks.describe(x),
                fix="Optimize again with an example of that shape.",
            )
        if len(x):
            outputs = fork_safe(lambda: self._runner(x.detach()))
        else:
            outputs = [torch.empty(0, *shape, dtype=dtype, device=self.device) for shape, dtype in self._outputs]
        return pytree.tree_unflatten(outputs, self._structure)

    def __reduce__(self) -> tuple[Any, ...]:
        # As bytes: PyTorch would pass each of hundreds of tensors to another process by an open file of its own.
        return _restored, (type(self), pickle.dumps(vars(self)))

    def __repr__(self) -> str:
        place = "" if self.device.type == "cpu" else f"{self.device}, "
        return f"Optimized({self.engine}, {self.precision}, {place}max_abs_error={self.max_abs_error:.2g})"


def _restored(kind: type[Optimized], state: bytes) -> Optimized:
    fast = kind.__new__(kind)
    vars(fast).update(pickle.loads(state))
    return fast


class OptimizedDetector(Optimized):
    """A detector whose core runs on an engine, and whose post-processing is torchvision's own, in PyTorch.

    It takes what the detector takes, images from 0 to 1, and gives what the detector gives. Images may have any size
    that the detector's transform brings to the example's, or to less.

    Attributes:
        core: The backbone and heads on their engine, from normalized images to raw outputs.
        split: The detector in its parts.
        max_abs_error: Largest difference of a raw output of the core from the original's on the example.

    Args:
        core: The core on its engine.
        split: The detector in its parts.
    """

    def __init__(self, core: Optimized, split: Split) -> None:
        vars(self).update(vars(core))
        self.core, self.split = core, split

    def __call__(self, x: Tensor | Sequence[Tensor]) -> Detections:
        """Finds boxes.

        Args:
            x: Images (N, 3, h, w) from 0 to 1, or a list of images (3, h, w).

        Returns:
            `boxes` (n, 4) in pixels of the given image, `labels` (n,) and `scores` (n,) for each image.

        Raises:
            DeployError: If the images are none, or larger than the example after the detector has resized them.
        """
        listed = isinstance(x, list | tuple) and all(checks.is_image(one, self.device) for one in x)
        if not listed and not checks.are_images(x, self.device):
            where = checks.places(self.device)
            raise DeployError(
                "these are no images for a detector",
                expected=f"floating-point images (N, 3, h, w) {where}, or a list of such images (3, h, w)",
                found=checks.describe(x),
                fix="Pass images from 0 to 1.",
            )
        if not len(x):
            return []
        with torch.inference_mode():
            return fork_safe(lambda: self._run(x))

    def _run(self, x: Tensor | Sequence[Tensor]) -> Detections:
        if self.device.type != "cpu":
            return self._run_on_device(x)
        # The steps around the core are small. With more threads PyTorch waits for cores on which the engine's threads
        # still spin after each call; that took ten times as long. Faster R-CNN's second stage is large.
        number = torch.get_num_threads() if self.split.core.two_stages else 1
        with torch_threads(number):
            images, sizes = self.split.prepare(x)
        outputs = self.core(images)
        originals = [(image.shape[-2], image.shape[-1]) for image in x]
        with torch_threads(number):
            return self.split.detections(outputs, sizes, originals)

    def _run_on_device(self, x: Tensor | Sequence[Tensor]) -> Detections:
        with usable(self.device):
            there = x.to(self.device) if isinstance(x, Tensor) else [image.to(self.device) for image in x]
            images, sizes = self.split.prepare(there)
        originals = [(image.shape[-2], image.shape[-1]) for image in x]
        return self.split.detections(self.core(images), sizes, originals)


def optimize(
    model: nn.Module,
    example: Tensor,
    engine: EngineName = "auto",
    precision: Precision = "fp32",
    calibration: Images | None = None,
    threads: int | None = None,
    cache: str | Path | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    device: str | torch.device | None = None,
) -> Optimized:
    """Makes a model fast on this machine's CPU or GPU.

    Batch norms are folded into convolutions, and the engine does the rest. Its outputs on the example are compared
    with the model's. On a GPU, the first 16 images of the example are compared, and the model computes them on the CPU
    in single precision.

    The engine runs all of a model but the post-processing of a detector, which stays torchvision's, in PyTorch: for
    `SSD` and `RetinaNet` the decoding of boxes and non-maximum suppression, for `FasterRCNN` all that follows the
    head of the proposal network. The engine's raw outputs are compared with the model's, and in fp32 the boxes too.

    Args:
        model: A model in evaluation mode: a classifier, a feature extractor, taps, a segmenter or a detector. With
            `device`, it may be on any device. It is not changed.
        example: Images (N, C, H, W) like those it will see, with the batch size to be fast at; for a detector from 0
            to 1, and otherwise preprocessed.
        engine: `torch` needs no other package. `inductor` compiles for a minute, with a C++ compiler. `onnxruntime` and
            `openvino` come with the extra `deploy`. `auto` times all installed ones but `inductor`, and picks the
            fastest. On a GPU, `torch` and `inductor` replay CUDA graphs, where PyTorch has them. There `inductor` times
            several kernels for each layer (`max_autotune`), which takes minutes, and it computes in batches of the
            example's size. `onnxruntime` needs `onnxruntime-gpu`, and `openvino` an Intel GPU; neither was tested on
            one.
        precision: `fp32`; `fp16`, on a GPU; `bf16`, for CPUs and GPUs that can multiply it; or `int8`, for which NNCF
            quantizes, and which `onnxruntime` has on the CPU and `openvino` on the CPU and Intel GPUs. On NVIDIA GPUs,
            `fp32` follows PyTorch's own settings, which are not changed: by default convolutions multiply in TF32
            (`torch.backends.cudnn.allow_tf32`), and matrix products do not
            (`torch.set_float32_matmul_precision`). `inductor` computes 1x1 convolutions as matrix products.
        calibration: For `int8`, a few hundred representative images: preprocessed (n, C, H, W), as a tensor or numpy
            array; an iterable of such batches, or of pairs of a batch and its labels, such as a `DataLoader`, of which
            the first 300 images are used; a `Dataset`; or a folder. With labels, or with one folder per class, the
            accuracy is reported too.
        threads: Number of threads on the CPU; PyTorch's by default.
        cache: A folder in which to cache what `onnxruntime` and `openvino` start from. An entry is used only for the
            same weights, settings, image size, calibration images, versions and CPU, after its SHA-256 and its outputs
            were checked; otherwise it is rebuilt. A folder that other users may write is refused. You may delete it at
            any time.
        preprocessing: How a segmenter's or a detector's calibration folder is read, as for `export`; a detector has
            its own by default.
        device: Where to compute, such as `cuda:1`, `xpu` or `mps`; by default the CPU. The function takes images on the
            device or the CPU, and gives outputs on the device. On `cuda`, the first 8 batch sizes that it sees get a
            CUDA graph each, recorded at the first call; further sizes run without one.

    Returns:
        The model as a function, which several threads may call at once (on the CPU not tested for `inductor`). A
        detector also takes a list of images (3, h, w).

    Raises:
        DeployError: If the model or the example is unfit, the engine does not support the precision or the device, the
            outputs differ by more than the precision explains, or the cache cannot be used.
        DeviceError: If the device cannot be used.
        ImageReadError: If the calibration folder has no images, or one cannot be read.
        MissingExtraError: If the engine is not installed.

    Examples:
        >>> import timm, torch, mnv2zoo
        >>> model = timm.create_model("mnv2zoo_035").eval()
        >>> images = torch.rand(2, 3, 64, 64)
        >>> fast = mnv2zoo.deploy.optimize(model, images, engine="torch")
        >>> fast(images).shape, fast.max_abs_error < 1e-3
        (torch.Size([2, 1000]), True)
    """
    with torch.inference_mode(False):  # what is made in this mode could not be used outside of it
        where = _place(device)
        _check(model, example, engine, precision, calibration, threads, where)
        if where.type != "cpu":
            model, example = _on_cpu(model), example.detach().cpu()
        threads = threads or torch.get_num_threads()
        images = prepare(calibration, model, example, preprocessing) if calibration is not None else None
        entries = Cache()
        if cache is not None:
            entries = Cache(Path(cache), cache_key(model, example, images.fingerprint if images else ""))
        return _optimized(model, example, engine, Goal(precision, threads, where), images, entries)


def _optimized(
    model: nn.Module, example: Tensor, engine: str, goal: Goal, images: Calibration | None, entries: Cache
) -> Optimized:
    on_cpu = goal.device.type == "cpu"
    split = Split(model, example) if is_detector(model) else None
    network, fed = (split.core, split.prepare(example)[0]) if split else (model, example)
    compared = fed if on_cpu else fed[:COMPARED]
    source, goal = Source(fold(network), fed, _fed(images, split)), replace(goal, expected=_expected(network, compared))
    if engine == "auto":
        optimized = _fastest(source, goal, entries)
    else:
        optimized, _ = _build(engine, source, goal, entries)
    if split:
        optimized = OptimizedDetector(optimized, split if on_cpu else split.to(goal.device))
        if not on_cpu:
            _require_same_post_processing(optimized, split, example[:COMPARED])
        elif goal.precision == "fp32":
            _require_same_boxes(optimized, model, example)
    if images and (split or agreement.decided_by(goal.expected, compared) is not None):
        _measure_agreement(optimized, model, images, entries)
    return optimized


@dataclass(frozen=True)
class Goal:
    """What an engine has to do.

    Attributes:
        precision: What it computes in.
        threads: Threads that it computes with, on the CPU.
        device: Where it computes.
        expected: What the original gives for the example, or on a device for its first images.
    """

    precision: str
    threads: int
    device: torch.device
    expected: Any = None


def _place(device: str | torch.device | None) -> torch.device:
    """The device with its number, as its tensors name it."""
    if device is None:
        return checks.CPU
    return torch.empty(0, device=find_device(str(device))).device


def _on_cpu(model: nn.Module) -> nn.Module:
    """The model, or a copy of it where any part is on another device."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return model if all(tensor.device.type == "cpu" for tensor in tensors) else copy.deepcopy(model).cpu()


def _fed(calibration: Calibration | None, split: Split | None) -> Calibration | None:
    """Calibration images as the engine gets them."""
    if calibration is None or split is None:
        return calibration
    return replace(calibration, read=lambda: split.prepare(calibration.images)[0])


def for_runtime(
    model: nn.Module,
    input_size: tuple[int, int, int],
    engine: str,
    precision: str,
    calibration: str | Path | None = None,
) -> Parts:
    """Makes what a runtime starts from without PyTorch, and what its outputs are checked with.

    Args:
        model: A zoo classifier in evaluation mode.
        input_size: Channels, height and width of its images.
        engine: `onnxruntime` or `openvino`.
        precision: As for `optimize`.
        calibration: Folder of images for `int8`.

    Returns:
        What the engine starts from; images (2, *input_size) as `example`, and the model's outputs for them
        as `expected`, both as bytes of float32.

    Raises:
        DeployError: As `optimize`.
        ImageReadError: As `optimize`.
        MissingExtraError: As `optimize`.
    """
    example = torch.randn(2, *input_size, generator=torch.Generator().manual_seed(0))
    _check(model, example, engine, precision, calibration, None, checks.CPU)
    images = prepare(calibration, model, example) if calibration is not None else None
    if images:
        example = images.images[:2]  # in the range that it is quantized for
    make = ENGINES[engine].prepare
    assert make is not None  # engines of other runtimes have one
    parts = make(Source(fold(model), example, images), precision)
    checked = {"example": example, "expected": _expected(model, example)}
    return {**parts, **{name: tensor.float().contiguous().numpy().tobytes() for name, tensor in checked.items()}}


def _expected(model: nn.Module, example: Tensor) -> Any:
    def run_on(images: Tensor) -> Any:
        with torch.inference_mode():
            return model(images)

    try:
        expected = fork_safe(lambda: run_on(example))
        twice = expected if isinstance(expected, Tensor) else fork_safe(lambda: run_on(torch.cat([example] * 2)))
    except Exception as error:  # of any class: assertions, indices, attributes
        raise DeployError(
            "the model cannot run the example",
            found=f"{type(error).__name__}: {checks.first_line(error)}",
            where=f"an example {checks.describe(example)}",
            fix="Pass an example with the channels, height and width that the model takes.",
        ) from error
    leaves, structure = pytree.tree_flatten(expected)
    rows = all(isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == len(example) for leaf in leaves)
    if not leaves or not rows or pytree.tree_structure(twice) != structure:
        raise DeployError(
            f"cannot optimize a {type(model).__name__}, whose outputs are not tensors with a row per image",
            expected="a classifier, a feature extractor, taps, a segmenter or a detector",
            found=type(model).__name__,
            where="model",
            fix="Optimize its backbone, such as `model.backbone`, or run the model in PyTorch.",
        )
    return expected


def _measure_agreement(optimized: Optimized, model: nn.Module, calibration: Calibration, cache: Cache) -> None:
    """Sets the agreement of a quantized model with the original, and a classifier's accuracies if labels are known."""
    original = model if not isinstance(optimized, OptimizedDetector) else lambda images: model(list(images))

    def on_cpu(images: Tensor) -> Any:
        return pytree.tree_map(Tensor.cpu, optimized(images))

    def measure() -> Parts:
        found = agreement.measure(original, on_cpu, calibration.images, calibration.classes)
        return {"json": json.dumps(found).encode()}

    key = {**_engine_key(optimized.engine, optimized.precision), "entry": "agreement"}
    if optimized.device.type != "cpu":
        key["device"] = optimized.device.type
    key["classes"] = str(calibration.classes)
    found = cache.fetch(key, measure, lambda parts: json.loads(parts["json"]))
    optimized.agreement = found["agreement"]
    optimized.accuracy = found["accuracy"] and tuple(found["accuracy"])


def _require_same_boxes(optimized: OptimizedDetector, model: nn.Module, example: Tensor) -> None:
    """Refuses a detector in fp32 that finds other boxes in the example than the original."""
    with torch.inference_mode():
        share = agreement.matched(optimized(example), fork_safe(lambda: model(list(example))))
    if share < SAME_BOXES:  # NaN, where there are no boxes, is not less
        raise DeployError(
            f"{optimized.engine} does not find the boxes that the detector finds",
            expected=f"{SAME_BOXES} % of the boxes with an IoU of {agreement.IOU} and a score within {agreement.SCORE}",
            found=f"{share:.1f} %",
            fix="Take another engine, and report this one.",
        )


def _require_same_post_processing(optimized: OptimizedDetector, split: Split, example: Tensor) -> None:
    """Refuses a detector that makes other boxes of the same raw outputs on the device than on the CPU.

    The raw outputs were compared already. The boxes of two cores that differ by a rounding may differ by more, because
    rounding decides which box suppresses another.
    """
    with torch.inference_mode():
        images, sizes = split.prepare(example)
        outputs = optimized.core(images)
        originals = [(image.shape[-2], image.shape[-1]) for image in example]
        found = optimized.split.detections(outputs, sizes, originals)
        wanted = split.detections(pytree.tree_map(Tensor.cpu, outputs), sizes, originals)
    share = agreement.matched(pytree.tree_map(Tensor.cpu, found), wanted, *NEARLY_SAME)
    if share < SAME_BOXES:
        raise DeployError(
            f"{optimized.device} does not find the boxes that the CPU finds",
            expected=f"{SAME_BOXES} % of the boxes with an IoU of {NEARLY_SAME[0]} and a score within {NEARLY_SAME[1]}",
            found=f"{share:.1f} %",
            fix="Run the detector in PyTorch, and report this device.",
        )


def _engine_key(engine: str, precision: str) -> dict[str, str]:
    """The part of the cache key that differs between the engines of a model."""
    return {"engine": engine, "precision": precision, **versions(ENGINES[engine].packages(precision))}


def _fastest(source: Source, goal: Goal, cache: Cache) -> Optimized:
    best: Optimized | None = None
    attempts: dict[str, Attempt] = {}
    for name in ENGINES:
        if reason := _reason_to_skip(name, goal):
            attempts[name] = Attempt(name, None, None, reason)
            continue
        try:
            optimized, error = _build(name, source, goal, cache)
            example = source.example.to(goal.device)
            attempts[name] = Attempt(name, _milliseconds(optimized, example), error, "slower")
        except DeployError as failure:
            attempts[name] = Attempt(name, None, None, failure.summary)
            continue
        except Exception as failure:  # runtimes raise nearly anything, and another engine may do
            attempts[name] = Attempt(name, None, None, f"{type(failure).__name__}: {checks.first_line(failure)}")
            continue
        if best is None or attempts[name].milliseconds < attempts[best.engine].milliseconds:  # type: ignore[operator]
            best = optimized
    if best is None:
        reasons = "; ".join(f"{attempt.engine}: {attempt.verdict}" for attempt in attempts.values())
        raise DeployError(
            "no engine can run the model", found=reasons, fix="Ask for one engine by name to see its whole error."
        )
    attempts[best.engine] = replace(attempts[best.engine], verdict="chosen")
    best.tried = tuple(attempts.values())
    return best


def _reason_to_skip(name: str, goal: Goal) -> str:
    """Why `auto` skips an engine; empty if it does not."""
    engine = ENGINES[name]
    if not engine.knows(goal.device):
        return f"does not have the device {goal.device}"
    if goal.precision not in engine.precisions_on(goal.device):
        return f"knows no {goal.precision}{_on(goal.device)}"
    if missing := checks.missing(engine.packages(goal.precision)):
        return f"not installed: {', '.join(missing)}"
    if not engine.has(goal.device):
        return f"does not have the device {goal.device}"
    if engine.slow_to_compile:
        return "compiles for a minute; ask for it by name"
    return ""


def _on(device: torch.device) -> str:
    return "" if device.type == "cpu" else f" on {device.type}"


def _build(name: str, source: Source, goal: Goal, cache: Cache) -> tuple[Optimized, float]:
    """Starts a model on an engine, and returns it with the relative error of its outputs."""
    engine, device, precision = ENGINES[name], goal.device, goal.precision

    def start(parts: Parts) -> tuple[Optimized, float]:
        network = source.own(precision) if engine.prepare is None else None
        plan = Plan(network, parts, tuple(source.example.shape), precision, goal.threads, device)
        runner = PerProcess(functools.partial(engine.start, plan))
        optimized = Optimized(runner, name, precision, source.example, goal.expected, device)
        wanted = pytree.tree_leaves(goal.expected)
        outputs = [output[: len(wanted[0])].cpu() for output in runner(source.example.to(device))]
        error, optimized.max_abs_error = checks.distances(outputs, wanted)
        require_near(name, precision, error, device.type != "cpu")
        return optimized, error

    if engine.prepare is None:
        return start({})
    return cache.fetch(_engine_key(name, precision), functools.partial(engine.prepare, source, precision), start)


def _milliseconds(run: Callable[[Tensor], Any], example: Tensor) -> float:
    """Median time of a run, after the one that checked it."""
    times: list[float] = []
    while len(times) < TIMED_RUNS and (sum(times) < TIMED_SECONDS or len(times) < 3):
        started = time.perf_counter()
        outputs = run(example)
        if example.device.type != "cpu":
            pytree.tree_leaves(outputs)[0].flatten()[:1].cpu()  # which waits until the device has computed it
        times.append(time.perf_counter() - started)
    return 1000 * sorted(times)[len(times) // 2]


def _check(
    model: nn.Module,
    example: Tensor,
    engine: str,
    precision: str,
    calibration: object,
    threads: int | None,
    device: torch.device,
) -> None:
    for what, value, known in (("engine", engine, get_args(EngineName)), ("precision", precision, get_args(Precision))):
        if value not in known:
            raise DeployError(
                f"no such {what}: {value!r}",
                expected=nearest(str(value), known, 4),
                found=repr(value),
                fix=f"Pass one of {', '.join(known)}.",
            )
    if (precision == "int8") != (calibration is not None):
        given = "no calibration images" if calibration is None else "calibration images"
        raise DeployError(
            "precision int8 and calibration images go together",
            found=f"precision {precision} with {given}",
            where="precision",
            fix="Pass calibration= for int8, and for int8 alone.",
        )
    if threads is not None and threads < 1:
        raise DeployError(
            f"cannot compute with {threads} threads", expected="1 or more", found=threads, fix="Pass 1 or more threads."
        )
    if engine != "auto":
        _check_engine(engine, precision, device)
    checks.require_network(model, on_cpu=device.type == "cpu")
    if not checks.are_images(example, device) or not len(example):
        raise DeployError(
            "the example is not a batch of images",
            expected=f"floating-point images (N, C, H, W) {checks.places(device)}",
            found=checks.describe(example),
            where="example",
            fix="Preprocess the images and stack them.",
        )
    if not example.isfinite().all():
        raise DeployError(
            "the example holds NaN or infinity",
            expected="finite numbers",
            found="NaN or infinity",
            where="example",
            fix="Check the preprocessing.",
        )


def _check_engine(name: str, precision: str, device: torch.device) -> None:
    engine = ENGINES[name]
    if not engine.knows(device):
        able = [other for other, one in ENGINES.items() if one.knows(device)]
        raise DeployError(
            f"{name} does not have the device {device}",
            expected=f"cpu{''.join(f' or {kind}' for kind in engine.device_types or ())}",
            found=device,
            where="device",
            fix=f"These engines do: {', '.join(able)}.",
        )
    if precision not in engine.precisions_on(device):
        raise DeployError(
            f"{name} knows no {precision}{_on(device)}",
            expected=", ".join(engine.precisions_on(device)),
            found=precision,
            where="precision",
            fix=_able(precision, device),
        )
    checks.require(engine.packages(precision), f"engine {name}")
    if not engine.has(device):
        raise DeployError(
            f"{name} does not have the device {device}",
            expected=f"a build or plug-in of {name} for {device.type}",
            found="the CPU alone",
            where="device",
            fix="Install it, or take the engine torch.",
        )


def _able(precision: str, device: torch.device) -> str:
    """Which engines have a precision, on the device or else on others."""

    def names(place: torch.device) -> str:
        return ", ".join(name for name, engine in ENGINES.items() if precision in engine.precisions_on(place))

    if here := names(device):
        return f"These do: {here}."
    others = {kind: names(torch.device(kind)) for kind in ("cpu", "cuda", "xpu", "mps")}
    return f"On other devices these do: {'; '.join(f'{found} on {kind}' for kind, found in others.items() if found)}."

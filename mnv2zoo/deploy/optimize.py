"""Runs a model on the fastest engine of this machine, and compares its outputs with PyTorch's."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import pickle
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
from mnv2zoo.errors import DeployError, nearest, unknown
from mnv2zoo.models.pretrained import find_device
from mnv2zoo.models.timm_compat import pytree
from mnv2zoo.runtimes.cache import Cache, versions
from mnv2zoo.runtimes.runners import Parts, PerProcess, require_near
from mnv2zoo.runtimes.timing import milliseconds

EngineName = Literal["auto", "torch", "inductor", "onnxruntime", "openvino"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
# Engines whose times differ by less count as equally fast. Directly after an operation of PyTorch, ONNX Runtime, which
# spins, takes 1.5 times as long or more (benchmarks/engines.py).
AS_FAST = 1.05
# The percentage of boxes in the example that an engine must match in fp32. A few may differ, because rounding decides
# which of two boxes with nearly equal scores suppresses the other.
SAME_BOXES = 98
NEARLY_SAME = (0.9, 0.02)  # IoU and score difference of boxes that a device and the CPU compute from the same outputs
COMPARED = 16  # number of example images on which a device is compared with the CPU


@dataclass(frozen=True)
class Attempt:
    """The result of trying an engine.

    Attributes:
        engine: Its name.
        milliseconds: Median time for the example; None if it was not timed.
        error: Distance of its outputs from the original's, relative to their norm; None if it did not run.
        verdict: `chosen`, `as fast`, by how many percent it was slower than the chosen engine, or why it was skipped.
    """

    engine: str
    milliseconds: float | None
    error: float | None
    verdict: str


class Optimized:
    """A model on an engine: a function from images (N, C, H, W) to the model's outputs.

    N can be any number; C, H and W must match the example. Objects can be pickled, copied and used in forked
    processes. Each process starts its own engine on the first call. It does not compile or export the model again,
    except for `inductor`.

    Attributes:
        engine: The engine's name.
        precision: `fp32`, `fp16`, `bf16` or `int8`.
        device: The device of the computation and of the outputs.
        max_abs_error: Largest absolute difference of an output from the original's on the example.
        agreement: For int8, the agreement with the original on the calibration images in percent. For a classifier:
            images with the same top class. For a segmenter: pixels with the same class. For a detector: boxes with a
            score of at least 0.3 that the other model matches with the same class and an IoU of at least 0.5. None for
            other models and precisions.
        accuracy: For int8, top-1 accuracy on the calibration images before and after, in percent. None if the classes
            of the images are unknown: without labels or class folders, if a folder name is not a class of the model, or
            if the model has no class names. Accuracy on other images may be slightly lower, because the quantization
            ranges were measured on these images.
        tried: The engines that were tried, with their results.

    Args:
        runner: The engine, a function from images (N, C, H, W) to a flat list of outputs.
        engine: The engine's name.
        precision: As the attribute.
        example: Images (N, C, H, W) with the shape of the input, except for N.
        expected: The original's outputs for the example.
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
        """Runs the model.

        Args:
            x: Preprocessed images (N, C, H, W) of floating-point numbers.

        Returns:
            The model's outputs on the engine's device: logits, or an ordered dict of feature maps.

        Raises:
            DeployError: If C, H and W differ from the example's, the images are neither on the engine's device nor on
                the CPU, or a forked process cannot use the device.
        """
        if not checks.are_images(x, self.device) or tuple(x.shape[1:]) != self._shape:
            raise DeployError(
                "the shape of the images differs from the example's",
                expected="floating-point ({}) {}".format(
                    ", ".join(["N", *map(str, self._shape)]), checks.places(self.device)
                ),
                found=checks.describe(x),
                fix="Call optimize again with an example of that shape.",
            )
        if len(x):
            outputs = fork_safe(lambda: self._runner(x.detach()))
        else:
            outputs = [torch.empty(0, *shape, dtype=dtype, device=self.device) for shape, dtype in self._outputs]
        return pytree.tree_unflatten(outputs, self._structure)

    def __reduce__(self) -> tuple[Any, ...]:
        # As bytes, because PyTorch would use one open file per tensor to pass hundreds of them to another process.
        return _restored, (type(self), pickle.dumps(vars(self)))

    def __repr__(self) -> str:
        place = "" if self.device.type == "cpu" else f"{self.device}, "
        return f"Optimized({self.engine}, {self.precision}, {place}max_abs_error={self.max_abs_error:.2g})"


def _restored(kind: type[Optimized], state: bytes) -> Optimized:
    fast = kind.__new__(kind)
    vars(fast).update(pickle.loads(state))
    return fast


class OptimizedDetector(Optimized):
    """A detector whose core runs on an engine. Its post-processing is torchvision's, in PyTorch.

    Inputs and outputs are the detector's: images from 0 to 1, and boxes. Images can have any size, as long as the
    detector's transform resizes them to the example's size or less.

    Attributes:
        core: The backbone and heads on their engine, from normalized images to raw outputs.
        split: The detector in its parts.
        max_abs_error: Largest absolute difference of a raw output of the core from the original's on the example.

    Args:
        core: The core on its engine.
        split: The detector in its parts.
    """

    def __init__(self, core: Optimized, split: Split) -> None:
        vars(self).update(vars(core))
        self.core, self.split = core, split

    def __call__(self, x: Tensor | Sequence[Tensor]) -> Detections:
        """Detects objects.

        Args:
            x: Images (N, 3, h, w) from 0 to 1, or a list of images (3, h, w).

        Returns:
            `boxes` (n, 4) in pixels of the given image, `labels` (n,) and `scores` (n,) for each image.

        Raises:
            DeployError: If `x` does not contain images, or they are larger than the example after the detector has
                resized them.
        """
        listed = isinstance(x, list | tuple) and all(checks.is_image(one, self.device) for one in x)
        if not listed and not checks.are_images(x, self.device):
            where = checks.places(self.device)
            raise DeployError(
                "the input of the detector is not a batch or list of images",
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
        # The steps around the core are small. With more threads, PyTorch waits for cores on which the engine's threads
        # still spin after each call, which took ten times as long. Faster R-CNN's second stage is large.
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
    cache: str | Path | Cache | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    device: str | torch.device | None = None,
) -> Optimized:
    """Speeds up inference on this machine's CPU or GPU.

    Batch norms are folded into convolutions, and the model runs on an inference engine. The outputs on the example are
    compared with the original model's. On a GPU, the first 16 images of the example are compared with the model on the
    CPU in single precision.

    The post-processing of a detector is not part of the engine. It remains torchvision's, in PyTorch: box decoding and
    non-maximum suppression for `SSD` and `RetinaNet`, and everything after the head of the proposal network for
    `FasterRCNN`. The engine's raw outputs are compared with the model's, and in fp32 the boxes too.

    Args:
        model: A model in evaluation mode: a classifier, a feature extractor, taps, a segmenter or a detector. With
            `device`, it can be on any device. It is not changed.
        example: Representative images (N, C, H, W), with the batch size to optimize for. Pass preprocessed images, or
            images from 0 to 1 for a detector.
        engine: The inference engine:

            - `torch` needs no other package.
            - `inductor` compiles for about a minute and needs a C++ compiler.
            - `onnxruntime` and `openvino` are installed by the extra `deploy`.
            - `auto` times all installed engines except `inductor`, and picks the fastest.

            On a GPU, `torch` and `inductor` replay CUDA graphs if PyTorch supports them. `inductor` then times several
            kernels per layer (`max_autotune`), which takes minutes, and computes in batches of the example's size.
            `onnxruntime` needs `onnxruntime-gpu`, and `openvino` an Intel GPU. Both are untested on GPUs.
        precision: `fp32`, `fp16` (on a GPU), `bf16` (on CPUs and GPUs with hardware support), or `int8`, quantized with
            NNCF, for `onnxruntime` on the CPU and `openvino` on the CPU and Intel GPUs. On NVIDIA GPUs, `fp32` follows
            PyTorch's settings, which are not changed. By default convolutions use TF32
            (`torch.backends.cudnn.allow_tf32`) and matrix multiplications do not
            (`torch.set_float32_matmul_precision`). `inductor` computes 1x1 convolutions as matrix multiplications.
        calibration: For `int8`, a few hundred representative images: preprocessed (n, C, H, W), as a tensor or numpy
            array, a `Dataset`, or a folder. Also an iterable of batches, or of pairs of a batch and its labels, such as
            a `DataLoader`. The first 300 images of an iterable are used. With labels, or with one folder per class, the
            accuracy is measured too.
        threads: Number of threads on the CPU. By default, PyTorch's number of threads.
        cache: A folder or an open cache for compiled `onnxruntime` and `openvino` models. An entry is used only for the
            same weights, settings, image size, calibration images, versions and CPU, and after its SHA-256 and its
            outputs have been checked. Otherwise it is rebuilt. A folder that other users can write to is rejected. You
            can delete the folder at any time. By default, nothing is cached.
        preprocessing: The preprocessing of a calibration folder for a segmenter or a detector, as for `export`. By
            default, a detector's own.
        device: The device, such as `cuda:1`, `xpu` or `mps`. By default, the CPU. Inputs can be on the device or the
            CPU; outputs are on the device. On `cuda`, each of the first 8 batch sizes gets a CUDA graph, which is
            recorded at the first call. Other batch sizes run without one.

    Returns:
        The optimized model as a function. It is thread-safe, which is untested for `inductor` on the CPU. A detector
        also accepts a list of images (3, h, w).

    Raises:
        DeployError: If the model or the example is not supported, the engine does not support the precision or the
            device, the outputs differ by more than the precision explains, or the cache cannot be used.
        DeviceError: If the device cannot be used.
        ImageReadError: If the calibration folder contains no images, or an image cannot be read.
        MissingExtraError: If the engine is not installed.

    Examples:
        >>> import timm, torch, mnv2zoo
        >>> model = timm.create_model("mnv2zoo_035").eval()
        >>> images = torch.rand(2, 3, 64, 64)
        >>> fast = mnv2zoo.deploy.optimize(model, images, engine="torch")
        >>> fast(images).shape, fast.max_abs_error < 1e-3
        (torch.Size([2, 1000]), True)
    """
    with torch.inference_mode(False):  # tensors from inference mode could not be used outside of it
        where = _place(device)
        _check(model, example, engine, precision, calibration, threads, where)
        if where.type != "cpu":
            model, example = _on_cpu(model), example.detach().cpu()
        threads = threads or torch.get_num_threads()
        images = prepare(calibration, model, example, preprocessing) if calibration is not None else None
        kept = cache if isinstance(cache, Cache) else Cache(Path(cache) if cache is not None else None)
        entries = _keyed(kept, model, example, images.fingerprint if images else "")
        return _optimized(model, example, engine, Goal(precision, threads, where), images, entries)


def _keyed(cache: Cache, model: nn.Module, example: Tensor, calibration: str) -> Cache:
    """The cache with a key for this model."""
    if cache.folder is None:
        return cache
    try:
        return replace(cache, key={**cache.key, **cache_key(model, example, calibration)})
    except DeployError:
        if cache.optional:
            return Cache()
        raise


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
    """The requirements on an engine.

    Attributes:
        precision: The precision.
        threads: Number of threads on the CPU.
        device: The device.
        expected: The original's outputs for the example, or for its first images if `device` is not the CPU.
    """

    precision: str
    threads: int
    device: torch.device
    expected: Any = None


def _place(device: str | torch.device | None) -> torch.device:
    """The device with its index, as tensors name it."""
    if device is None:
        return checks.CPU
    return torch.empty(0, device=find_device(str(device))).device


def _on_cpu(model: nn.Module) -> nn.Module:
    """The model, or a copy of it on the CPU if any part is on another device."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return model if all(tensor.device.type == "cpu" for tensor in tensors) else copy.deepcopy(model).cpu()


def _fed(calibration: Calibration | None, split: Split | None) -> Calibration | None:
    """Calibration images in the form of the engine's inputs."""
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
    """Prepares the files from which a runtime starts without PyTorch, with an example to check its outputs.

    Args:
        model: A zoo classifier in evaluation mode.
        input_size: Channels, height and width of its images.
        engine: `onnxruntime` or `openvino`.
        precision: As for `optimize`.
        calibration: Folder of images for `int8`.

    Returns:
        The engine's files; images (2, *input_size) as `example`, and the model's outputs for them as `expected`, both
        as bytes of float32.

    Raises:
        DeployError: As `optimize`.
        ImageReadError: As `optimize`.
        MissingExtraError: As `optimize`.
    """
    example = torch.randn(2, *input_size, generator=torch.Generator().manual_seed(0))
    _check(model, example, engine, precision, calibration, None, checks.CPU)
    images = prepare(calibration, model, example) if calibration is not None else None
    if images:
        example = images.images[:2]  # in the range of the quantization
    make = ENGINES[engine].prepare
    assert make is not None  # not None for engines with their own runtime
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
            "the model raised an error for the example",
            expected="an example that the model accepts",
            found=f"{type(error).__name__}: {checks.first_line(error)}",
            where=f"an example {checks.describe(example)}",
            fix="Pass an example with the channels, height and width that the model accepts.",
        ) from error
    leaves, structure = pytree.tree_flatten(expected)
    rows = all(isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == len(example) for leaf in leaves)
    if not leaves or not rows or pytree.tree_structure(twice) != structure:
        raise DeployError(
            f"this {type(model).__name__} model cannot be optimized, "
            "because its outputs are not tensors with one row per image",
            expected="a classifier, a feature extractor, taps, a segmenter or a detector",
            found=type(model).__name__,
            where="model",
            fix="Optimize its backbone, such as `model.backbone`, or run the model in PyTorch.",
        )
    return expected


def _measure_agreement(optimized: Optimized, model: nn.Module, calibration: Calibration, cache: Cache) -> None:
    """Sets the agreement of a quantized model with the original, and the accuracies if labels are known."""
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
    """Checks that a detector in fp32 finds the same boxes in the example as the original."""
    with torch.inference_mode():
        share = agreement.matched(optimized(example), fork_safe(lambda: model(list(example))))
    if share < SAME_BOXES:  # NaN, where there are no boxes, is not less
        raise DeployError(
            f"the boxes of the engine {optimized.engine} differ from the detector's",
            expected=f"{SAME_BOXES} % of the boxes with an IoU of {agreement.IOU} and a score within {agreement.SCORE}",
            found=f"{share:.1f} %",
            fix="Choose another engine, and please report this as a bug.",
        )


def _require_same_post_processing(optimized: OptimizedDetector, split: Split, example: Tensor) -> None:
    """Checks that a device computes the same boxes from the same raw outputs as the CPU.

    The raw outputs have already been compared. This function does not compare the boxes of two cores, because rounding
    differences can decide which box suppresses another.
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
            f"the boxes on {optimized.device} differ from those on the CPU",
            expected=f"{SAME_BOXES} % of the boxes with an IoU of {NEARLY_SAME[0]} and a score within {NEARLY_SAME[1]}",
            found=f"{share:.1f} %",
            fix="Run the detector in PyTorch, and please report this as a bug.",
        )


def _engine_key(engine: str, precision: str) -> dict[str, str]:
    """The part of the cache key that differs between engines."""
    return {"engine": engine, "precision": precision, **versions(ENGINES[engine].packages(precision))}


def _fastest(source: Source, goal: Goal, cache: Cache) -> Optimized:
    started: dict[str, Optimized] = {}
    attempts: dict[str, Attempt] = {}

    def failed(name: str, failure: Exception) -> None:
        other = f"{type(failure).__name__}: {checks.first_line(failure)}"
        reason = failure.summary if isinstance(failure, DeployError) else other
        attempts[name] = Attempt(name, None, None, reason)

    for name in ENGINES:
        if reason := _reason_to_skip(name, goal):
            attempts[name] = Attempt(name, None, None, reason)
            continue
        try:
            started[name], error = _build(name, source, goal, cache)
            attempts[name] = Attempt(name, None, error, "")
        except Exception as failure:  # runtimes raise many kinds of errors, and another engine may work
            failed(name, failure)
    example = source.example.to(goal.device)
    runs = {name: functools.partial(_finished, run, example) for name, run in started.items()}
    times = milliseconds(runs, failed)
    if not times:
        reasons = "; ".join(f"{attempt.engine}: {attempt.verdict}" for attempt in attempts.values())
        raise DeployError(
            "no engine can run the model",
            expected="at least one engine that runs the model",
            found=reasons,
            fix="Pass the name of an engine to see its full error.",
        )
    chosen = _preferred(times)
    for name, own in times.items():
        percent = 100 * (own / times[chosen] - 1)
        verdict = "chosen" if name == chosen else f"slower by {percent:.0f} %" if percent > 0 else "as fast"
        attempts[name] = replace(attempts[name], milliseconds=own, verdict=verdict)
    started[chosen].tried = tuple(attempts.values())
    return started[chosen]


def _preferred(times: Mapping[str, float]) -> str:
    """The fastest engine, or one that is about as fast and whose idle threads leave the cores to others."""
    near = [name for name, own in times.items() if own <= AS_FAST * min(times.values())]
    return min(near, key=lambda name: (ENGINES[name].spins, times[name]))


def _finished(run: Callable[[Tensor], Any], example: Tensor) -> None:
    """Runs a model, and waits until its device has finished."""
    outputs = run(example)
    if example.device.type != "cpu":
        pytree.tree_leaves(outputs)[0].flatten()[:1].cpu()


def _reason_to_skip(name: str, goal: Goal) -> str:
    """Why `auto` skips an engine; empty if it does not."""
    engine = ENGINES[name]
    if not engine.knows(goal.device):
        return f"does not support the device {goal.device}"
    if goal.precision not in engine.precisions_on(goal.device):
        return f"does not support {goal.precision}{_on(goal.device)}"
    if missing := checks.missing(engine.packages(goal.precision)):
        return f"not installed: {', '.join(missing)}"
    if not engine.has(goal.device):
        return f"does not support the device {goal.device}"
    if engine.slow_to_compile:
        return "compiles for a minute; pass its name to use it"
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
                unknown(what, str(value), known),
                expected=nearest(str(value), known, 4),
                found=repr(value),
                fix=f"Choose one of {', '.join(known)}.",
            )
    if (precision == "int8") != (calibration is not None):
        given = "no calibration images" if calibration is None else "calibration images"
        raise DeployError(
            "the precision int8 requires calibration images"
            if calibration is None
            else f"the precision {precision} does not use calibration images",
            expected="calibration images if and only if the precision is int8",
            found=f"precision {precision} with {given}",
            where="precision",
            fix="Pass calibration= with a few hundred representative images."
            if calibration is None
            else "Leave out calibration=, or choose int8.",
        )
    if threads is not None and threads < 1:
        raise DeployError(
            f"{threads} is not a valid number of threads",
            expected="1 or more",
            found=threads,
            fix="Pass 1 or more threads.",
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
            "the example contains NaN or infinity",
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
            f"the engine {name} does not support the device {device}",
            expected=f"cpu{''.join(f' or {kind}' for kind in engine.device_types or ())}",
            found=device,
            where="device",
            fix=f"Engines that support it: {', '.join(able)}.",
        )
    if precision not in engine.precisions_on(device):
        raise DeployError(
            f"the engine {name} does not support {precision}{_on(device)}",
            expected=", ".join(engine.precisions_on(device)),
            found=precision,
            where="precision",
            fix=_able(precision, device),
        )
    checks.require(engine.packages(precision), f"engine {name}")
    if not engine.has(device):
        raise DeployError(
            f"the installed {name} does not support the device {device}",
            expected=f"a build or plug-in of {name} for {device.type}",
            found="support for the CPU only",
            where="device",
            fix="Install such a build, or choose the engine torch.",
        )


def _able(precision: str, device: torch.device) -> str:
    """Lists the engines that support a precision, on this device or else on others."""

    def names(place: torch.device) -> str:
        return ", ".join(name for name, engine in ENGINES.items() if precision in engine.precisions_on(place))

    if here := names(device):
        return f"Engines that support it: {here}."
    others = {kind: names(torch.device(kind)) for kind in ("cpu", "cuda", "xpu", "mps")}
    able = "; ".join(f"{found} on {kind}" for kind, found in others.items() if found)
    return f"Engines that support it on other devices: {able}."

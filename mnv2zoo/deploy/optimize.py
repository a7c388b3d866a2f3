"""Runs a model on the fastest engine of this machine, and checks its outputs against PyTorch's."""

from __future__ import annotations

import functools
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
from mnv2zoo.deploy.engines import ENGINES, Plan, Runner, Source, fork_safe, torch_threads
from mnv2zoo.deploy.fingerprint import cache_key
from mnv2zoo.deploy.fold import fold
from mnv2zoo.errors import DeployError, nearest
from mnv2zoo.models.timm_compat import pytree
from mnv2zoo.runtimes.cache import Cache, versions
from mnv2zoo.runtimes.runners import Parts, PerProcess, require_near

EngineName = Literal["auto", "torch", "inductor", "onnxruntime", "openvino"]
Precision = Literal["fp32", "bf16", "int8"]
TIMED_SECONDS, TIMED_RUNS = 0.5, 20  # how long `auto` times an engine, whichever ends first
# Boxes of the example, in percent, that an engine has to find in fp32. Rounding decides which of two boxes with nearly
# the same score suppresses the other, so a few may differ.
SAME_BOXES = 98


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
        precision: `fp32`, `bf16` or `int8`.
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
        precision: `fp32`, `bf16` or `int8`.
        example: Images (N, C, H, W), whose shape but for N the network takes.
        expected: What the original gives for the example.
    """

    def __init__(self, runner: Runner, engine: str, precision: str, example: Tensor, expected: Any) -> None:
        self.engine, self.precision = engine, precision
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
            What the network gives: logits, or an ordered dict of maps; on the CPU.

        Raises:
            DeployError: If the shape is another than the example's but for N.
        """
        if not checks.are_images(x) or tuple(x.shape[1:]) != self._shape:
            raise DeployError(
                "the images have another shape than the example",
                expected="floating-point (N, {}, {}, {}) on the CPU".format(*self._shape),
                found=checks.describe(x),
                fix="Optimize again with an example of that shape.",
            )
        if len(x):
            outputs = fork_safe(lambda: self._runner(x.detach().float()))
        else:
            outputs = [torch.empty(0, *shape, dtype=dtype) for shape, dtype in self._outputs]
        return pytree.tree_unflatten(outputs, self._structure)

    def __reduce__(self) -> tuple[Any, ...]:
        # As bytes: PyTorch would pass each of hundreds of tensors to another process by an open file of its own.
        return _restored, (type(self), pickle.dumps(vars(self)))

    def __repr__(self) -> str:
        return f"Optimized({self.engine}, {self.precision}, max_abs_error={self.max_abs_error:.2g})"


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
        if not checks.are_images(x) and not (isinstance(x, list | tuple) and all(checks.is_image(one) for one in x)):
            raise DeployError(
                "these are no images for a detector",
                expected="floating-point images (N, 3, h, w) on the CPU, or a list of such images (3, h, w)",
                found=checks.describe(x),
                fix="Pass images from 0 to 1.",
            )
        if not len(x):
            return []
        with torch.inference_mode():
            return fork_safe(lambda: self._run(x))

    def _run(self, x: Tensor | Sequence[Tensor]) -> Detections:
        # The steps around the core are small. With more threads PyTorch waits for cores on which the engine's threads
        # still spin after each call; that took ten times as long. Faster R-CNN's second stage is large.
        number = torch.get_num_threads() if self.split.core.two_stages else 1
        with torch_threads(number):
            images, sizes = self.split.prepare(x)
        outputs = self.core(images)
        originals = [(image.shape[-2], image.shape[-1]) for image in x]
        with torch_threads(number):
            return self.split.detections(outputs, sizes, originals)


def optimize(
    model: nn.Module,
    example: Tensor,
    engine: EngineName = "auto",
    precision: Precision = "fp32",
    calibration: Images | None = None,
    threads: int | None = None,
    cache: str | Path | None = None,
    preprocessing: Mapping[str, Any] | None = None,
) -> Optimized:
    """Makes a model fast on this machine's CPU.

    Batch norms are folded into convolutions, and the engine does the rest. Its outputs on the example are compared
    with the model's.

    The engine runs all of a model but the post-processing of a detector, which stays torchvision's, in PyTorch: for
    `SSD` and `RetinaNet` the decoding of boxes and non-maximum suppression, for `FasterRCNN` all that follows the
    head of the proposal network. The engine's raw outputs are compared with the model's, and in fp32 the boxes too.

    Args:
        model: A model in evaluation mode: a classifier, a feature extractor, taps, a segmenter or a detector.
        example: Images (N, C, H, W) like those it will see, with the batch size to be fast at; for a detector from 0
            to 1, and otherwise preprocessed.
        engine: `torch` needs no other package. `inductor` compiles for a minute, with a C++ compiler. `onnxruntime` and
            `openvino` come with the extra `deploy`. `auto` times all installed ones but `inductor`, and picks the
            fastest.
        precision: `fp32`; `bf16`, for CPUs that can multiply it; or `int8`, for which NNCF quantizes.
        calibration: For `int8`, a few hundred representative images: preprocessed (n, C, H, W), as a tensor or numpy
            array; an iterable of such batches, or of pairs of a batch and its labels, such as a `DataLoader`, of which
            the first 300 images are used; a `Dataset`; or a folder. With labels, or with one folder per class, the
            accuracy is reported too.
        threads: Number of threads; PyTorch's by default.
        cache: A folder in which to cache what `onnxruntime` and `openvino` start from. An entry is used only for the
            same weights, settings, image size, calibration images, versions and CPU, after its SHA-256 and its outputs
            were checked; otherwise it is rebuilt. A folder that other users may write is refused. You may delete it at
            any time.
        preprocessing: How a segmenter's or a detector's calibration folder is read, as for `export`; a detector has
            its own by default.

    Returns:
        The model as a function, which several threads may call at once (not tested for `inductor`). A detector also
        takes a list of images (3, h, w).

    Raises:
        DeployError: If the model or the example is unfit, the engine does not support the precision, the outputs
            differ by more than the precision explains, or the cache cannot be used.
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
    _check(model, example, engine, precision, calibration, threads)
    threads = threads or torch.get_num_threads()
    images = prepare(calibration, model, example, preprocessing) if calibration is not None else None
    entries = Cache()
    if cache is not None:
        entries = Cache(Path(cache), cache_key(model, example, images.fingerprint if images else ""))
    split = Split(model, example) if is_detector(model) else None
    network, fed = (split.core, split.prepare(example)[0]) if split else (model, example)
    expected = _expected(network, fed)
    source = Source(fold(network), fed, _fed(images, split))
    if engine == "auto":
        optimized = _fastest(source, precision, threads, expected, entries)
    else:
        optimized, _ = _build(engine, source, precision, threads, expected, entries)
    if split:
        optimized = OptimizedDetector(optimized, split)
        if precision == "fp32":
            _require_same_boxes(optimized, model, example)
    if images and (split or agreement.decided_by(expected, example) is not None):
        _measure_agreement(optimized, model, images, entries)
    return optimized


def _fed(calibration: Calibration | None, split: Split | None) -> Calibration | None:
    """Calibration images as the engine gets them."""
    if calibration is None or split is None:
        return calibration
    return replace(calibration, read=lambda: split.prepare(calibration.images)[0])


def for_runtime(
    model: nn.Module, side: int, engine: str, precision: str, calibration: str | Path | None = None
) -> Parts:
    """Makes what a runtime starts from without PyTorch, and what its outputs are checked with.

    Args:
        model: A zoo classifier in evaluation mode.
        side: Height and width of its images.
        engine: `onnxruntime` or `openvino`.
        precision: As for `optimize`.
        calibration: Folder of images for `int8`.

    Returns:
        What the engine starts from; images (2, 3, side, side) as `example`, and the model's outputs for them
        as `expected`, both as bytes of float32.

    Raises:
        DeployError: As `optimize`.
        ImageReadError: As `optimize`.
        MissingExtraError: As `optimize`.
    """
    example = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    _check(model, example, engine, precision, calibration, None)
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

    def measure() -> Parts:
        found = agreement.measure(original, optimized, calibration.images, calibration.classes)
        return {"json": json.dumps(found).encode()}

    key = {**_engine_key(optimized.engine, optimized.precision), "entry": "agreement"}
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


def _engine_key(engine: str, precision: str) -> dict[str, str]:
    """The part of the cache key that differs between the engines of a model."""
    return {"engine": engine, "precision": precision, **versions(ENGINES[engine].packages(precision))}


def _fastest(source: Source, precision: str, threads: int, expected: Any, cache: Cache) -> Optimized:
    best: Optimized | None = None
    attempts: dict[str, Attempt] = {}
    for name in ENGINES:
        if reason := _reason_to_skip(name, precision):
            attempts[name] = Attempt(name, None, None, reason)
            continue
        try:
            optimized, error = _build(name, source, precision, threads, expected, cache)
            attempts[name] = Attempt(name, _milliseconds(optimized, source.example), error, "slower")
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


def _reason_to_skip(name: str, precision: str) -> str:
    """Why `auto` skips an engine; empty if it does not."""
    engine = ENGINES[name]
    if precision not in engine.precisions:
        return f"knows no {precision}"
    if missing := checks.missing(engine.packages(precision)):
        return f"not installed: {', '.join(missing)}"
    if engine.slow_to_compile:
        return "compiles for a minute; ask for it by name"
    return ""


def _build(
    name: str, source: Source, precision: str, threads: int, expected: Any, cache: Cache
) -> tuple[Optimized, float]:
    """Starts a model on an engine, and returns it with the relative error of its outputs."""
    engine = ENGINES[name]

    def start(parts: Parts) -> tuple[Optimized, float]:
        network = source.own(precision) if engine.prepare is None else None
        plan = Plan(network, parts, tuple(source.example.shape), precision, threads)
        runner = PerProcess(functools.partial(engine.start, plan))
        optimized = Optimized(runner, name, precision, source.example, expected)
        outputs = runner(source.example.float())
        error, optimized.max_abs_error = checks.distances(outputs, pytree.tree_leaves(expected))
        require_near(name, precision, error)
        return optimized, error

    if engine.prepare is None:
        return start({})
    return cache.fetch(_engine_key(name, precision), functools.partial(engine.prepare, source, precision), start)


def _milliseconds(run: Callable[[Tensor], Any], example: Tensor) -> float:
    """Median time of a run, after the one that checked it."""
    times: list[float] = []
    while len(times) < TIMED_RUNS and (sum(times) < TIMED_SECONDS or len(times) < 3):
        started = time.perf_counter()
        run(example)
        times.append(time.perf_counter() - started)
    return 1000 * sorted(times)[len(times) // 2]


def _check(
    model: nn.Module, example: Tensor, engine: str, precision: str, calibration: object, threads: int | None
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
        if precision not in ENGINES[engine].precisions:
            able = [name for name, other in ENGINES.items() if precision in other.precisions]
            raise DeployError(f"{engine} knows no {precision}", fix=f"These do: {', '.join(able)}.")
        checks.require(ENGINES[engine].packages(precision), f"engine {engine}")
    checks.require_network(model)
    if not checks.are_images(example) or not len(example):
        raise DeployError(
            "the example is not a batch of images",
            expected="floating-point images (N, C, H, W) on the CPU",
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

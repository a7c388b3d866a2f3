"""Loads models that run batches of images, with PyTorch or on a runtime alone.

Importing PyTorch and timm takes as long as classifying hundreds of images. A `RuntimeSession` needs neither. A runtime
starts from a graph in ONNX. `runtimes.mobilenetv2` writes it from the verified tensors. Other models are exported once,
with PyTorch, and cached.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import platform
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from mnv2zoo.convert.fit import as_built
from mnv2zoo.data import discover
from mnv2zoo.data.preprocessing import Exact, Fast, Preprocessing, Whole
from mnv2zoo.errors import DeployError, MissingExtraError, ZooError, one_line
from mnv2zoo.models import names
from mnv2zoo.models.names import Description
from mnv2zoo.runtimes.cache import Cache, versions
from mnv2zoo.runtimes.mobilenetv2 import Classifier
from mnv2zoo.runtimes.runners import CALIBRATED, RUNTIMES, Array, Parts, PerProcess, Runner, cores, require_near
from mnv2zoo.runtimes.timing import milliseconds
from mnv2zoo.system import accelerators, posix
from mnv2zoo.system.files import MAX_BYTES, read_all
from mnv2zoo.tasks import Task
from mnv2zoo.version import __version__
from mnv2zoo.weights import store
from mnv2zoo.weights.schema import WeightsEntry

if TYPE_CHECKING:
    import torch

    from mnv2zoo.deploy.optimize import EngineName, Precision
    from mnv2zoo.models.pretrained import Network

# How `predict` chooses an engine by the number of images. `benchmarks/folder.py` measured the times on two cores.
FEW = 10  # up to so many images are preprocessed as in timm, bit for bit, on the runtime that starts fastest
TIMED_FROM = 256  # timing the installed runtimes takes a second, as long as 250 images
# An export takes 9.4 s, and a runtime then saves 5.9 ms per image over PyTorch. A model is exported once its images,
# over all jobs, have cost that much on PyTorch: small jobs do not wait, and many of them pay for the export once.
EXPORT_FROM = 1600
LOOK_AHEAD = EXPORT_FROM  # further images are not counted
STARTS_FIRST: Final = ("onnxruntime", "openvino")
RUNS_FASTEST: Final = ("openvino", "onnxruntime")
TIMED_BATCH, TIMED_ROUNDS = 8, 3  # enough to fill the cores, and little compared with a long job

# Arguments of a model that the graph takes into account, and those that do not affect predictions.
WRITTEN = ("pad_type", "in_chans", "num_classes", "classifier", "output_stride", "bn_eps")
TRAINING_ONLY = ("bn_momentum", "drop_rate", "drop_path_rate")


class Session(Protocol):
    """A loaded model.

    Attributes:
        name: As in `names.Description`.
        engine: Name of its engine.
        preprocessing: The preprocessing of its images.
        label_names: Names of its outputs.
        temperature: Softmax temperature; None for no temperature.
    """

    @property
    def name(self) -> str: ...  # noqa: D102  # an attribute

    @property
    def engine(self) -> str: ...  # noqa: D102

    @property
    def preprocessing(self) -> Preprocessing: ...  # noqa: D102

    @property
    def label_names(self) -> Sequence[str]: ...  # noqa: D102

    @property
    def temperature(self) -> float | None: ...  # noqa: D102

    @property
    def fingerprint(self) -> str:
        """A hash of its weights."""

    def __call__(self, prepared: Sequence[Any]) -> Any:
        """Runs a batch.

        Args:
            prepared: The images, as `preprocessing.prepare` returns them.

        Returns:
            The outputs as NumPy arrays, such as logits (N, classes).

        Raises:
            DeployError: If the engine cannot run the model, or its outputs differ from the model's.
            MissingExtraError: If the engine is not installed.
        """


def start(
    task: Task,
    model: str,
    engine: EngineName | None = None,
    precision: Precision = "fp32",
    calibration: str | None = None,
    exact: bool = False,
    device: str | None = None,
    cache: Path | None = None,
    images: int | None = None,
) -> Session:
    """Loads a model.

    Args:
        task: The task, which loads its own models.
        model: Name of the model, as for `predict`.
        engine: As for `deploy.optimize`; None as for `predict`.
        precision: As for `deploy.optimize`.
        calibration: Folder of images for `int8`.
        exact: Preprocess images as in timm, bit for bit.
        device: The device; by default the CPU if an engine or a precision is given, and otherwise the accelerator
            if there is one.
        cache: Folder for compiled engines, as for `predict`; by default one under `MNV2ZOO_HOME`.
        images: Number of images of the job, counted up to `LOOK_AHEAD`, by which a runtime is chosen. None skips this
            choice.

    Returns:
        The loaded model. It runs without PyTorch if possible.

    Raises:
        DeviceError: If the device cannot be used.
        UnknownModelError: If no model has that name.
        WeightsError: If its weights cannot be found, downloaded or verified.
        DeployError: If the cache cannot be used.
    """
    few = images is not None and images <= FEW
    kept = Cache(cache) if cache else Cache.at_home()
    on_cpu = device == "cpu" or (device is None and (engine is not None or not accelerators.may_be_here()))
    if engine in (None, "auto") and precision == "fp32" and images is not None and task.loads_from_zoo and on_cpu:
        chosen = choose(model, images, exact, kept, timed=engine == "auto")
        if chosen is not None:
            return chosen
    if device is None and (engine is not None or precision != "fp32"):
        device = "cpu"  # as for `optimize`
    if engine is not None and engine in RUNTIMES and not exact and task.loads_from_zoo and device == "cpu":
        cached = load(model, engine, precision, calibration, kept, exact=few)
        if cached is not None:
            return cached
    network = task.load_model(model, device)
    on_torch = TorchSession(network, engine, precision, calibration, exact, kept, few)
    if images is not None and not few and not task.loads_from_zoo:
        on_torch.prefer_runtime(images)
    return on_torch


class TorchSession:
    """A model that runs in PyTorch, or on an engine that needs PyTorch to start.

    Args:
        network: The model.
        engine: As for `start`.
        precision: As for `start`.
        calibration: As for `start`.
        exact: Whether timm's own transforms preprocess the images.
        kept: The cache.
        few: Whether images are preprocessed bit for bit as in timm, by the fast code if possible.

    Attributes:
        name: As in `names.Description`.
        preprocessing: The preprocessing of its images.
        label_names: Names of its outputs.
        temperature: Softmax temperature; None for no temperature.
    """

    def __init__(
        self,
        network: Network,
        engine: EngineName | None = None,
        precision: Precision = "fp32",
        calibration: str | None = None,
        exact: bool = False,
        kept: Cache | None = None,
        few: bool = False,
    ) -> None:
        self.name, self.label_names, self.temperature = network.name, network.label_names, network.temperature
        fast = replace(network.fast, exact=True) if few and network.fast else network.fast
        if exact:  # the whole image needs its size, which timm's transforms do not keep
            fast = replace(fast, exact=True) if isinstance(fast, Whole) else None
        self.preprocessing: Preprocessing = fast or Exact(network.transform, network.config["input_size"][0])
        self._network, self._engine, self._precision = network, engine, precision
        self._calibration, self._kept = calibration, kept or Cache()
        eager = network.device.type != "cpu" and engine is None and precision == "fp32"
        self._run: Any = network.model if eager or self._sizes_differ() else None
        self._may_fail = False

    @property
    def engine(self) -> str:
        """Name of the engine."""
        return self._engine or "torch"

    def prefer_runtime(self, images: int) -> None:
        """Chooses an installed runtime instead of the default `torch`, if an export pays.

        If the runtime fails, the model runs on `torch`, with a warning.

        Args:
            images: Number of images of the job, counted up to `LOOK_AHEAD`.
        """
        engine: EngineName | None = next((name for name in RUNS_FASTEST if importlib.util.find_spec(name)), None)
        default = self._run is None and self._engine is None and self._precision == "fp32"
        if engine is None or not default or isinstance(self.preprocessing, Exact):
            return
        facts = {"model": self.name, "weights": self.fingerprint, **_versions([engine])}
        if _export_pays(facts, images, self._kept):
            self._engine, self._may_fail = engine, True

    def _sizes_differ(self) -> bool:
        """Whether the batch can contain images of different sizes, which only plain PyTorch supports."""
        if not (isinstance(self.preprocessing, Whole) and self.preprocessing.keep_ratio):
            return False
        if self._engine not in (None, "torch") or self._precision != "fp32":
            raise DeployError(
                f"the detector {self.name} takes images of different sizes, which engines do not support",
                expected="plain PyTorch in fp32, or a detector with the head ssdlite",
                found=f"engine {self._engine or 'torch'}, precision {self._precision}",
                where=self.name,
                fix="Leave out --engine and --precision.",
            )
        return True

    @property
    def fingerprint(self) -> str:
        """A hash of its weights, computed at each access."""
        return fingerprint(self._network.model)

    def __call__(self, prepared: Sequence[Any]) -> Any:
        """Runs a batch; see `Session`."""
        import torch

        from mnv2zoo.models.pretrained import enough_memory
        from mnv2zoo.tasks.tensors import in_single_precision, map_tensors

        device = self._network.device
        with enough_memory(device, len(prepared)):
            batch = self.preprocessing.batch(prepared, device)
            if self._run is None:
                self._run = self._optimized(batch)
            with torch.inference_mode():
                return map_tensors(lambda tensor: tensor.cpu().numpy(), in_single_precision(self._run(batch)))

    def _optimized(self, batch: Any) -> Any:
        from mnv2zoo.deploy import optimize

        engine = self._engine or "torch"
        # Engines that are chosen, compiled or recorded for a batch size need a whole batch. For others, one image is
        # enough to check the outputs.
        device = self._network.device
        example = batch if engine in ("auto", "inductor") or device.type != "cpu" else batch[:1]
        try:
            return optimize(
                self._network.model,
                example,
                engine,
                self._precision,
                calibration=self._calibration,
                cache=replace(self._kept, key={"name": self.name}) if engine in ("auto", *RUNTIMES) else None,
                preprocessing=self._seen(),
                device=device,
            )
        except Exception as error:  # runtimes raise nearly any exception
            if not self._may_fail:
                raise
            _warn(engine, error)
            self._engine, self._may_fail = "torch", False
            return self._optimized(batch)

    def _seen(self) -> dict[str, Any] | None:
        """Returns the preprocessing of calibration images for a segmenter; None for models that have their own."""
        how = self.preprocessing
        if not isinstance(how, Whole) or self._calibration is None:
            return None
        from mnv2zoo.deploy.detectors import is_detector

        if is_detector(self._network.model):
            return None
        names = ("mean", "std", "interpolation")
        return {"input_size": (3, how.height, how.width)} | {name: getattr(how, name) for name in names}


@dataclass(frozen=True)
class RuntimeSession:
    """A model that runs on a runtime, without PyTorch.

    Attributes:
        name: As in `names.Description`.
        preprocessing: The preprocessing of its images.
        label_names: Names of its outputs.
        fingerprint: A hash of its weights.
        run: Maps images (N, C, H, W) to outputs (N, K).
        engine: Name of the runtime.
        temperature: Softmax temperature; None for no temperature.
    """

    name: str
    preprocessing: Fast
    label_names: Sequence[str]
    fingerprint: str
    run: Callable[[Array], Array]
    engine: str = ""
    temperature: float | None = None

    def __call__(self, prepared: Sequence[bytes | Array]) -> Array:
        """Runs a batch; see `Session`."""
        return self.run(self.preprocessing.array(prepared))


def choose(model: str, images: int, exact: bool, kept: Cache, timed: bool = False) -> RuntimeSession | None:
    """Starts the best runtime for a number of images on this machine, in fp32.

    Args:
        model: Name of the model, as for `names.describe`.
        images: Number of images, counted up to `LOOK_AHEAD`.
        exact: Preprocess images as in timm, bit for bit. Always on for up to `FEW` images.
        kept: The cache.
        timed: Time the runtimes for any number of images.

    Returns:
        The session. None to use PyTorch instead, because no runtime is installed or works, or because exporting the
        model takes longer than it saves.

    Raises:
        UnknownModelError: If no model has that name.
        WeightsError: If its weights cannot be found, downloaded or verified.
    """
    few = images <= FEW
    engines = [engine for engine in RUNS_FASTEST if importlib.util.find_spec(engine)]
    found = _find(model) if engines else None
    if found is None:
        return None
    # Cached, because each engine asks, and a job counts once.
    pays = functools.cache(lambda: not few and _export_pays(_facts(found, engines), images, kept))
    start = partial(_load, found, kept=kept, exact=exact or few, several=not few, export=pays)
    if few and not timed:
        engines.sort(key=STARTS_FIRST.index)
    elif len(engines) > 1:
        engines = _by_speed(found, engines, start, kept, timed or images >= TIMED_FROM)
    return next(filter(None, (_started(engine, start) for engine in engines)), None)


def _export_pays(facts: Mapping[str, str], images: int, kept: Cache) -> bool:
    """Counts the images of a model that needs an export. Call it once per job of more than `FEW` images.

    Args:
        facts: The model, its weights, and the versions of the packages.
        images: Number of images of this job.
        kept: The cache.

    Returns:
        Whether the images of all jobs take PyTorch longer than the export saves.
    """
    return kept.add({**facts, "kept": "count", "engine": "torch", "precision": "fp32"}, images) >= EXPORT_FROM


def _started(engine: str, start: Callable[[str], RuntimeSession | None]) -> RuntimeSession | None:
    """Starts a runtime; None, with a warning, if it fails."""
    try:
        return start(engine)
    except Exception as error:  # runtimes raise nearly any exception
        _warn(engine, error)
        return None


def _warn(engine: str, error: Exception) -> None:
    """Warns that a runtime failed. Raises errors that have other reasons."""
    if isinstance(error, ZooError) and not isinstance(error, DeployError | MissingExtraError):
        raise error
    warnings.warn(f"the engine {engine} is not used: {one_line(error)}", stacklevel=3)


def _by_speed(
    found: _Found, engines: list[str], start: Callable[[str], RuntimeSession | None], kept: Cache, measure: bool
) -> list[str]:
    """Sorts engines by their cached times. Without cached times, they are timed if `measure` is set."""
    facts = {
        **_facts(found, engines),
        "kept": "choice",
        "engine": " ".join(engines),
        "precision": "fp32",
        "processor": f"{platform.machine()} {posix.cpu_info('model name')} {cores()}",
    }
    if not (measure or kept.has(facts)):
        return engines

    def time_them() -> Parts:
        started = {engine: session for engine in engines if (session := _started(engine, start)) is not None}
        if not (times := _milliseconds(started)):
            raise _ExportNeededError
        return {"json": json.dumps(times).encode()}

    try:
        times: dict[str, float] = kept.fetch(facts, time_them, lambda parts: json.loads(parts["json"]))
    except _ExportNeededError:
        return engines
    return sorted(times, key=times.__getitem__)


def _milliseconds(sessions: Mapping[str, RuntimeSession]) -> dict[str, float]:
    """Returns the median time of a batch on each engine that does not fail."""
    random = np.random.default_rng(0)
    batches = {
        name: random.standard_normal((TIMED_BATCH, *session.preprocessing.input_size), np.float32)
        for name, session in sessions.items()
    }
    runs = {name: partial(session.run, batches[name]) for name, session in sessions.items()}
    return milliseconds(runs, _warn, TIMED_ROUNDS)


class _ExportNeededError(Exception):
    """Raised when the model would have to be exported, which takes longer than it saves."""


def load(
    model: str,
    engine: str,
    precision: str = "fp32",
    calibration: str | None = None,
    kept: Cache | None = None,
    *,
    exact: bool = False,
) -> RuntimeSession | None:
    """Starts a runtime from the cache. Filling the cache takes a second, or a minute for `int8`.

    Args:
        model: Name of the model, as for `names.describe`.
        engine: As for `deploy.optimize`.
        precision: As for `deploy.optimize`.
        calibration: Folder of images for `int8`.
        kept: The cache. Default: the one in `MNV2ZOO_HOME`.
        exact: Preprocess images as in timm, bit for bit.

    Returns:
        The session. None if PyTorch is needed: for PyTorch's own engines, for weights without a pinned hash, and for
        preprocessing that only timm supports.

    Raises:
        UnknownModelError: If no model has that name.
        WeightsError: If its weights cannot be found, downloaded or verified.
        DeployError: If the engine cannot run the model, its outputs differ from the model's, or the cache cannot be
            used.
        MissingExtraError: If the engine is not installed.
    """
    found = _find(model) if engine in RUNTIMES else None
    return _load(found, engine, precision, calibration, kept, exact=exact) if found else None


@dataclass(frozen=True)
class _Found:
    """A model that a runtime can start.

    Attributes:
        model: Its name, as the user gave it.
        described: Its description.
        weights: Identifies its weights and everything that the index or a folder says about them.
        preprocessing: The preprocessing of its images.
    """

    model: str
    described: Description
    weights: str
    preprocessing: Fast

    @functools.cached_property
    def written(self) -> Parts | None:
        """The graph, written once for all runtimes without PyTorch; None for models that PyTorch exports."""
        classifier = _written(self.described, self.preprocessing)
        return None if classifier is None else _written_parts(self.described, classifier)


def _find(model: str) -> _Found | None:
    """Describes a model; None if only PyTorch can run it."""
    described = names.describe_local(model)
    weights = _weights(described.source) if described else None
    preprocessing = described.preprocessing if described else None
    if described is None or weights is None or preprocessing is None:
        return None
    return _Found(model, described, weights, preprocessing)


def _load(
    found: _Found,
    engine: str,
    precision: str = "fp32",
    calibration: str | None = None,
    kept: Cache | None = None,
    *,
    exact: bool = False,
    several: bool = True,
    export: Callable[[], bool] = lambda: True,
) -> RuntimeSession | None:
    """Starts a runtime for a model that was found; arguments as for `load`.

    `several` says whether batches will have more than one image, for which runtimes start other kernels. For a model
    whose graph is not cached and cannot be written without PyTorch, `export` says whether to export it. Otherwise, the
    result is None.
    """
    how = found.preprocessing
    facts = {
        **_facts(found, [engine, *(["nncf", "PIL"] if precision == "int8" else [])]),
        "kept": "classifier",
        "engine": engine,
        "precision": precision,
        "calibration": _calibration(Path(calibration), how.channels) if calibration else "",
        "processor": platform.machine(),
    }
    make = partial(_make, found, engine, precision, calibration, export)
    start = partial(_start, replace(how, exact=exact), engine, precision, 2 if several else 1)
    try:
        session = (kept or Cache.at_home()).fetch(facts, make, start)
    except _ExportNeededError:
        return None
    return replace(session, temperature=found.described.temperature)


def _facts(found: _Found, engines: Sequence[str]) -> dict[str, str]:
    """Returns the facts that the cache entries of a model depend on."""
    return {"model": found.model, "weights": found.weights, **_versions(engines)}


def _versions(engines: Sequence[str]) -> dict[str, str]:
    """Returns the versions of all packages that an export for some engines depends on."""
    return {"mnv2zoo": __version__, **versions(("timm", "torch", "onnx", "onnxscript", *engines))}


def _weights(source: Path | WeightsEntry | None) -> str | None:
    """Identifies weights and everything that the index or their folder says about them; None without a hash."""
    if isinstance(source, Path):
        files = [source / name for name in ("config.json", "model.safetensors")]
        try:
            return discover.fingerprint(source, files) if all(file.is_file() for file in files) else None
        except OSError:  # loading with PyTorch reports the error
            return None
    return json.dumps(source.to_json()) if source and source.pinned else None


def _calibration(folder: Path, channels: int) -> str:
    return discover.fingerprint(folder, discover.spread(discover.find(str(folder), channels), CALIBRATED))


def _make(found: _Found, engine: str, precision: str, calibration: str | None, export: Callable[[], bool]) -> Parts:
    installed = importlib.util.find_spec(engine) is not None  # otherwise, the export reports how to install it
    if installed and precision != "int8" and found.written is not None:
        return found.written
    if not export():
        raise _ExportNeededError
    from mnv2zoo.deploy.optimize import for_runtime
    from mnv2zoo.models import pretrained

    loaded = pretrained.load(found.model, "cpu")
    about = {
        "name": loaded.name,
        "label_names": list(loaded.label_names),
        "fingerprint": fingerprint(loaded.model),
    }
    parts = for_runtime(loaded.model, found.preprocessing.input_size, engine, precision, calibration)
    return {**parts, "about": json.dumps(about).encode()}


def _written(described: Description, how: Fast) -> Classifier | None:
    """Reads a classifier whose graph can be written without PyTorch; None for models that PyTorch exports."""
    given = {name: value for name, value in described.arguments.items() if value is not None}
    plain = {*WRITTEN, *TRAINING_ONLY, "global_pool"}
    entry = described.source if isinstance(described.source, WeightsEntry) else None
    if (
        described.head
        or described.cfg.get("label_offset")
        or set(given) - plain
        or not importlib.util.find_spec("onnx")
    ):
        return None
    if given.get("global_pool", "avg") != "avg" or (entry and entry.layout != "timm"):
        return None
    data = store.verified(entry).data if entry else _bytes(Path(str(described.source)) / "model.safetensors")
    try:
        import safetensors.numpy

        tensors: Any = safetensors.numpy.load(data)
    except Exception:  # loading with PyTorch reports the error
        return None
    config = described.config
    if "classifier" in given:
        config = replace(config, classifier=given["classifier"])
    same, stride, eps = given.get("pad_type") == "same", given.get("output_stride", 32), given.get("bn_eps", 1e-5)
    classifier = Classifier(config, tensors, how.input_size, same, stride, eps)
    classes = given.get("num_classes", described.cfg.get("num_classes"))
    fits = as_built(config, tensors) == config and len(tensors.get("classifier.bias", ())) == classes
    return classifier if fits and classifier.is_complete() else None


def _bytes(path: Path) -> bytes:
    with posix.open_regular(path) as file:
        return read_all(file, min(os.fstat(file.fileno()).st_size, MAX_BYTES))


def _written_parts(described: Description, classifier: Classifier) -> Parts:
    random = np.random.default_rng(0)
    example = random.standard_normal((2, *classifier.input_size), np.float32)
    about = {
        "name": described.name,
        "label_names": list(described.label_names),
        "fingerprint": _fingerprint_of(classifier),
    }
    return {
        "model": classifier.onnx(),
        "example": example.tobytes(),
        "expected": classifier(example).astype(np.float32).tobytes(),
        "about": json.dumps(about).encode(),
    }


def _start(how: Fast, engine: str, precision: str, images: int, parts: Parts) -> RuntimeSession:
    about = json.loads(parts["about"])
    outputs = PerProcess(partial(RUNTIMES[engine], parts, how.input_size, precision, cores()))
    run = partial(_logits, outputs)
    example = np.frombuffer(parts["example"], np.float32).reshape(-1, *how.input_size)
    expected = np.frombuffer(parts["expected"], np.float32).reshape(len(example), -1)[:images]
    error = float(np.linalg.norm(run(example[:images]) - expected) / np.linalg.norm(expected))
    require_near(engine, precision, error)
    return RuntimeSession(about["name"], how, about["label_names"], about["fingerprint"], run, engine)


def _fingerprint_of(classifier: Classifier) -> str:
    """Returns the `fingerprint` of the same model in PyTorch, where batch norms also count batches."""
    sha256 = hashlib.sha256()
    for name in classifier.shapes():
        sha256.update(np.ascontiguousarray(classifier.tensors[name]).tobytes())
        if name.endswith("running_var"):
            counter = classifier.tensors.get(name.replace("running_var", "num_batches_tracked"), np.zeros(()))
            sha256.update(np.asarray(counter, np.int64).tobytes())
    return sha256.hexdigest()


def _logits(outputs: Runner, batch: Array) -> Array:
    return outputs(batch)[0]


def fingerprint(model: torch.nn.Module) -> str:
    """Returns the SHA-256 of a model's weights."""
    sha256 = hashlib.sha256()
    for tensor in model.state_dict().values():
        sha256.update(tensor.cpu().contiguous().numpy().tobytes())
    return sha256.hexdigest()

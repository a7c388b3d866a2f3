"""A loaded network that runs batches of images: with PyTorch, or on a runtime alone.

Importing PyTorch and timm takes as long as classifying hundreds of photos. A `RuntimeSession` needs neither: it starts
from a cache, which is filled once, with both.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mnv2zoo.data import discover
from mnv2zoo.data.preprocessing import Exact, Fast, Preprocessing, Whole
from mnv2zoo.errors import DeployError
from mnv2zoo.models import names
from mnv2zoo.runtimes.cache import Cache, versions
from mnv2zoo.runtimes.runners import CALIBRATED, RUNTIMES, Array, Parts, PerProcess, Runner, cores, require_near
from mnv2zoo.tasks import Task
from mnv2zoo.version import __version__

if TYPE_CHECKING:
    import torch

    from mnv2zoo.deploy.optimize import EngineName, Precision
    from mnv2zoo.models.pretrained import Network
    from mnv2zoo.weights import WeightsEntry


class Session(Protocol):
    """A loaded network.

    Attributes:
        name: As in `names.Description`.
        preprocessing: The preprocessing of its images.
        label_names: Names of its outputs.
        temperature: Number that divides its logits before the softmax; None for none.
    """

    @property
    def name(self) -> str: ...  # noqa: D102  # an attribute

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
            prepared: The images as `preprocessing.prepare` gives them.

        Returns:
            The outputs as NumPy arrays, such as logits (N, classes).

        Raises:
            DeployError: If the engine cannot run the network, or computes something else.
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
) -> Session:
    """Loads a network.

    Args:
        task: The task, which loads networks of its own.
        model: Name of the network, as for `predict`.
        engine: As for `deploy.optimize`; None for `torch` on the CPU, and on a GPU for plain PyTorch, or `torch` if the
            precision is not `fp32`.
        precision: As for `deploy.optimize`.
        calibration: Folder of images for `int8`.
        exact: Preprocess images as timm does, bit for bit.
        device: The device; by default the CPU if an engine or a precision is given, and otherwise the accelerator
            if there is one.
        cache: Folder for compiled engines, as for `predict`.

    Returns:
        The network, without PyTorch where the cache has it.

    Raises:
        DeviceError: If the device cannot be used.
        UnknownModelError: If there is no network of that name.
        WeightsError: If its weights cannot be found, fetched or verified.
        DeployError: If the cache cannot be filled or used.
    """
    if device is None and (engine is not None or precision != "fp32"):
        device = "cpu"  # as for `optimize`
    if cache is not None and engine is not None and not exact and task.loads_from_zoo and device == "cpu":
        cached = load(model, engine, precision, calibration, cache)
        if cached is not None:
            return cached
    network = task.load_model(model, device)
    return TorchSession(network, engine, precision, calibration, exact, cache)


class TorchSession:
    """A network that PyTorch runs, or an engine that needs PyTorch to start.

    Args:
        network: The network.
        engine: As for `start`, and so are the others.
        precision: The precision.
        calibration: Folder of images for `int8`.
        exact: Whether timm preprocesses the images.
        cache: Folder for compiled engines.

    Attributes:
        name: As in `names.Description`.
        preprocessing: The preprocessing of its images.
        label_names: Names of its outputs.
        temperature: Number that divides its logits before the softmax; None for none.
    """

    def __init__(
        self,
        network: Network,
        engine: EngineName | None = None,
        precision: Precision = "fp32",
        calibration: str | None = None,
        exact: bool = False,
        cache: Path | None = None,
    ) -> None:
        self.name, self.label_names, self.temperature = network.name, network.label_names, network.temperature
        fast = network.fast
        if exact:  # the whole image needs its size, which timm's transforms do not keep
            fast = replace(fast, exact=True) if isinstance(fast, Whole) else None
        self.preprocessing: Preprocessing = fast or Exact(network.transform, network.config["input_size"][0])
        self._network, self._engine, self._precision = network, engine, precision
        self._calibration, self._cache = calibration, cache
        eager = network.device.type != "cpu" and engine is None and precision == "fp32"
        self._run: Any = network.model if eager or self._sizes_differ() else None

    def _sizes_differ(self) -> bool:
        """Whether images come in sizes of their own, which PyTorch runs and engines do not."""
        if not (isinstance(self.preprocessing, Whole) and self.preprocessing.keep_ratio):
            return False
        if self._engine not in (None, "torch") or self._precision != "fp32":
            raise DeployError(
                "engines do not run a detector whose images differ in size",
                expected="PyTorch in fp32, or a detector with the head ssdlite",
                found=f"engine {self._engine or 'torch'}, precision {self._precision}",
                where=self.name,
                fix="Leave out --engine and --precision.",
            )
        return True

    @property
    def fingerprint(self) -> str:
        """A hash of its weights, which takes a while."""
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
        # Engines that choose, compile or record by the size of the batch need a whole one; one image is enough to check
        # others.
        device = self._network.device
        example = batch if engine in ("auto", "inductor") or device.type != "cpu" else batch[:1]
        return optimize(
            self._network.model,
            example,
            engine,
            self._precision,
            calibration=self._calibration,
            cache=self._cache,
            preprocessing=self._seen(),
            device=device,
        )

    def _seen(self) -> dict[str, Any] | None:
        """How a segmenter sees calibration images; None for other models, which know it themselves."""
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
    """A network on a runtime, without PyTorch.

    Attributes:
        name: As in `names.Description`.
        preprocessing: The preprocessing of its images.
        label_names: Names of its outputs.
        fingerprint: A hash of its weights.
        run: From images (N, C, height, width) to outputs (N, K).
        temperature: Number that divides its logits before the softmax; None for none.
    """

    name: str
    preprocessing: Fast
    label_names: Sequence[str]
    fingerprint: str
    run: Callable[[Array], Array]
    temperature: float | None = None

    def __call__(self, prepared: Sequence[bytes | Array]) -> Array:
        """Runs a batch; see `Session`."""
        return self.run(self.preprocessing.array(prepared))


def load(model: str, engine: str, precision: str, calibration: str | None, folder: Path) -> RuntimeSession | None:
    """Starts a runtime from the cache, which is filled the first time; that takes seconds or a minute.

    Args:
        model: Name of the network, as for `names.describe`.
        engine: One of `deploy.optimize`.
        precision: As for `deploy.optimize`.
        calibration: Folder of images for `int8`.
        folder: The cache.

    Returns:
        The session; None where PyTorch is needed: for PyTorch's own engines, for weights whose hash only the Hub knows,
        and for images that only timm can preprocess.

    Raises:
        UnknownModelError: If there is no network of that name.
        WeightsError: If its weights cannot be found, fetched or verified.
        DeployError: If the engine cannot run the network, or computes something else, or the cache cannot be
            written or is not the user's own.
        MissingExtraError: If the engine is not installed.
    """
    described = names.describe_local(model)
    weights = _weights(described.source) if described and engine in RUNTIMES else None
    how = described.preprocessing if described else None
    if weights is None or how is None:
        return None
    packages = ["timm", "torch", "onnx", "onnxscript", engine, *(["nncf", "PIL"] if precision == "int8" else [])]
    facts = {
        "kept": "classifier",
        "model": model,
        "weights": weights,
        "engine": engine,
        "precision": precision,
        "calibration": _calibration(Path(calibration), how.channels) if calibration else "",
        "processor": platform.machine(),
        "mnv2zoo": __version__,
        **versions(packages),
    }
    make, start = partial(_make, model, how, engine, precision, calibration), partial(_start, how, engine, precision)
    return replace(Cache(folder).fetch(facts, make, start), temperature=described.temperature if described else None)


def _weights(source: Path | WeightsEntry | None) -> str | None:
    """What tells weights, and all that the index or a folder says of them, from others."""
    if isinstance(source, Path):
        files = [source / name for name in ("config.json", "model.safetensors")]
        return discover.fingerprint(source, files) if all(file.is_file() for file in files) else None
    return json.dumps(source.to_json()) if source and source.pinned else None


def _calibration(folder: Path, channels: int) -> str:
    return discover.fingerprint(folder, discover.spread(discover.find(str(folder), channels), CALIBRATED))


def _make(model: str, how: Fast, engine: str, precision: str, calibration: str | None) -> Parts:
    from mnv2zoo.deploy.optimize import for_runtime
    from mnv2zoo.models import pretrained

    loaded = pretrained.load(model, "cpu")
    about = {
        "name": loaded.name,
        "label_names": list(loaded.label_names),
        "fingerprint": fingerprint(loaded.model),
    }
    parts = for_runtime(loaded.model, how.input_size, engine, precision, calibration)
    return {**parts, "about": json.dumps(about).encode()}


def _start(how: Fast, engine: str, precision: str, parts: Parts) -> RuntimeSession:
    about = json.loads(parts["about"])
    outputs = PerProcess(partial(RUNTIMES[engine], parts, how.input_size, precision, cores()))
    run = partial(_logits, outputs)
    example = np.frombuffer(parts["example"], np.float32).reshape(-1, *how.input_size)
    expected = np.frombuffer(parts["expected"], np.float32).reshape(len(example), -1)
    require_near(engine, precision, float(np.linalg.norm(run(example) - expected) / np.linalg.norm(expected)))
    return RuntimeSession(about["name"], how, about["label_names"], about["fingerprint"], run)


def _logits(outputs: Runner, batch: Array) -> Array:
    return outputs(batch)[0]


def fingerprint(model: torch.nn.Module) -> str:
    """A hash of a network's weights."""
    sha256 = hashlib.sha256()
    for tensor in model.state_dict().values():
        sha256.update(tensor.cpu().contiguous().numpy().tobytes())
    return sha256.hexdigest()

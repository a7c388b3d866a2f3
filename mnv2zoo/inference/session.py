"""Classifiers that start without PyTorch and timm, whose import takes as long as some hundreds of photos.

One is made once, with both, and kept in a cache: what a runtime starts from, and all that belongs to it. From then on
it starts from there.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnv2zoo.data import discover
from mnv2zoo.data.preprocessing import Fast
from mnv2zoo.models import names
from mnv2zoo.runtimes.cache import Cache, versions
from mnv2zoo.runtimes.runners import CALIBRATED, RUNTIMES, Array, Parts, PerProcess, Runner, cores, require_near
from mnv2zoo.version import __version__

if TYPE_CHECKING:
    import torch

    from mnv2zoo.weights import WeightsEntry


@dataclass(frozen=True)
class Standalone:
    """A classifier on a runtime.

    Attributes:
        name: As in `names.Description`.
        preprocessing: How its images are prepared.
        label_names: Names of its classes in class order.
        fingerprint: A hash of its weights.
        run: From images (N, 3, height, width) to logits (N, classes).
    """

    name: str
    preprocessing: Fast
    label_names: Sequence[str]
    fingerprint: str
    run: Callable[[Array], Array]


def load(model: str, engine: str, precision: str, calibration: str | None, folder: Path) -> Standalone | None:
    """Starts a classifier from what is kept of it; the first time it is made, which takes seconds or a minute.

    Args:
        model: Name of the network, as for `names.describe`.
        engine: One of `deploy.optimize`.
        precision: As for `deploy.optimize`.
        calibration: Folder of images for `int8`.
        folder: The cache.

    Returns:
        The classifier; None where it takes PyTorch: for an engine that is PyTorch's own, for weights whose hash
        only the Hub could tell, and for images that only timm can prepare.

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
        "calibration": _calibration(Path(calibration)) if calibration else "",
        "processor": platform.machine(),
        "mnv2zoo": __version__,
        **versions(packages),
    }
    make, start = partial(_make, model, how, engine, precision, calibration), partial(_start, how, engine, precision)
    return Cache(folder).fetch(facts, make, start)


def _weights(source: Path | WeightsEntry | None) -> str | None:
    """What tells weights, and all that the index or a folder says of them, from others."""
    if isinstance(source, Path):
        files = [source / name for name in ("config.json", "model.safetensors")]
        return discover.fingerprint(source, files) if all(file.is_file() for file in files) else None
    return json.dumps(source.to_json()) if source and source.pinned else None


def _calibration(folder: Path) -> str:
    return discover.fingerprint(folder, discover.spread(discover.find(str(folder)), CALIBRATED))


def _make(model: str, how: Fast, engine: str, precision: str, calibration: str | None) -> Parts:
    from mnv2zoo.deploy.optimize import for_runtime
    from mnv2zoo.models import pretrained

    loaded = pretrained.load(model, "cpu")
    about = {
        "name": loaded.name,
        "label_names": list(loaded.label_names),
        "fingerprint": fingerprint(loaded.model),
    }
    parts = for_runtime(loaded.model, how.side, engine, precision, calibration)
    return {**parts, "about": json.dumps(about).encode()}


def _start(how: Fast, engine: str, precision: str, parts: Parts) -> Standalone:
    about = json.loads(parts["about"])
    outputs = PerProcess(partial(RUNTIMES[engine], parts, (3, how.side, how.side), precision, cores()))
    run = partial(_logits, outputs)
    example = np.frombuffer(parts["example"], np.float32).reshape(-1, 3, how.side, how.side)
    expected = np.frombuffer(parts["expected"], np.float32).reshape(len(example), -1)
    require_near(engine, precision, float(np.linalg.norm(run(example) - expected) / np.linalg.norm(expected)))
    return Standalone(about["name"], how, about["label_names"], about["fingerprint"], run)


def _logits(outputs: Runner, batch: Array) -> Array:
    return outputs(batch)[0]


def fingerprint(model: torch.nn.Module) -> str:
    """A hash of a network's weights."""
    sha256 = hashlib.sha256()
    for tensor in model.state_dict().values():
        sha256.update(tensor.cpu().contiguous().numpy().tobytes())
    return sha256.hexdigest()

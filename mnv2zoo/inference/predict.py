"""The classes of images, of one or of a million: found, read, classified and kept, each while the next are at it.

Threads read images some hundreds ahead of the network, from before PyTorch and timm are imported, which takes
seconds where they are needed; nothing else piles up.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mnv2zoo.data import decode, discover
from mnv2zoo.data.preprocessing import Exact, Preprocessing
from mnv2zoo.errors import DeviceError, ImageReadError
from mnv2zoo.inference import session
from mnv2zoo.inference.journal import Journal, Row
from mnv2zoo.inference.session import Standalone
from mnv2zoo.models import names
from mnv2zoo.runtimes.runners import Array

if TYPE_CHECKING:
    import torch

    from mnv2zoo.deploy.optimize import EngineName, Precision
    from mnv2zoo.models.pretrained import Network

AHEAD = 512  # images that are read while timm is being imported: as 8-bit pixels of 224 x 224, 77 MB


@dataclass(frozen=True)
class Settings:
    """What decides the rows of given images.

    Attributes:
        model: Name of the network, as for `predict`.
        topk: Classes to tell for each image.
        engine: As for `deploy.optimize`; None for `torch` on the CPU and PyTorch as it is on a GPU.
        precision: As for `deploy.optimize`.
        calibration: Folder of images for `int8`.
        exact: Prepare images as timm does, bit for bit.
    """

    model: str = "mnv2zoo_100"
    topk: int = 5
    engine: EngineName | None = None
    precision: Precision = "fp32"
    calibration: str | None = None
    exact: bool = False


class Classifier:
    """A network that classifies batches.

    Args:
        settings: What to make.
        device: Where to compute, as for `predict`.
        cache: Folder for what engines start from, as for `predict`.

    Attributes:
        settings: What it was made with.
        name: What rows call the network.
        label_names: Names of its classes in class order.
        preprocessing: How its images are prepared.

    Raises:
        DeviceError: If the device cannot be used, or not by the engine.
        UnknownModelError: If there is no network of that name.
        WeightsError: If its weights cannot be found, fetched or verified.
        DeployError: If what is kept in the cache cannot be made or used.
    """

    def __init__(self, settings: Settings, device: str | None = None, cache: Path | None = None) -> None:
        asked = settings.engine is not None or settings.precision != "fp32"  # for what computes on the CPU
        if asked and device not in (None, "cpu"):
            raise DeviceError("engines and their precisions are for the CPU", expected="device cpu", found=device)
        self.settings = settings
        self._cache = cache
        kept = self._kept()
        if kept:
            self.name, self.label_names = kept.name, kept.label_names
            self._fingerprint: Callable[[], str] = lambda: kept.fingerprint
            self.preprocessing: Preprocessing = kept.preprocessing
            self._logits = lambda prepared: kept.run(kept.preprocessing.array(prepared))
            return
        from mnv2zoo.models import pretrained

        loaded = pretrained.load(settings.model, "cpu" if asked else device)
        self.name, self.label_names = loaded.name, loaded.label_names
        self._fingerprint = partial(session.fingerprint, loaded.model)  # takes a while, and few ask
        fast = None if settings.exact else loaded.fast
        self.preprocessing = fast or Exact(loaded.transform)
        self._logits = partial(self._computed, loaded)
        self._run: Any = None if loaded.device.type == "cpu" else loaded.model

    def __call__(self, files: Sequence[str | Path], prepared: Sequence[Any]) -> list[Row]:
        """Classifies a batch.

        Args:
            files: What the rows call the images.
            prepared: What the preprocessing prepared of each.

        Returns:
            A row for each, its predictions from the most probable on.

        Raises:
            DeployError: If the engine cannot run the network, or computes something else.
            MissingExtraError: If the engine is not installed.
        """
        logits = self._logits(prepared)
        scores = np.exp(logits - logits.max(1, keepdims=True))
        scores /= scores.sum(1, keepdims=True)
        best = np.argsort(-logits, axis=1, kind="stable")[:, : self.settings.topk]
        return [
            {
                "image": str(file),
                "model": self.name,
                "predictions": [
                    # A float32 has no further digits to tell.
                    {"class": index, "label": self.label_names[index], "score": round(score, 6)}
                    for index, score in zip(indices, values, strict=True)
                ],
            }
            for file, indices, values in zip(
                files, best.tolist(), np.take_along_axis(scores, best, 1).tolist(), strict=True
            )
        ]

    def _kept(self) -> Standalone | None:
        chosen = self.settings
        if self._cache is None or chosen.engine is None or chosen.exact:
            return None
        return session.load(chosen.model, chosen.engine, chosen.precision, chosen.calibration, self._cache)

    def _computed(self, network: Network, prepared: Sequence[Any]) -> Array:
        import torch

        batch = self.preprocessing.batch(prepared, network.device)
        if self._run is None:
            self._run = self._optimized(network, batch)
        with torch.inference_mode():
            return self._run(batch).float().cpu().numpy()

    def _optimized(self, network: Network, batch: torch.Tensor) -> Any:
        from mnv2zoo.deploy import optimize

        chosen = self.settings
        engine = chosen.engine or "torch"
        # Those that choose or compile by the size of the batch need a whole one; others are checked as well on one.
        example = batch if engine in ("auto", "inductor") else batch[:1]
        return optimize(
            network.model, example, engine, chosen.precision, calibration=chosen.calibration, cache=self._cache
        )

    def facts(self) -> dict[str, Any]:
        """All that decides what its rows say, as JSON can hold it."""
        return {
            **asdict(self.settings),
            "topk": min(self.settings.topk, len(self.label_names)),
            "weights": self._fingerprint(),
        }


def predict(
    paths: str | Path | Iterable[str | Path],
    model: str = "mnv2zoo_100",
    *,
    topk: int = 5,
    engine: EngineName | None = None,
    precision: Precision = "fp32",
    calibration: str | Path | None = None,
    exact: bool = False,
    batch_size: int = 32,
    device: str | None = None,
    output: str | Path | None = None,
    cache: str | Path | None = None,
) -> Generator[Row | ImageReadError, None, None]:
    """Classifies images.

    Images are found and read while others are being classified, so there may be any number of them.

    Args:
        paths: Files, folders with all below them, and globs.
        model: An architecture, `architecture.tag`, a folder with `config.json` and `model.safetensors`, or
            an `hf-hub:` name.
        topk: Classes to tell for each image; all if there are fewer.
        engine: As for `deploy.optimize`; computes on the CPU. By default `torch` on the CPU, and PyTorch as it
            is on a GPU.
        precision: As for `deploy.optimize`.
        calibration: Folder of images, for `int8`.
        exact: Prepare images as timm does, bit for bit. By default large JPEGs are decoded at a fraction of
            their size, among other savings.
        batch_size: Images that go through the network at once.
        device: Where to compute, such as `cuda:1`; by default the first GPU if there is one.
        output: File to keep the rows in too: CSV or Parquet if it ends in `.csv` or `.parquet`, or else JSON
            lines. It appears when all rows are there. Until then they are beside it, and where the process was
            killed, the same call goes on from there and yields what was missing.
        cache: A folder where what `onnxruntime` and `openvino` start from is kept, as for `deploy.optimize`. With
            it there, neither PyTorch nor timm is imported, unless images are prepared by timm.

    Yields:
        For each image its row, `{"image": ..., "model": ..., "predictions": [{"class": int, "label": str,
        "score": float}, ...]}`, or why it cannot be read.

    Raises:
        UnknownModelError: If there is no network of that name.
        WeightsError: If its weights cannot be found, fetched or verified.
        DeviceError: If the device cannot be used.
        DeployError: If the engine cannot run the network, or the cache cannot be used.
        MissingExtraError: If what the engine or the output needs is not installed.
        OSError: If the output cannot be written.
        OutputError: If the output cannot be gone on with: another process is at work on it, or an unfinished
            run was made with other arguments.
    """
    places = [os.fspath(paths)] if isinstance(paths, str | Path) else [os.fspath(path) for path in paths]
    settings = Settings(model, topk, engine, precision, str(calibration) if calibration else None, exact)
    sources = discover.walk(places)
    for source in sources:  # without any image, no network is loaded
        if isinstance(source, Path):
            break
        yield source
    else:
        return
    sources = itertools.chain([source], sources)

    classifier = partial(Classifier, settings, device, Path(cache) if cache else None)
    if output is None:
        yield from _classified(sources, settings, batch_size, classifier, None, places)
        return
    with Journal(Path(output)) as journal:
        yield from _classified(sources, settings, batch_size, classifier, journal, places)
        journal.finish()


def _classified(
    sources: Iterator[Path | ImageReadError],
    settings: Settings,
    batch_size: int,
    load: Callable[[], Classifier],
    journal: Journal | None,
    places: Sequence[str],
) -> Iterator[Row | ImageReadError]:
    if journal and journal.done:
        warnings.warn(f"{journal.output}: going on after {journal.done} images of an unfinished run", stacklevel=3)
        sources = (source for source in sources if isinstance(source, ImageReadError) or source not in journal)
    classifier: Classifier | None = None
    described = None if settings.exact else names.describe_local(settings.model)
    how: Preprocessing | None = described.preprocessing if described else None
    ahead = max(AHEAD, 2 * batch_size)
    if how is None:
        classifier = load()
        how, ahead = classifier.preprocessing, 2 * batch_size
    with contextlib.closing(decode.read_all(sources, how.prepare, ahead, partial(_open, at_least=how.at_least))) as all:
        # Asked for the first, threads begin to read, and go on while the network is being loaded.
        read = itertools.chain(list(itertools.islice(all, 1)), all)
        classifier = classifier or load()
        if journal:
            journal.begin({"paths": places, **classifier.facts()})
        while batch := list(itertools.islice(read, batch_size)):
            ready = [(source, prepared) for source, prepared in batch if not isinstance(prepared, ImageReadError)]
            rows = classifier(*zip(*ready, strict=True)) if ready else []
            if journal:
                journal.add(rows)
            rest = iter(rows)
            for _, prepared in batch:
                yield prepared if isinstance(prepared, ImageReadError) else next(rest)


def _open(source: Path | ImageReadError, at_least: int | None) -> Image.Image:
    if isinstance(source, ImageReadError):
        raise source
    return decode.read(source, at_least=at_least)

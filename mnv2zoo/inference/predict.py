"""Predicts any number of images. They are found, read, predicted and recorded at the same time.

Threads read up to a few hundred images ahead of the model. They start before PyTorch and timm are imported, which
takes seconds if they are needed. No other data accumulates, so memory does not grow with the number of images.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2zoo.data import decode, discover
from mnv2zoo.data.preprocessing import Prepared, Preprocessing
from mnv2zoo.errors import ArgumentError, ImageReadError, TaskError
from mnv2zoo.inference import session
from mnv2zoo.inference.journal import Journal, Row
from mnv2zoo.model_dir import records
from mnv2zoo.models import names
from mnv2zoo.runtimes.runners import RUNTIMES
from mnv2zoo.system.files import whole_file
from mnv2zoo.system.threads import in_order
from mnv2zoo.tasks import Task, find_task
from mnv2zoo.tasks.base import DEFAULT, Options, Seen

if TYPE_CHECKING:
    from PIL import Image

    from mnv2zoo.deploy.optimize import EngineName, Precision

IN_TURNS = 2  # number of batches that are predicted at the same time
AHEAD = 512  # images to read while timm is imported; they take 77 MB as 8-bit pixels of 224 x 224


@dataclass(frozen=True)
class Settings:
    """All settings that affect the rows of given images.

    Attributes:
        model: As for `predict`.
        topk: Number of classes per image.
        engine: As for `deploy.optimize`; None as for `predict`.
        precision: As for `deploy.optimize`.
        calibration: Folder of images for `int8`.
        exact: Preprocess images as in timm, bit for bit, for any number of images.
        task: The task, as for `predict`.
        files: Folder for files alongside the rows, as for `predict`.
        threshold: Minimum score to report; None for the task's default.
        save_images: Folder for copies of the images with the predictions drawn in, as for `predict`.
        explain: Folder for heat maps, as for `predict`.
        reject_below: Top score below which a row is rejected, as for `predict`.
        root: The folder that contains all images. Files alongside the rows keep its subfolders.
    """

    model: str = "mnv2zoo_100"
    topk: int = 5
    engine: EngineName | None = None
    precision: Precision = "fp32"
    calibration: str | None = None
    exact: bool = False
    task: str | Task | type[Task] | None = None
    files: str | None = None
    threshold: float | None = None
    save_images: str | None = None
    explain: str | None = None
    reject_below: float | None = None
    root: str = "."

    def find_task(self) -> Task:
        """Finds the task.

        Raises:
            TaskError: If the task does not exist, does not write the requested files or images, or has no top score to
                reject images by.
            ArgumentError: If `reject_below` is not a number from 0 to 1.
        """
        task = find_task(self.task, records.task_name(self.model), self.model)
        rejects = "a classifier; a detector leaves out boxes below --threshold"
        for name, can, problem, expected in (
            ("files", task.writes_files, "writes no files alongside its rows", "a task that writes files"),
            ("save_images", task.draws, "cannot draw its predictions", "a model that detects or segments"),
            ("explain", task.explains, "cannot explain its predictions", "a classifier"),
            ("reject_below", task.rejects, "has no top score to reject images by", rejects),
        ):
            if getattr(self, name) is not None and not can:
                raise TaskError(
                    f"the task {task.name} {problem}",
                    expected=expected,
                    found=task.name,
                    where=name,
                    fix=f"Leave out --{name.replace('_', '-')}.",
                )
        if self.explain is not None:
            from mnv2zoo.tasks.classify import explanation

            explanation.require()
        if self.reject_below is not None and not 0 <= self.reject_below <= 1:
            raise ArgumentError(
                f"reject_below {self.reject_below!r} is out of range",
                expected="a number from 0 to 1",
                found=repr(self.reject_below),
                where="reject_below",
                fix="Correct --reject-below.",
            )
        return task


class Predictor:
    """Turns batches of images into rows.

    Args:
        settings: The settings that affect the rows.
        device: The device, as for `predict`.
        cache: Folder for compiled engines, as for `predict`.
        images: As for `session.start`.

    Attributes:
        settings: The settings.
        task: The task.
        session: The loaded model.

    Raises:
        TaskError: If the task does not exist.
        DeviceError: If the device cannot be used.
        UnknownModelError: If no model has that name.
        WeightsError: If its weights cannot be found, downloaded or verified.
        DeployError: If the cache cannot be used.
    """

    def __init__(
        self, settings: Settings, device: str | None = None, cache: Path | None = None, images: int | None = None
    ) -> None:
        self.settings, self.task = settings, settings.find_task().of_model(settings.model)
        self.session = session.start(
            self.task,
            settings.model,
            settings.engine,
            settings.precision,
            settings.calibration,
            settings.exact,
            device,
            cache,
            images,
        )
        # Heat maps need gradients, which only PyTorch computes.
        self._explained = None if settings.explain is None else self.task.load_model(settings.model, device)
        self._folder = Path(settings.files) if settings.files is not None else None

    def __call__(self, files: Sequence[str | Path], prepared: Sequence[Any]) -> list[Row]:
        """Predicts a batch.

        Args:
            files: The names of the images in the rows.
            prepared: The images, as the session's `preprocessing.prepare` returns them.

        Returns:
            A row per image.

        Raises:
            DeployError: If the engine cannot run the model, or its outputs differ from the model's.
            MissingExtraError: If the engine is not installed.
        """
        images = [
            Seen(str(file), one.full_size, one.input_size) if isinstance(one, Prepared) else Seen(str(file))
            for file, one in zip(files, prepared, strict=True)
        ]
        settings, draws = self.settings, self.settings.save_images is not None
        temperature = self.session.temperature or 1.0
        options = Options(settings.topk, settings.threshold, self._folder, settings.root, draws, temperature)
        rows = self.task.rows(self.session(prepared), images, self.session.label_names, options)
        whole = [
            {"image": seen.name, "model": self.session.name, **row, **self._rejected(row)}
            for seen, row in zip(images, rows, strict=True)
        ]
        if self.settings.save_images is not None:
            self._draw(files, whole, Path(self.settings.save_images))
        if self.settings.explain is not None:
            self._explain(files, whole, Path(self.settings.explain))
        return [{key: value for key, value in row.items() if not key.startswith("_")} for row in whole]

    def _rejected(self, row: Row) -> Row:
        """Returns the extra field of a row whose top score is too low; empty for other rows."""
        lowest = self.settings.reject_below
        return {"rejected": True} if lowest is not None and self.task.top_score(row) < lowest else {}

    def _draw(self, files: Sequence[str | Path], rows: Sequence[Row], folder: Path) -> None:
        """Writes each image with its predictions drawn in. Images are read again, at full size."""
        for file, row in zip(files, rows, strict=True):
            self._save(self.task.draw(decode.read(Path(file)), row, self.session.label_names), folder, file)

    def _explain(self, files: Sequence[str | Path], rows: Sequence[Row], folder: Path) -> None:
        """Writes the heat map of each image."""
        assert self._explained is not None
        for file, row in zip(files, rows, strict=True):
            image = decode.read(Path(file), channels=self.session.preprocessing.channels)
            (picture,) = self.task.explain(self._explained, [image], [row])
            self._save(picture, folder, file)

    def _save(self, picture: Image.Image, folder: Path, file: str | Path) -> None:
        with whole_file(discover.alongside(folder, str(file), ".jpg", self.settings.root)) as open_file:
            picture.save(open_file, format="JPEG", quality=92)

    def facts(self) -> dict[str, Any]:
        """Returns everything that affects its rows, as JSON values."""
        given = {f.name: getattr(self.settings, f.name) for f in fields(self.settings) if f.name not in _LATER}
        later = {"task": self.task.name, "files": self.settings.files, "threshold": self.settings.threshold}
        scores = {"temperature": self.session.temperature, "reject_below": self.settings.reject_below}
        return {
            **given,
            "topk": min(self.settings.topk, len(self.session.label_names)),
            "weights": self.session.fingerprint,
            # Without these facts, journals of classifiers from versions without other tasks can be resumed.
            **({} if self.task.name == DEFAULT else later),
            **{name: value for name, value in scores.items() if value is not None},
            **self.task.facts(),
        }


_LATER = ("task", "files", "threshold", "save_images", "explain", "reject_below", "root")


def predict(
    paths: str | Path | Iterable[str | Path],
    model: str | Path = "mnv2zoo_100",
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
    task: str | Task | type[Task] | None = None,
    files: str | Path | None = None,
    threshold: float | None = None,
    save_images: str | Path | None = None,
    explain: str | Path | None = None,
    reject_below: float | None = None,
) -> Generator[Row | ImageReadError, None, None]:
    """Predicts the classes of images, or the outputs of the model's task.

    Images are found and read while others are predicted, so memory does not grow with their number.

    Args:
        paths: Files, folders (searched recursively) and globs.
        model: An architecture, `architecture.tag`, a folder with `config.json` and `model.safetensors`, or
            an `hf-hub:` name.
        topk: Number of classes per image. A model for several labels per image returns every label over its own
            threshold.
        engine: As for `deploy.optimize`. By default, classifiers run in fp32 on an installed runtime on the CPU. Up to
            10 images run on the runtime that starts fastest. More images run on the fastest one on this machine, which
            is measured once, in the first job with at least 256 images. Models that must be
            exported for a runtime, such as detectors and segmenters, run on `torch` until they have predicted 1,600
            images in all jobs, which take as long as the export. On a GPU, the default is plain PyTorch, or `torch` if
            the precision is not `fp32`. `auto` measures for any number of images.
        precision: As for `deploy.optimize`.
        calibration: Folder of images, for `int8`.
        exact: Preprocess images as in timm, bit for bit. Always on for up to 10 images. Otherwise, large JPEGs are
            decoded at a fraction of their size, among other savings.
        batch_size: Images per batch.
        device: The device, such as `cuda:1`. By default the CPU if an engine or a precision is given, and otherwise the
            accelerator if there is one.
        output: File to write the rows to as well: CSV or Parquet for `.csv` or `.parquet`, COCO results of a detector
            for `.coco.json` (`image_id` is the number of the image's row, from 1), or else JSON Lines. The file
            appears when all rows are complete. If the process is killed, the same call resumes and yields the missing
            rows.
        cache: Folder for compiled `onnxruntime` and `openvino` models, as for `deploy.optimize`. Default: `engines` in
            `MNV2ZOO_HOME`, which takes at most 1 GiB. `mnv2zoo cache` lists and clears it. If the default folder is not
            writable, nothing is cached.
        task: The task, as for `finetune`. Default: the task of the run. A run for your own task needs it, because code
            is never imported just because a run folder names it.
        files: Folder for files such as masks, for tasks that write some.
        threshold: Minimum score of boxes, from 0 to 1 (default: 0.5). For several labels per image, the minimum score
            of every label (default: the thresholds of the model). Other tasks ignore it.
        save_images: Folder for copies of the images with boxes or masks drawn in.
        explain: Folder for a heat map of each image (Grad-CAM of a classifier's top class).
        reject_below: Add `"rejected": True` to the row of each image whose top score is below this number (0 to 1).
            CSV and Parquet files then have a column `rejected`. For classifiers.

    Yields:
        A row per image, or the reason why the image cannot be read. A classifier's row is `{"image": ..., "model": ...,
        "predictions": [{"class": int, "label": str, "score": float}, ...]}`.

    Raises:
        TaskError: If the task does not exist, a run has its own task and none is given, or an argument does not apply
            to the task.
        ArgumentError: If `reject_below` is not a number from 0 to 1.
        UnknownModelError: If the model does not exist.
        WeightsError: If its weights cannot be found, downloaded or verified.
        DeviceError: If the device cannot be used.
        DeployError: If the engine cannot run the model, or the cache cannot be used.
        MissingExtraError: If a package that the engine or the output needs is not installed.
        OSError: If the output cannot be written.
        OutputError: If the output cannot be resumed, because another process writes to it, or an unfinished run has
            other arguments.
    """
    settings = Settings(
        str(model),
        topk,
        engine,
        precision,
        calibration=str(calibration) if calibration else None,
        exact=exact,
        task=task,
        files=str(files) if files else None,
        threshold=threshold,
        save_images=str(save_images) if save_images else None,
        explain=str(explain) if explain else None,
        reject_below=reject_below,
    )
    yield from run(paths, settings, batch_size=batch_size, device=device, output=output, cache=cache)


def run(
    paths: str | Path | Iterable[str | Path],
    settings: Settings,
    *,
    batch_size: int = 32,
    device: str | None = None,
    output: str | Path | None = None,
    cache: str | Path | None = None,
) -> Generator[Row | ImageReadError, None, None]:
    """Predicts images like `predict`, with its arguments in one object.

    Args:
        paths: As for `predict`.
        settings: The settings that affect the rows.
        batch_size: As for `predict`.
        device: As for `predict`.
        output: As for `predict`.
        cache: As for `predict`.

    Yields:
        A row per image, or the reason why the image cannot be read.
    """
    task = settings.find_task()
    places = [os.fspath(paths)] if isinstance(paths, str | Path) else [os.fspath(path) for path in paths]
    settings = replace(settings, task=task, root=discover.common_root(places))
    sources = discover.walk(places, task.in_chans(settings.model))
    for source in sources:  # without images, no model is loaded
        if isinstance(source, Path):
            break
        yield source
    else:
        return
    # Count enough images to know whether the job is small.
    first = [source, *itertools.islice(sources, session.LOOK_AHEAD - 1)]
    images = sum(isinstance(one, Path) for one in first)
    sources = itertools.chain(first, sources)

    predictor = partial(Predictor, settings, device, Path(cache) if cache else None, images)
    if output is None:
        yield from _predicted(sources, settings, task, batch_size, predictor, None, places, images)
        return
    with Journal(Path(output)) as journal:
        yield from _predicted(sources, settings, task, batch_size, predictor, journal, places, images)
        journal.finish()


def _predicted(
    sources: Iterator[Path | ImageReadError],
    settings: Settings,
    task: Task,
    batch_size: int,
    load: Callable[[], Predictor],
    journal: Journal | None,
    places: Sequence[str],
    images: int,
) -> Iterator[Row | ImageReadError]:
    if journal and journal.done:
        count = f"{journal.done} image{'s' if journal.done > 1 else ''}"
        warnings.warn(f"{journal.output}: resuming an unfinished run after {count}", stacklevel=4)
        sources = (source for source in sources if isinstance(source, ImageReadError) or source not in journal)
    predictor: Predictor | None = None
    how: Preprocessing | None = None
    if task.loads_from_zoo and not settings.exact:
        described = names.describe_local(settings.model)
        how = described.preprocessing if described else None
        how = replace(how, exact=images <= session.FEW) if how else None
    ahead = max(AHEAD, 2 * batch_size)
    if how is None:
        predictor = load()
        how, ahead = predictor.session.preprocessing, 2 * batch_size
    read_one = partial(_open, at_least=how.at_least, channels=how.channels)
    with contextlib.closing(decode.read_all(sources, how.prepare, ahead, read_one)) as all:
        # The request for the first image starts the reading threads, which continue while the model is loaded.
        read = itertools.chain(list(itertools.islice(all, 1)), all)
        predictor = predictor or load()
        if journal:
            journal.begin({"paths": places, **predictor.facts()}, task)
        for batch, rows in _in_turns(iter(lambda: list(itertools.islice(read, batch_size)), []), predictor):
            if journal:
                journal.add(rows)
            rest = iter(rows)
            for _, prepared in batch:
                yield prepared if isinstance(prepared, ImageReadError) else next(rest)


Batch = list[tuple[Any, Any]]  # names of images, with the preprocessed images or the reasons why they cannot be read


def _in_turns(batches: Iterator[Batch], predictor: Predictor) -> Iterator[tuple[Batch, list[Row]]]:
    """Yields batches with their rows, in order.

    While a runtime computes a batch, another thread finishes the one before and prepares the one after it. PyTorch's
    own engines get no second thread, whose team of OpenMP threads would compete with the first one's.
    """

    def rows_of(batch: Batch) -> list[Row]:
        ready = [(source, prepared) for source, prepared in batch if not isinstance(prepared, ImageReadError)]
        return predictor(*zip(*ready, strict=True)) if ready else []

    for batch in itertools.islice(batches, 1):  # alone, because it starts the engine
        yield batch, rows_of(batch)
    if predictor.session.engine in RUNTIMES:
        yield from in_order(batches, rows_of, IN_TURNS, IN_TURNS)
    else:
        yield from ((batch, rows_of(batch)) for batch in batches)


def _open(source: Path | ImageReadError, at_least: int | None, channels: int) -> Any:
    if isinstance(source, ImageReadError):
        raise source
    return decode.read(source, at_least=at_least, channels=channels)

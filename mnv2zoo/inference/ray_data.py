"""Predicts images on several machines, as a Ray Data pipeline.

Requires the extra `ray`: `pip install -e ".[ray]"` in a checkout.

Ray reads the images, sends batches to workers that have loaded the model, and writes the rows. If a worker dies, Ray
repeats its batches.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from mnv2zoo.data import decode, discover
from mnv2zoo.errors import ImageReadError, MissingExtraError, OutputError, TaskError
from mnv2zoo.inference.journal import REJECTED, parquet_schema
from mnv2zoo.inference.predict import Predictor, Settings
from mnv2zoo.models import names
from mnv2zoo.system import files
from mnv2zoo.system.files import as_text
from mnv2zoo.system.installation import install_command

try:
    import pyarrow as pa
    import pyarrow.dataset
    import ray
    import ray.data
except ImportError as error:
    raise MissingExtraError("Ray is not installed", found=error, fix=f"Run: {install_command('ray')}") from error

# Reading and writing take little CPU time. With this share of a core, they fit alongside one worker per core.
LIGHT = 0.1


def predict(
    paths: Sequence[str],
    output: str,
    settings: Settings,
    *,
    batch_size: int = 32,
    workers: int | None = None,
) -> list[ImageReadError]:
    """Predicts images on all machines of a Ray cluster.

    Ray starts on this machine, unless it is already running or `RAY_ADDRESS` names a cluster.

    Args:
        paths: Images, and folders that are searched recursively. They are local, or in a store that Ray supports, such
            as `s3://bucket/photos`.
        output: Folder for Parquet files. It must be new or, on this machine, empty. A local folder appears when all
            rows are complete.
        settings: The model, the task and all other settings that affect the rows.
        batch_size: Images per batch.
        workers: Number of processes that load the model. Default: one per core of the cluster.

    Returns:
        An error for each unreadable image. The row of such an image has the error in the column `error`, and no
        predictions.

    Raises:
        UnknownModelError: If no model has that name.
        TaskError: If the task does not exist, or does not declare its columns.
        ImageReadError: If there are no images.
        OutputError: If the folder is not empty.
        ray.exceptions.RayError: If a worker raises an error. A worker that dies is restarted, and its batches are
            repeated.
    """
    _check(settings)
    remote = "://" in output
    folder = output if remote else str(Path(output).absolute().with_name(f".{Path(output).name}.partial"))
    if not remote:
        if not files.vacant(Path(output)):
            raise OutputError(
                f"the output folder {output} is not empty",
                expected="a new or empty folder",
                found="other files",
                where=output,
                fix="Choose another folder.",
            )
        shutil.rmtree(folder, ignore_errors=True)
    if not ray.is_initialized():
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False

    sources, missed = _sources(paths, settings.find_task().in_chans(settings.model))
    rows = classify(sources, settings, batch_size=batch_size, workers=workers)
    rows.write_parquet(folder, mode=ray.data.SaveMode.CREATE, ray_remote_args={"num_cpus": LIGHT})
    if not remote:
        files.move_folder(Path(folder), Path(output))
    return [*missed, *_errors(output)]


def _check(settings: Settings) -> None:
    """Finds the task and the model before Ray starts.

    Raises:
        TaskError: If the task does not declare its columns, which must be the same in all workers.
    """
    task = settings.find_task()
    if task.parquet_fields() is None:
        raise TaskError(
            f"the task {task.name} does not declare its columns, which Ray needs",
            expected="a list of names and types",
            found="None",
            where="parquet_fields",
            fix="Define the task's method `parquet_fields`, or predict without --ray.",
        )
    names.describe_local(settings.model)


def _sources(paths: Sequence[str], channels: int) -> tuple[ray.data.Dataset, list[ImageReadError]]:
    """Finds the images, and returns errors for unreadable ones. Ray's own search skips names such as `_1.jpg`."""
    if any("://" in path for path in paths):
        endings: list[str] | None = sorted(ending.removeprefix(".") for ending in discover.endings(channels))
        places, missed = list(paths), []
    else:
        endings = None
        found = list(discover.walk(paths, channels))
        missed = [item for item in found if isinstance(item, ImageReadError)]
        missed += [
            ImageReadError("cannot read the image", found="no such file", where=item)
            for item in found
            if isinstance(item, Path) and not item.is_file()
        ]
        places = [str(item) for item in found if isinstance(item, Path) and item.is_file()]
        if not places:
            raise missed[0]
    try:
        images = ray.data.read_binary_files(places, include_paths=True, file_extensions=endings, num_cpus=LIGHT)
    except ValueError as error:
        raise ImageReadError(
            f"no images found in {', '.join(paths)}"[:200],
            expected="files or folders with images",
            found=str(error).partition(".")[0],
            where=", ".join(paths),
            fix="Check the paths.",
        ) from error
    return images, missed


def classify(
    sources: ray.data.Dataset, settings: Settings, *, batch_size: int = 32, workers: int | None = None
) -> ray.data.Dataset:
    """Predicts images from any source that Ray supports.

    Args:
        sources: Images, with their names in the column `path` and the content of their files in `bytes`.
        settings: As for `predict`.
        batch_size: As for `predict`.
        workers: As for `predict`.

    Returns:
        A row per image, with the columns of `mnv2zoo.predict` and `error`, which is null unless the image is
        unreadable.
    """
    return sources.map_batches(
        Worker,
        fn_constructor_args=(settings,),
        batch_size=batch_size,
        batch_format="pyarrow",
        concurrency=workers or max(1, int(ray.cluster_resources()["CPU"])),
        num_cpus=1 - LIGHT,
    )


class Worker:
    """A process that loads the model once and predicts batches."""

    def __init__(self, settings: Settings) -> None:
        self.predictor = Predictor(settings)
        self.rejects = settings.reject_below is not None
        self.schema = parquet_schema(self.predictor.task, self.rejects).append(pa.field("error", pa.string()))
        own = [pa.field(*names) for names in self.predictor.task.parquet_fields() or ()]
        self.empty: dict[str, Any] = {field.name: [] if pa.types.is_list(field.type) else None for field in own}

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Predicts a batch.

        Args:
            batch: Columns `path` and `bytes`.

        Returns:
            The rows.
        """
        how = self.predictor.session.preprocessing
        sources = list(zip(*(batch[name].to_pylist() for name in ("path", "bytes")), strict=True))

        def read(source: tuple[str, bytes]) -> Any:
            return decode.read(BytesIO(source[1]), source[0], how.at_least, channels=how.channels)

        found = [(path, prepared) for (path, _), prepared in decode.read_all(sources, how.prepare, read=read)]
        ready = [(path, prepared) for path, prepared in found if not isinstance(prepared, ImageReadError)]
        classified = iter(self.predictor(*zip(*ready, strict=True)) if ready else [])
        rows = [
            {"image": path, "model": self.predictor.session.name, **self.empty, "error": prepared.summary}
            if isinstance(prepared, ImageReadError)
            else next(classified)
            for path, prepared in found
        ]
        if self.rejects:
            rows = [{**row, REJECTED: None if row.get("error") else row.get(REJECTED, False)} for row in rows]
        return pa.Table.from_pylist([{**row, "image": as_text(row["image"])} for row in rows], self.schema)


def _errors(output: str) -> list[ImageReadError]:
    rows = pyarrow.dataset.dataset(output, format="parquet")
    failed = rows.to_table(columns=["image", "error"], filter=pyarrow.dataset.field("error").is_valid())
    return [
        ImageReadError("the image was skipped", found=row["error"], where=row["image"]) for row in failed.to_pylist()
    ]

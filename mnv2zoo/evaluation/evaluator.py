"""Evaluates a model on images."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import default_collate

from mnv2zoo.data import decode
from mnv2zoo.data.datasets import AnySample, Data
from mnv2zoo.data.layout import LAYOUT_FIELDS, Layout
from mnv2zoo.errors import DataError, ImageReadError, RecipeError, TaskError
from mnv2zoo.evaluation import predictions
from mnv2zoo.model_dir import records
from mnv2zoo.model_dir import split as splits
from mnv2zoo.models.pretrained import Network, enough_memory
from mnv2zoo.system import memory
from mnv2zoo.tasks import Metric, Task, find_task
from mnv2zoo.tasks.tensors import in_single_precision, to_cpu, to_device

Showing = Callable[[int], contextlib.AbstractContextManager[Callable[[int], Any]]]


def evaluate(
    data: str | Path,
    model: str | Path,
    *,
    split: str | None = None,
    task: str | Task | type[Task] | None = None,
    layout: str | None = None,
    train_dir: str | None = None,
    val_dir: str | None = None,
    test_dir: str | None = None,
    ignore_index: int | None = None,
    skip_bad_images: bool = False,
    batch_size: int = 32,
    device: str | None = None,
    output: str | Path | None = None,
    progress: Showing | None = None,
) -> Any:
    """Measures a model on your images; see `mnv2zoo.evaluate`.

    Args:
        data: Your images, in any layout that `finetune` accepts.
        model: A model name from the zoo, or a folder or `hf-hub:` repository with `config.json`, such as a run folder.
        split: The split, as for `mnv2zoo.evaluate`.
        task: The task, as for `mnv2zoo.evaluate`.
        layout: What the subfolders of the data are: `classes` or `splits`. By default as the run recorded, else
            detected.
        train_dir: Folder of training images, absolute or inside the data.
        val_dir: Folder of validation images.
        test_dir: Folder of test images.
        ignore_index: Segmentation: mask value of pixels to ignore. By default as the run recorded, or 255.
        skip_bad_images: Whether to skip unreadable images.
        batch_size: Images per batch.
        device: The device. By default the accelerator if there is one, else the CPU.
        output: File for the scores of each image: CSV or Parquet if it ends in `.csv` or `.parquet`, else JSON Lines.
        progress: A function from the number of images to a context manager, which provides a function that is called
            with the number of images of each batch.

    Returns:
        The scores. `measured` says which images were measured.

    Raises:
        DataError: If the images are not in a supported layout, a folder name is not a class of the model, or only some
            of the images belong to the run.
        ImageReadError: If an image cannot be read and `skip_bad_images` is False.
        WeightsError: If the model's weights cannot be found, downloaded or verified.
        DeviceError: If the device cannot be used.
        TaskError: If the task is unknown, the run's task is not built in and `task` is None, or `output` is given and
            the task has no scores per image.
        MissingExtraError: If the output needs a package that is not installed.
        OSError: If the output cannot be written.

    Warns:
        UserWarning: If files in the data are not used.
    """
    model = str(model)
    task = find_task(task, records.task_name(model), model).of_model(model)
    file = _output(task, output)
    given = Layout(layout, train_dir, val_dir, test_dir, skip_bad_images=skip_bad_images)
    found = _find(task, data, model, given, ignore_index)
    for note in found.notes:
        warnings.warn(note, stacklevel=3)
    chosen = splits.choose(found, model, split, data)
    net = task.load_model(model, device)
    samples = task.align(chosen.samples, found, net.label_names)
    metric = task.metrics(net.label_names)
    metric.temperature = net.temperature
    showing = progress(len(samples)) if progress else contextlib.nullcontext(lambda images: None)
    with torch.inference_mode(), memory.kept(), showing as done:
        measured = _run_network(task, net, samples, metric, batch_size, skip_bad_images, done)
    if not measured:
        raise DataError("none of the images can be read", where=data, fix="Check that the files are images.")
    left_out = len(samples) - len(measured)
    skipped = f"; {left_out} unreadable images skipped" if left_out else ""
    scores = replace(metric.compute(), measured=chosen.measured + skipped)
    if file is not None:
        predictions.write(file, *task.measured_rows(metric, [s.name for s in measured], net.label_names))
    return scores


def _output(task: Task, output: str | Path | None) -> Path | None:
    if output is None:
        return None
    if not task.keeps_scores:
        raise TaskError(
            f"the task {task.name} has no scores per image",
            expected="a classification task",
            found=task.name,
            where="output",
            fix="Leave out --output, or use `mnv2zoo predict --output`.",
        )
    predictions.check(Path(output))
    return Path(output)


def _run_network(
    task: Task,
    net: Network,
    samples: Sequence[AnySample],
    metric: Metric,
    batch_size: int,
    skip_bad_images: bool,
    done: Callable[[int], Any],
) -> list[AnySample]:
    """Adds the outputs of all images to the metric, and returns the samples that could be read."""
    transforms, collate = task.transforms(net.config), task.collate or default_collate
    measured: list[AnySample] = []
    read = decode.read_all(
        samples,
        lambda pair: transforms(*pair),
        ahead=2 * batch_size,
        read=lambda sample: (sample.read(), sample.target),
    )
    with contextlib.closing(read):
        while batch := list(itertools.islice(read, batch_size)):
            good = [(sample, pair) for sample, pair in batch if not isinstance(pair, ImageReadError)]
            ready = [pair for _, pair in good]
            if len(ready) < len(batch) and not skip_bad_images:
                raise next(error for _, error in batch if isinstance(error, ImageReadError))
            if ready:
                with enough_memory(net.device, len(ready)):
                    inputs, targets = to_device(collate(ready), net.device)
                    outputs = to_cpu(task.condense(in_single_precision(net.model(inputs)), targets))
                metric.update(*outputs)
            measured += [sample for sample, _ in good]
            done(len(batch))
    return measured


def _find(task: Task, data: str | Path, model: str, given: Layout, ignore_index: int | None) -> Data:
    """Finds the images. The default layout is the one that the run recorded."""
    recorded = records.recorded(model)
    recipe = recorded.get("recipe", recorded)
    was = {name: recipe[name] for name in LAYOUT_FIELDS if name in recipe} if isinstance(recipe, dict) else {}
    ignored = was.get("ignore_index", given.ignore_index) if ignore_index is None else ignore_index
    own: dict[str, Any] = {
        "ignore_index": ignored,
        "skip_bad_images": given.skip_bad_images,
        "in_chans": task.in_chans(model),
    }
    if was and given == Layout(skip_bad_images=given.skip_bad_images):
        with contextlib.suppress(DataError, RecipeError):  # other data may have other folders
            return task.find_data(data, replace(Layout(**was), **own))
    return task.find_data(data, replace(given, **own))

"""Evaluation of a network on a folder of photos."""

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
    """Measures a network on photos.

    On the photos that a run trained on, its held-out part is measured: its test images if it has some, or else its
    validation images. They are recognized by their content, so the folder may have moved, be a tar file now, or hold
    further photos.

    Args:
        data: Photos, laid out as for `finetune`.
        model: A name of the zoo, or a folder or `hf-hub:` repository with `config.json`, such as a run folder.
        split: `train`, `val` or `test`: of the run, where the photos are the run's, and of the data otherwise. `all`
            for all photos. By default the run's held-out part; on other photos the last split that is there, or all
            photos where there are none.
        task: The task, as for `mnv2zoo.evaluate`.
        layout: `classes` if each folder is a class, `splits` if the folders are splits; by default what the folders'
            names and contents say, or what the run was told.
        train_dir: Folder of the training images, within the data or anywhere.
        val_dir: Folder of the validation images.
        test_dir: Folder of the test images.
        ignore_index: Number in masks of pixels that belong to no class; by default that of the run, or 255.
        skip_bad_images: Leave out images that cannot be read.
        batch_size: Images that go through the network at once.
        device: Where to compute; by default the accelerator if there is one.
        output: File for the scores of each image: CSV or Parquet if it ends in `.csv` or `.parquet`, or else JSON
            lines.
        progress: Takes the number of images, and gives a context whose function takes the number of images done.

    Returns:
        The scores. Their `measured` says in words which images they are of.

    Raises:
        DataError: If the images are not laid out as they must be, a folder's name is none of the network's
            classes, or only some of the images are those of the run.
        ImageReadError: If an image cannot be read and is not to be skipped.
        WeightsError: If the network's weights cannot be found, fetched or verified.
        DeviceError: If the device cannot be used.
        TaskError: If there is no such task, the run's task is not built in and none is given, or `output` is given
            and the task keeps no scores.
        MissingExtraError: If the output needs a package that is not installed.
        OSError: If the output cannot be written.

    Warns:
        UserWarning: In one line, about files in the data that are not used.
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
        raise DataError("no image can be read", where=data, fix="Check that the files are images.")
    left_out = len(samples) - len(measured)
    skipped = f"; {left_out} that cannot be read left out" if left_out else ""
    scores = replace(metric.compute(), measured=chosen.measured + skipped)
    if file is not None:
        predictions.write(file, *task.measured_rows(metric, [s.name for s in measured], net.label_names))
    return scores


def _output(task: Task, output: str | Path | None) -> Path | None:
    if output is None:
        return None
    if not task.keeps_scores:
        raise TaskError(
            f"the task {task.name} keeps no scores of each image",
            expected="a classifier",
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
    """Adds the outputs for all images to the metric, and returns those that could be read."""
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
    """Finds the images. Where nothing else is given, they are laid out as the run recorded."""
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

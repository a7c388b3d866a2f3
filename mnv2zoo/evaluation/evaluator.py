"""How good a network is on a folder of photos."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mnv2zoo.data import datasets as data_module
from mnv2zoo.data import decode
from mnv2zoo.data.datasets import Data
from mnv2zoo.data.labels import match_classes
from mnv2zoo.data.layout import LAYOUT_FIELDS, Layout
from mnv2zoo.errors import DataError, ImageReadError, RecipeError
from mnv2zoo.model_dir import split as splits
from mnv2zoo.models import pretrained
from mnv2zoo.system import memory
from mnv2zoo.tasks import recipe as recipes
from mnv2zoo.tasks.classify.metrics import Scores, score


def evaluate(
    data: str | Path,
    model: str | Path,
    *,
    split: str | None = None,
    layout: str | None = None,
    train_dir: str | None = None,
    val_dir: str | None = None,
    test_dir: str | None = None,
    skip_bad_images: bool = False,
    batch_size: int = 32,
    device: str | None = None,
    progress: Callable[[int], contextlib.AbstractContextManager[Callable[[int], Any]]] | None = None,
) -> Scores:
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
        layout: `classes` if each folder is a class, `splits` if the folders are splits; by default what the folders'
            names and contents say, or what the run was told.
        train_dir: Folder of the training images, within the data or anywhere.
        val_dir: Folder of the validation images.
        test_dir: Folder of the test images.
        skip_bad_images: Leave out images that cannot be read.
        batch_size: Images that go through the network at once.
        device: Where to compute; by default the first GPU if there is one.
        progress: Told how many images there are, gives a function that is told of images done.

    Returns:
        The figures. Their `measured` says in words which images they are of.

    Raises:
        DataError: If the images are not laid out as they must be, a folder's name is none of the network's
            classes, or only some of the images are those of the run.
        ImageReadError: If an image cannot be read and is not to be skipped.
        WeightsError: If the network's weights cannot be found, fetched or verified.
        DeviceError: If the device cannot be used.

    Warns:
        UserWarning: In one line, of what was found in the data and not used.
    """
    model = str(model)
    found = _find(data, model, Layout(layout, train_dir, val_dir, test_dir))
    for note in found.notes:
        warnings.warn(note, stacklevel=3)
    chosen = splits.choose(found, model, split, data)
    samples = chosen.samples
    net = pretrained.load(model, device)
    present = sorted({sample.label for sample in samples})
    named = match_classes([found.class_names[label] for label in present], net.label_names)
    classes = dict(zip(present, named, strict=True))

    logits: list[torch.Tensor] = []
    targets: list[int] = []
    read = decode.read_all(samples, net.transform, ahead=2 * batch_size, read=lambda sample: sample.read())
    showing = progress(len(samples)) if progress else contextlib.nullcontext(lambda images: None)
    with contextlib.closing(read), torch.inference_mode(), memory.kept(), showing as done:
        while batch := list(itertools.islice(read, batch_size)):
            tensors = []
            for sample, image in batch:
                if not isinstance(image, ImageReadError):
                    tensors.append(image)
                    targets.append(classes[sample.label])
                elif not skip_bad_images:
                    raise image
            if tensors:
                logits.append(net.model(torch.stack(tensors).to(net.device)).float().cpu())
            done(len(batch))
    if not logits:
        raise DataError("no image can be read", where=data, fix="Check that the files are images.")
    scores = score(torch.cat(logits), torch.tensor(targets), tuple(net.label_names))
    left_out = len(samples) - scores.images
    skipped = f"; {left_out} that cannot be read left out" if left_out else ""
    return replace(scores, measured=chosen.measured + skipped)


def _find(data: str | Path, model: str, given: Layout) -> Data:
    """Finds the images, laid out as the run was told where nothing else is given."""
    recipe = splits.run_folder(model) / "recipe.json"
    if given == Layout() and recipe.is_file():
        with contextlib.suppress(DataError, RecipeError):  # other data may have other folders
            values = recipes.read(recipe)
            told = Layout(**{name: values.get(name) for name in LAYOUT_FIELDS})
            return data_module.find(data, layout=told)
    return data_module.find(data, layout=given)

"""How good a network is on a folder of photos."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mnv2zoo import network
from mnv2zoo.data import decode
from mnv2zoo.errors import DataError, ImageReadError
from mnv2zoo.labels import match_classes
from mnv2zoo.training import data as data_module
from mnv2zoo.training import memory
from mnv2zoo.training.data import SPLITS
from mnv2zoo.training.metrics import Scores, score


def evaluate(
    data: str | Path,
    model: str,
    *,
    split: str | None = None,
    skip_bad_images: bool = False,
    batch_size: int = 32,
    device: str | None = None,
    progress: Callable[[int], contextlib.AbstractContextManager[Callable[[int], Any]]] | None = None,
) -> Scores:
    """Measures a network on photos.

    Args:
        data: Photos, laid out as for `finetune`; a plain folder of classes is evaluated whole.
        model: A name of the zoo, or a folder or `hf-hub:` repository with `config.json`.
        split: `train`, `val` or `test`; by default the last of them that is there.
        skip_bad_images: Leave out images that cannot be read.
        batch_size: Images that go through the network at once.
        device: Where to compute; by default the first GPU if there is one.
        progress: Told how many images there are, gives a function that is told of images done.

    Returns:
        The figures.

    Raises:
        DataError: If the images are not laid out as they must be, or a folder's name is none of the
            network's classes.
        ImageReadError: If an image cannot be read and is not to be skipped.
        WeightsError: If the network's weights cannot be found, fetched or verified.
        DeviceError: If the device cannot be used.
    """
    found = data_module.find(data)
    chosen = split or [name for name in SPLITS if name in found.splits][-1]
    if chosen not in found.splits:
        raise DataError("no such split", expected=" or ".join(found.splits), found=repr(chosen), where=data)
    samples = found.splits[chosen]
    net = network.load(model, device)
    classes = match_classes(found.class_names, net.label_names)

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
        raise DataError("no image can be read", where=data)
    return score(torch.cat(logits), torch.tensor(targets), tuple(net.label_names))

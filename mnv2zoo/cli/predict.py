"""`mnv2zoo predict`: the classes of images."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mnv2zoo.cli import errors
from mnv2zoo.cli.options import Debug
from mnv2zoo.cli.output import progress
from mnv2zoo.errors import ImageReadError
from mnv2zoo.files import whole_file

if TYPE_CHECKING:
    import torch

    from mnv2zoo.network import Network

EXAMPLE = """\b
Examples:
  mnv2zoo predict photo.jpg
  mnv2zoo predict photos/ "more/**/*.png" --topk 3 --output rows.jsonl
"""


def command(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH", help="Images, folders (with all below them) and globs.", show_default=False),
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME|RUN",
            help="An architecture, architecture.tag, a folder with config.json and model.safetensors, "
            "or an hf-hub: name.",
        ),
    ] = "mnv2zoo_100",
    topk: Annotated[int, typer.Option(min=1, help="Classes to tell for each image.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line each image.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the JSON lines to this file too, whole or not at all."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that go through the network at once.")] = 32,
    device: Annotated[
        str | None, typer.Option(help="Where to compute, such as cpu or cuda:1; by default a GPU if there is one")
    ] = None,
    debug: Debug = False,
) -> None:
    """Classify images.

    For each image the most probable classes are printed, with scores from 0 to 1. An image that cannot be
    read is told of on stderr; the others go on, and the exit status is 1.
    """
    from mnv2zoo import images, network

    status = 0
    files: dict[str, Path] = {}
    for place in paths:
        try:
            for file in images.find(place):
                files.setdefault(os.path.abspath(file), file)  # noqa: PTH100  # without following links
        except ImageReadError as error:
            status = errors.report(error, debug)
    if not files:
        raise typer.Exit(status)

    with whole_file(output) if output else contextlib.nullcontext() as rows_file:
        classifier = network.load(model, device)
        with progress("classifying", len(files)) as (show, advance):
            for row in classify_files(classifier, list(files.values()), topk, batch_size):
                if isinstance(row, ImageReadError):
                    status = errors.report(row, debug)
                else:
                    line = json.dumps(row, allow_nan=False)
                    show(line if as_json else _describe(row))
                    if rows_file:
                        rows_file.write(f"{line}\n".encode())
                advance(1)
    raise typer.Exit(status)


def classify_files(
    network: Network, files: Iterable[Path], topk: int, batch_size: int
) -> Iterator[dict[str, Any] | ImageReadError]:
    """Classifies files in batches, with the next batch being read meanwhile.

    Args:
        network: The network.
        files: The images.
        topk: Classes to tell for each; all if there are fewer.
        batch_size: Images that go through the network at once.

    Yields:
        For each file, in order, its row, or why it cannot be read.
    """
    from mnv2zoo import images

    with contextlib.closing(images.read_all(files, network.transform, ahead=2 * batch_size)) as read:
        while batch := list(itertools.islice(read, batch_size)):
            ready = [(file, tensor) for file, tensor in batch if not isinstance(tensor, ImageReadError)]
            rows = iter(classify(network, ready, topk) if ready else [])
            for _, result in batch:
                yield result if isinstance(result, ImageReadError) else next(rows)


def classify(network: Network, images: Sequence[tuple[Path, torch.Tensor]], topk: int) -> list[dict[str, Any]]:
    """Classifies a batch of images.

    Args:
        network: The network.
        images: Files, and what the network's transform made of them.
        topk: Classes to tell for each; all if there are fewer.

    Returns:
        A row for each image, its predictions from the most probable on.
    """
    import torch

    with torch.inference_mode():
        batch = torch.stack([tensor for _, tensor in images])
        scores = network.model(batch.to(network.device)).float().softmax(dim=1)
    top = scores.topk(min(topk, scores.shape[1]))
    return [
        {
            "image": str(file),
            "model": network.name,
            "predictions": [
                # A float32 has no further digits to tell.
                {"class": index, "label": network.label_names[index], "score": round(score, 6)}
                for index, score in zip(indices, values, strict=True)
            ],
        }
        for (file, _), indices, values in zip(images, top.indices.tolist(), top.values.tolist(), strict=True)
    ]


def _describe(row: dict[str, Any]) -> str:
    lines = [f"  {p['score']:.4f}  {p['class']:>4}  {p['label']}" for p in row["predictions"]]
    return "\n".join([row["image"], *lines])

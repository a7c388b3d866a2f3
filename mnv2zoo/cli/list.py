"""`mnv2zoo list`: print the zoo models as a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from mnv2zoo.cli.info import describe, giga, percent
from mnv2zoo.cli.options import Debug, Json
from mnv2zoo.cli.output import print_json, print_table

EXAMPLE = "\b\nExample:\n  mnv2zoo list --pretrained"


def command(
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="List only models with pretrained weights, by architecture.tag.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List models and pretrained weights.

    Weights are "pinned" if the index contains their SHA-256. Otherwise they are trusted on "first use": the hash of the
    first download is recorded, and later loads must match it.
    """
    from mnv2zoo.models import zoo

    models = [describe(name) for name in zoo.list_models(pretrained)]
    if as_json:
        print_json(models)
        return
    columns = ["name", " params", " GMACs", " input", "weights", "trust", " top-1", "license"]
    print_table(columns, [row for model in models for row in _rows(model)])


def _rows(model: dict[str, Any]) -> Iterator[list[str]]:
    """One row per set of weights; only the first row names the model."""
    _, height, width = model["input_size"]
    size = str(height) if height == width else f"{height}x{width}"
    network = [model["name"], f"{model['params'] / 1e6:.2f} M", giga(model["macs"]), size]
    for name, entry in model["weights"].items():
        tag = name.partition(".")[2]
        yield [*network, tag, entry["trust"], percent(entry["metrics"].get("top1")), entry["license"]]
        network = [""] * len(network)
    if not model["weights"]:
        yield [*network, "-", "-", "-", "-"]

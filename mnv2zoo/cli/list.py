"""`mnv2zoo list`: the zoo as a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from mnv2zoo.cli.info import describe, giga, percent
from mnv2zoo.cli.options import Debug, Json
from mnv2zoo.cli.output import print_json, print_table

EXAMPLE = "\b\nExample:\n  mnv2zoo list --pretrained"


def command(
    pretrained: Annotated[bool, typer.Option("--pretrained", help="List weights instead of architectures.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the networks, their figures and their weights.

    Weights are "pinned" if the index has their SHA-256. Otherwise they are trusted on "first use": the hash that the
    Hub gives then is recorded, and must not change.
    """
    from mnv2zoo.models import zoo

    models = [describe(name) for name in zoo.list_models(pretrained)]
    if as_json:
        print_json(models)
        return
    columns = ["name", " params", " GMACs", " input", "weights", "trust", " top-1", "license"]
    print_table(columns, [row for model in models for row in _rows(model)])


def _rows(model: dict[str, Any]) -> Iterator[list[str]]:
    """One row for each of a network's weights, which names the network only once."""
    _, height, width = model["input_size"]
    size = str(height) if height == width else f"{height}x{width}"
    network = [model["name"], f"{model['params'] / 1e6:.2f} M", giga(model["macs"]), size]
    for name, entry in model["weights"].items():
        tag = name.partition(".")[2]
        yield [*network, tag, entry["trust"], percent(entry["metrics"].get("top1")), entry["license"]]
        network = [""] * len(network)
    if not model["weights"]:
        yield [*network, "-", "-", "-", "-"]

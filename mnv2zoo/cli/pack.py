"""`mnv2zoo weights pack`: make a run ready for the Hub."""

from __future__ import annotations

import shlex
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mnv2zoo.cli import errors
from mnv2zoo.cli.options import Debug
from mnv2zoo.cli.output import print_json

if TYPE_CHECKING:
    from mnv2zoo.model_dir.packaging import Package

EXAMPLE = "\b\nExample:\n  mnv2zoo weights pack runs/tulips --name mnv2zoo_100.tulips --license MIT --push you/tulips"


def command(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A folder that `mnv2zoo finetune` wrote.", show_default=False)
    ],
    name: Annotated[
        str,
        typer.Option(metavar="ARCH.TAG", help="What to call the weights: the run's architecture and a tag of yours."),
    ],
    license: Annotated[str, typer.Option(metavar="LICENSE", help="Their license, such as Apache-2.0 or CC-BY-4.0.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The package: a new folder, or a former package. RUN/package by default."),
    ] = None,
    repo_id: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="The repository that the entry names, without pushing.")
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Upload the package to this repository, making it if need be."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push: make the repository a private one.")] = False,
    description: Annotated[str | None, typer.Option(metavar="TEXT", help="What the weights are, in a line.")] = None,
    debug: Debug = False,
) -> None:
    """Make a run ready for the Hub, and print its index entry.

    The run is verified first. The package holds model.safetensors and config.json, which timm reads as
    hf-hub:OWNER/NAME, a model card, and the entry in index_entry.json. The entry has the file's true hash and
    size, and once pushed the commit; without a repository it tells of ARCH.TAG.safetensors beside the index.
    """
    if push is not None and repo_id is not None:
        raise errors.UsageError("Give --push or --repo-id: --push names the repository too.")
    if private and push is None:
        raise errors.UsageError("--private goes with --push.")
    from mnv2zoo.model_dir import packaging

    package = packaging.pack(run, name, license, out, push or repo_id, description)
    if push is not None:
        package = packaging.push(package, private)
    print_json(package.index_entry())
    if package.beyond:
        warnings.warn(
            f"no entry is made: config.json says {package.beyond}, for which an index has no field, so the name {name} "
            "would build another network. The package holds it; load that by hf-hub: or local-dir:",
            stacklevel=1,
        )
    for line in _next_steps(package):
        print(line, file=sys.stderr)


def _next_steps(package: Package) -> list[str]:
    entry, directory = package.entry, package.directory
    lines = [f"wrote {directory}"]
    room = {"detect": "detection", "segment": "segmentation"}.get(package.beyond.get("task", ""))

    def load(name: str) -> str:
        return f"mnv2zoo.{room}.load({name!r})" if room else f"timm.create_model({name!r}, pretrained=True)"

    if entry.repo_id is None:
        lines.append(f"load it: {load(f'local-dir:{directory}')}")
        place = f"and {directory / 'model.safetensors'} beside it, as {entry.bundled}"
    elif entry.revision is None:
        upload = shlex.join(["hf", "upload", entry.repo_id, str(directory)])
        lines.append(f"upload it: the same with --push {entry.repo_id}, or `{upload}`")
        place = f"once it is uploaded; `mnv2zoo weights pin {entry.name}` then adds the revision"
    else:
        lines.append(f"pushed it; load it: {load(f'hf-hub:{entry.repo_id}')}")
        place = "and it pins what was pushed"
    if not package.beyond:
        lines.append(f"the entry goes into the index that MNV2ZOO_WEIGHTS_INDEX names, {place}")
    return lines

"""`mnv2zoo weights pack`: prepare a run for the Hugging Face Hub."""

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
        typer.Option(metavar="ARCH.TAG", help="Name of the weights: the run's architecture and a tag that you choose."),
    ],
    license: Annotated[
        str, typer.Option(metavar="LICENSE", help="License of the weights, such as Apache-2.0 or CC-BY-4.0.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The package: a new folder, or an earlier package to replace. By default RUN/package."
        ),
    ] = None,
    repo_id: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Hub repository to name in the index entry, without uploading."),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="OWNER/NAME", help="Upload the package to this Hub repository, and create it if needed."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push: create a private repository.")] = False,
    description: Annotated[
        str | None, typer.Option(metavar="TEXT", help="One-line description of the weights.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Prepare a run for the Hugging Face Hub.

    Verifies the run, creates the package and prints its index entry. The package contains model.safetensors and
    config.json, which timm loads as hf-hub:OWNER/NAME, a model card, and the index entry in index_entry.json. The entry
    records the file's hash and size, and after --push the commit. Without a repository, it refers to
    ARCH.TAG.safetensors next to the index.
    """
    if push is not None and repo_id is not None:
        raise errors.UsageError("Pass either --push or --repo-id: --push names the repository too.")
    if private and push is None:
        raise errors.UsageError("--private requires --push.")
    from mnv2zoo.model_dir import packaging

    package = packaging.pack(run, name, license, out, push or repo_id, description)
    if push is not None:
        package = packaging.push(package, private)
    print_json(package.index_entry())
    if package.beyond:
        warnings.warn(
            f"no index entry was written for {name}, because an index has no field for these settings in config.json: "
            f"{package.beyond}. Load the package by hf-hub: or local-dir: instead",
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
        rest = f" Copy {directory / 'model.safetensors'} next to the index, as {entry.bundled}."
    elif entry.revision is None:
        upload = shlex.join(["hf", "upload", entry.repo_id, str(directory)])
        lines.append(f"upload it: run this command again with --push {entry.repo_id}, or `{upload}`")
        rest = f" After the upload, `mnv2zoo weights pin {entry.name}` adds the revision."
    else:
        lines.append(f"pushed to {entry.repo_id}; load it: {load(f'hf-hub:{entry.repo_id}')}")
        rest = " It is pinned to the pushed commit."
    if not package.beyond:
        lines.append(f"Add the entry to the index that MNV2ZOO_WEIGHTS_INDEX points to.{rest}")
    return lines

"""`mnv2zoo weights`: fetch, verify, pin, path and forget."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Fetches, verifies and pins weights.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Name = Annotated[str, typer.Argument(help="architecture.tag, or an architecture's default weights.")]


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="architecture.tag, or an architecture.")],
    mirror: Annotated[Path | None, typer.Option(help="Put a verified copy into this mirror.")] = None,
) -> None:
    """Fetches weights, verifies them and prints where they are.

    Example: `mnv2zoo weights fetch mnv2zoo_100 --mirror ./weights`
    """
    from mnv2zoo.weights import store

    for name in names:
        print(store.mirror(name, mirror) if mirror else store.fetch(name))


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="All by default.")] = None, json: Json = False
) -> None:
    """Verifies the copies on this machine, fetching nothing; exit status 1 if one is bad.

    Example: `mnv2zoo weights verify`
    """
    from mnv2zoo import errors
    from mnv2zoo.weights import index, store

    entries = [index.entry(name) for name in names] if names else list(index.entries().values())
    rows = []
    for entry in entries:
        row = {"name": entry.name, "path": None, "status": "not here"}
        try:
            path = store.verify_local(entry)
            if path is not None:
                row |= {"path": str(path), "status": "ok"}
            elif (unknown := store.local_file(entry)) is not None:
                row |= {"path": str(unknown), "status": "not used yet, nothing to verify against"}
        except errors.IntegrityError as error:
            row |= {"path": str(error.where), "status": f"BAD: {error}"}
        rows.append(row)
    if json:
        print(json_module.dumps(rows, indent=2))
    else:
        for row in rows:
            print(f"{row['name']}: {row['status']}" + (f" ({row['path']})" if row["status"] == "ok" else ""))
    if any(str(row["status"]).startswith("BAD") for row in rows):
        raise typer.Exit(1)


@app.command()
def pin(name: Name) -> None:
    """Asks the Hub for commit, hash and size, verifies a download, and prints the index entry to paste.

    Example: `mnv2zoo weights pin mnv2zoo_050.lamb_in1k`
    """
    from mnv2zoo.weights import index, store

    entry = store.pin(index.entry(name))
    print(json_module.dumps({entry.name: entry.to_json()}, indent=2))


@app.command()
def path(name: Name) -> None:
    """Prints where weights are on this machine, fetching nothing; exit status 1 if they are not here.

    Example: `mnv2zoo weights path mnv2zoo_100`
    """
    from mnv2zoo.weights import index, store

    found = store.local_file(index.entry(name))
    if found is None:
        print(f"error: {name} is not here; `mnv2zoo weights fetch {name}` fetches it", file=sys.stderr)
        raise typer.Exit(1)
    print(found)


@app.command()
def forget(name: Annotated[str, typer.Argument(help="Weights, or hf-hub:owner/repo[@revision].")]) -> None:
    """Drops the record of first use, so that the next use is the first again.

    Example: `mnv2zoo weights forget mnv2zoo_050.lamb_in1k`
    """
    from mnv2zoo.weights import index, store, trust

    if name.startswith("hf-hub:"):
        repo_id, _, revision = name.removeprefix("hf-hub:").partition("@")
        location = store.HubFile(name, repo_id, "model.safetensors", revision or None).location
    else:
        location = index.entry(name).location
    print(f"forgotten: {location}" if trust.forget(location) else f"nothing was recorded for {location}")

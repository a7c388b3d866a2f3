"""`mnv2zoo weights`: fetch, verify, pin, find, forget, convert and pack weights, and sign their index."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mnv2zoo.cli import convert, errors, pack
from mnv2zoo.cli.options import Debug, Json, Name
from mnv2zoo.cli.output import print_json, print_table
from mnv2zoo.errors import IntegrityError, WeightsError, WeightsUnavailableError, ZooError

if TYPE_CHECKING:
    from mnv2zoo.weights import WeightsEntry

app = typer.Typer(
    help="Fetch, verify, pin, find, forget, convert and pack weights, and sign their index.",
    epilog="\b\nExample:\n  mnv2zoo weights fetch mnv2zoo_100",
)
Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="NAME", help="Architectures or architecture.tag.", show_default=False),
]


@app.command(epilog="\b\nExample:\n  mnv2zoo weights fetch mnv2zoo_100 mnv2zoo_140.ra_in1k --mirror /srv/weights")
def fetch(
    names: Names = None,
    everything: Annotated[bool, typer.Option("--all", help="Fetch all that are listed.")] = False,
    mirror: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Put copies into this folder, for MNV2ZOO_WEIGHTS_DIR to name."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Fetch weights, verify them and print their paths."""
    from mnv2zoo import weights
    from mnv2zoo.weights import store

    if bool(names) == everything:
        raise errors.UsageError("Give names, or --all.")
    status, paths = 0, {}
    for name in names or weights.entries():
        try:
            paths[weights.entry(name).name] = str(store.mirror(name, mirror) if mirror else weights.fetch(name))
        except ZooError as error:  # the others may do
            status = max(status, errors.report(error, debug))
    _print_paths(paths, as_json)
    raise typer.Exit(status)


@app.command(epilog="\b\nExample:\n  mnv2zoo weights verify")
def verify(names: Names = None, as_json: Json = False, debug: Debug = False) -> None:
    """Verify the copies on this machine.

    Nothing is fetched. Without NAME it is all that are listed. A copy is "ok", "BAD" (it must not be used)
    or "not pinned yet" (neither the index nor an earlier use tells what it must match).
    """
    from mnv2zoo import weights

    status, rows = 0, []
    for name in names or weights.entries():
        entry = weights.entry(name)
        try:
            row = {"name": entry.name, **_verify(entry)}
        except IntegrityError as error:
            status = max(status, errors.report(error, debug))
            row = {"name": entry.name, "status": "BAD", "path": str(error.where), "problem": error.summary}
        rows.append(row)
    if as_json:
        print_json(rows)
    else:
        print_table(["name", "status", "path"], [[row["name"], row["status"], row["path"] or "-"] for row in rows])
    raise typer.Exit(status)


def _verify(entry: WeightsEntry) -> dict[str, Any]:
    from mnv2zoo.weights import store

    path = store.local_file(entry)
    if path is None:
        status = "not here"
    else:
        status = "ok" if store.verify_local(entry) else "not pinned yet"
    return {"status": status, "path": path and str(path), "problem": None}


@app.command(
    epilog="\b\nExamples:\n  mnv2zoo weights pin mnv2zoo_050 > entry.json\n"
    "  mnv2zoo weights pin --all --index weights_index.json --key key.pem"
)
def pin(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="An architecture or architecture.tag.", show_default=False),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Pin every entry of an index file, in the file.")] = False,
    index_file: Annotated[
        Path | None,
        typer.Option("--index", metavar="FILE", help="The index file for --all. Default: the shipped index."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Sign the index file with this Ed25519 private key (PEM) afterwards."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Pin weights: ask the Hub for their revision, hash and size, and check these on a download.

    With NAME, the index entry is printed as JSON, to go in place of the entry in the index. With --all, each pin is
    written into the index file as soon as it is known, so you can run the command again after an interruption. A pin
    that is there already is compared with the Hub and never changed.
    """
    if (name is None) != everything or (name and (index_file or key)):
        raise errors.UsageError("Give a name, or --all, which --index and --key go with.")
    if name is None:
        raise typer.Exit(_pin_all(index_file, key, as_json, debug))
    from mnv2zoo import weights
    from mnv2zoo.weights import store

    entry = store.pin(weights.entry(name))
    print_json({entry.name: entry.to_json()})


def _pin_all(index_file: Path | None, key: Path | None, as_json: bool, debug: bool) -> int:
    from mnv2zoo.weights import index, pins, signature

    file = index_file or index.shipped_path()
    status, rows = 0, []
    for row in pins.pin_all(file):
        if row.error is not None:
            status = max(status, errors.report(row.error, debug))
        if not as_json:
            print(f"{row.entry.name}: {row.status}, sha256 {row.entry.sha256 or 'unknown'}", flush=True)
        fields = {field: getattr(row.entry, field) for field in pins.PIN_FIELDS}
        rows.append({"name": row.entry.name, "status": row.status, **fields})
    if as_json:
        print_json(rows)
    if key is not None:
        index.sign(file, key, _ask_password)
    elif signature.path_of(file).exists() and any(row["status"] == "pinned" for row in rows):
        stale = f"{signature.path_of(file)} is out of date. Sign the index: `mnv2zoo weights sign {file} --key FILE`."
        warnings.warn(stale, stacklevel=2)
    return status


@app.command(epilog="\b\nExample:\n  mnv2zoo weights path mnv2zoo_100")
def path(name: Name, as_json: Json = False, debug: Debug = False) -> None:
    """Print where a file of weights is, fetching nothing."""
    from mnv2zoo import weights
    from mnv2zoo.weights import store

    entry = weights.entry(name)
    file = store.local_file(entry)
    if file is None:
        raise WeightsUnavailableError(
            f"{entry.name} is not on this machine", fix=f"`mnv2zoo weights fetch {entry.name}` gets it."
        )
    _print_paths({entry.name: str(file)}, as_json)


@app.command(epilog="\b\nExample:\n  mnv2zoo weights forget hf-hub:owner/repository")
def forget(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="An architecture, architecture.tag or hf-hub: name.", show_default=False),
    ],
    debug: Debug = False,
) -> None:
    """Drop what was written down at the first use of weights.

    The next use trusts what the Hub serves then. Do so once you know why the file was changed.
    """
    from mnv2zoo import weights
    from mnv2zoo.weights import store, trust

    if name.startswith("hf-hub:"):
        location = store.HubFile.of_hub_id(name.removeprefix("hf-hub:")).location
    else:
        location = weights.entry(name).location
    if not trust.forget(location):
        raise WeightsError(f"no first use of {name} is written down", where=trust.path())
    print(f"forgot {location}")


@app.command(epilog="\b\nExample:\n  mnv2zoo weights sign weights_index.json --key key.pem")
def sign(
    index_file: Annotated[Path, typer.Argument(metavar="INDEX", help="An index file.", show_default=False)],
    key: Annotated[
        Path, typer.Option(metavar="FILE", help="PEM file of your Ed25519 private key.", show_default=False)
    ],
    debug: Debug = False,
) -> None:
    """Sign an index, for users whose MNV2ZOO_INDEX_PUBKEY names your public key.

    The index is validated first. The signature goes beside it, into INDEX.sig.
    """
    from mnv2zoo.weights import index

    print(index.sign(index_file, key, _ask_password))


def _ask_password() -> str:
    password: str = typer.prompt("Password of the key", hide_input=True, err=True)
    return password


app.command("convert", epilog=convert.EXAMPLE)(convert.command)
app.command("pack", epilog=pack.EXAMPLE)(pack.command)


def _print_paths(paths: dict[str, str], as_json: bool) -> None:
    if as_json:
        print_json(paths)
        return
    for file in paths.values():
        print(file)

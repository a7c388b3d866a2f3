"""`mnv2zoo weights`: fetch, verify, pin, convert and publish weights."""

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
    help="Fetch, verify, pin, convert and publish weights.",
    epilog="\b\nExample:\n  mnv2zoo weights fetch mnv2zoo_100",
)
Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME",
        help="Names from `mnv2zoo list`, with or without a tag, such as mnv2zoo_100 or mnv2zoo_140.ra_in1k.",
        show_default=False,
    ),
]


@app.command(epilog="\b\nExample:\n  mnv2zoo weights fetch mnv2zoo_100 mnv2zoo_140.ra_in1k --mirror /srv/weights")
def fetch(
    names: Names = None,
    everything: Annotated[bool, typer.Option("--all", help="Fetch all weights in the index.")] = False,
    mirror: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Copy the weights to this folder, for use as a mirror through MNV2ZOO_WEIGHTS_DIR."
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Download weights, verify them and print their paths."""
    from mnv2zoo import weights
    from mnv2zoo.weights import store

    if bool(names) == everything:
        raise errors.UsageError("Pass one or more names, or --all.")
    status, paths = 0, {}
    for name in names or weights.entries():
        try:
            paths[weights.entry(name).name] = str(store.mirror(name, mirror) if mirror else weights.fetch(name))
        except ZooError as error:  # the other names may still succeed
            status = max(status, errors.report(error, debug))
    _print_paths(paths, as_json)
    raise typer.Exit(status)


@app.command(epilog="\b\nExample:\n  mnv2zoo weights verify")
def verify(names: Names = None, as_json: Json = False, debug: Debug = False) -> None:
    """Verify the weights files on this machine.

    Downloads nothing. Without NAME, verifies all weights in the index. The status of a file is "ok", "BAD" (do not use
    the file), "no hash" (there is no hash to compare with, neither in the index nor from an earlier use) or "not
    here" (there is no file on this machine).
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
        status = "ok" if store.verify_local(entry) else "no hash"
    return {"status": status, "path": path and str(path), "problem": None}


@app.command(
    epilog="\b\nExamples:\n  mnv2zoo weights pin mnv2zoo_050 > entry.json\n"
    "  mnv2zoo weights pin --all --index weights_index.json --key key.pem"
)
def pin(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="A name from `mnv2zoo list`, with or without a tag.", show_default=False),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Pin all entries of an index file and update the file.")
    ] = False,
    index_file: Annotated[
        Path | None,
        typer.Option("--index", metavar="FILE", help="With --all: the index file. By default, the packaged index."),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="With --all: sign the index file with this Ed25519 private key (PEM)."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Pin weights to a revision and hash.

    The revision, hash and size come from the Hub, and are checked on a download.

    With NAME, prints the pinned index entry as JSON, for you to replace the entry in the index. With --all, writes each
    pin to the index file as soon as it is known, so you can run the command again after an interruption. Existing pins
    are compared with the Hub and never changed.
    """
    if (name is None) != everything or (name and (index_file or key)):
        raise errors.UsageError("Pass a name or --all; --index and --key require --all.")
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
    """Print the path of a weights file on this machine. Downloads nothing."""
    from mnv2zoo import weights
    from mnv2zoo.weights import store

    entry = weights.entry(name)
    file = store.local_file(entry)
    if file is None:
        raise WeightsUnavailableError(
            f"the weights {entry.name} are not on this machine",
            fix=f"Download them with `mnv2zoo weights fetch {entry.name}`.",
        )
    _print_paths({entry.name: str(file)}, as_json)


@app.command(epilog="\b\nExample:\n  mnv2zoo weights forget hf-hub:owner/repository")
def forget(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="A name from `mnv2zoo list`, with or without a tag, or hf-hub:OWNER/NAME.",
            show_default=False,
        ),
    ],
    debug: Debug = False,
) -> None:
    """Delete the hash that was recorded at the first use of weights.

    The next use records the hash of the file that the Hub then serves. Do this only if you know why the file changed.
    """
    from mnv2zoo import weights
    from mnv2zoo.weights import store, trust

    if name.startswith("hf-hub:"):
        location = store.HubFile.of_hub_id(name.removeprefix("hf-hub:")).location
    else:
        location = weights.entry(name).location
    if not trust.forget(location):
        raise WeightsError(
            f"no first use of {name} is recorded",
            where=trust.path(),
            fix="Check the name. Pinned weights have no recorded first use.",
        )
    print(f"forgot {location}")


@app.command(epilog="\b\nExample:\n  mnv2zoo weights sign weights_index.json --key key.pem")
def sign(
    index_file: Annotated[Path, typer.Argument(metavar="INDEX", help="The index file to sign.", show_default=False)],
    key: Annotated[
        Path, typer.Option(metavar="FILE", help="Your Ed25519 private key, as a PEM file.", show_default=False)
    ],
    debug: Debug = False,
) -> None:
    """Sign an index with your private key.

    The index is validated first. The signature is written to INDEX.sig. Users who set MNV2ZOO_INDEX_PUBKEY to your
    public key then accept only indexes that you signed.
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

"""`mnv2zoo cache`: lists, clears and fills what the package keeps to be faster next time."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from mnv2zoo.cli.options import Debug, Json
from mnv2zoo.cli.output import print_json, print_table

app = typer.Typer(
    help="List, clear and fill the cache of inference engines and of training images under MNV2ZOO_HOME.",
    epilog="\b\nExamples:\n  mnv2zoo cache list\n  mnv2zoo cache warm mnv2zoo_100\n  mnv2zoo cache clear",
)


@dataclass(frozen=True)
class Cached:
    """One line of the list.

    Attributes:
        kind: `engine`, `choice` of an engine, `count` of images, or `images`.
        model: The model, where it is of one.
        engine: The engine, or the engines that were timed.
        precision: The engine's precision.
        bytes: Bytes that it takes.
        used: When it was last used, in ISO format and UTC.
        path: The file or folder.
    """

    kind: str
    model: str
    engine: str
    precision: str
    bytes: int
    used: str
    path: str


@app.command("list", epilog="\b\nExample:\n  mnv2zoo cache list --json")
def list_(as_json: Json = False, debug: Debug = False) -> None:
    """List what is cached, the last used first.

    An "engine" is a model that is ready for an inference engine, a "choice" is the engine that was the fastest for a
    model on this machine, a "count" is the number of images that a model without an engine has predicted, and "images"
    are smaller copies of training photos. Weights are in the cache of huggingface_hub: see `mnv2zoo weights path`.
    """
    found = list(_cached())
    if as_json:
        print_json([vars(one) for one in found])
        return
    columns = ("kind", "model", "engine", "precision", " size", "last used (UTC)")
    rows = [[one.kind, one.model, one.engine, one.precision, _megabytes(one.bytes), one.used[:16]] for one in found]
    print_table(columns, rows)
    print(f"{_megabytes(sum(one.bytes for one in found))} in {_home()}")


@app.command(epilog="\b\nExample:\n  mnv2zoo cache clear")
def clear(as_json: Json = False, debug: Debug = False) -> None:
    """Delete the cached engines and images.

    Everything here is rebuilt when it is needed. Weights and the record of their first use stay.
    """
    from mnv2zoo.runtimes.cache import Cache

    freed = Cache.at_home().clear()
    for file in _copies():
        with contextlib.suppress(FileNotFoundError):  # another process has made room
            size = file.stat().st_size
            file.unlink()
            freed += size
    if as_json:
        print_json({"freed_bytes": freed})
    else:
        print(f"{_megabytes(freed)} freed")


@app.command(epilog="\b\nExample:\n  mnv2zoo cache warm mnv2zoo_100")
def warm(
    model: Annotated[
        str, typer.Argument(metavar="NAME|RUN", help="The model, as for `mnv2zoo predict`.", show_default=False)
    ],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Build and time the engines of a model now, so that later predictions start at once, such as in a container image.

    Without this, `mnv2zoo predict` builds what it needs when it needs it.
    """
    engine = _warmed(model)
    if as_json:
        print_json({"model": model, "engine": engine})
    else:
        print(f"{model}: {engine}" + (", which needs no cache" if engine == "torch" else ""))


def _warmed(model: str) -> str:
    """Fills the cache as a long job does, and returns the name of the engine."""
    from PIL import Image

    from mnv2zoo.inference import session
    from mnv2zoo.inference.predict import Settings
    from mnv2zoo.runtimes.cache import Cache

    task = Settings(model).find_task().of_model(model)
    if task.loads_from_zoo:
        chosen = session.choose(model, session.LOOK_AHEAD, exact=False, kept=Cache.at_home())
        return chosen.engine if chosen else "torch"
    started = session.start(task, model, images=session.LOOK_AHEAD)
    started([started.preprocessing.prepare(Image.new("RGB", (64, 64)))])  # the first batch starts the engine
    return started.engine


def _cached() -> Iterator[Cached]:
    from mnv2zoo.runtimes.cache import Cache

    for entry in Cache.at_home().entries():
        kept = entry.about.get("kept", "")
        kind = kept if kept in ("choice", "count") else "engine"
        engine, precision = (entry.about.get(name, "?") for name in ("engine", "precision"))
        model = entry.about.get("name") or entry.about.get("model", "?")
        yield Cached(kind, model, engine, precision, entry.size, _time(entry.used), os.fspath(entry.file))
    status = []
    for file in _copies():
        with contextlib.suppress(FileNotFoundError):
            status.append(file.stat())
    if status:
        used = max(one.st_mtime for one in status)
        size = sum(one.st_size for one in status)
        yield Cached("images", "", "", "", size, _time(used), os.fspath(_images()))


def _copies() -> list[Path]:
    folder = _images()
    return [file for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []


def _images() -> Path:
    from mnv2zoo.data.copies import folder_on_disk

    return folder_on_disk(_home())


def _home() -> Path:
    from mnv2zoo import environment

    return environment.home()


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"

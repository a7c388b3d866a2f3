"""Lists the files of a dataset by path, and collects problems in its annotations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from mnv2zoo.data.discover import SPLIT_OF, Parts, below
from mnv2zoo.data.tree import File, Folder, TarFolder, open_place
from mnv2zoo.errors import DataError, ImageReadError

NAMED = 5  # maximum number of images or classes listed in a message


def files_in(place: str | Path) -> dict[Parts, File]:
    """Lists all files in a folder or tar file by path. A tar file in a folder counts as a folder."""
    root = open_place(place)
    files = dict(_below(root, place))
    tars = {parts: file for parts, file in files.items() if parts[-1].lower().endswith(".tar")}
    if not isinstance(root, Folder) or not tars:
        return files
    split = {parts: file for parts, file in tars.items() if parts[-1][:-4].lower() in SPLIT_OF}
    if not split and len(tars) > 1:
        raise DataError(
            f"cannot choose among {len(tars)} tar files that are not named after splits",
            expected="one tar file, or train.tar, val.tar and test.tar",
            found=", ".join("/".join(parts) for parts in list(tars)[:NAMED]),
            where=place,
            fix="Pass the tar file that contains the data.",
        )
    for parts, file in (split or tars).items():
        above = (*parts[:-1], parts[-1][:-4]) if split else parts[:-1]
        del files[parts]
        files |= {(*above, *inner): found for inner, found in _below(open_place(file.place), place)}
    return files


def _below(root: Folder | TarFolder, place: str | Path) -> Iterator[tuple[Parts, File]]:
    for parts, item in below(root, wanted=lambda name: True):
        if isinstance(item, ImageReadError):
            raise DataError(
                item.problem, expected="a readable folder", found=item.found, where=item.where, fix=item.fix
            ) from item
        if isinstance(item, File):
            yield parts, item


class Trouble:
    """Collects problems in annotations to report them together: each kind with its first images."""

    def __init__(self, place: str | Path, skip: bool) -> None:
        self.place, self.skip = place, skip
        self.found: dict[str, list[str]] = defaultdict(list)
        self.clipped = 0

    def add(self, kind: str, name: str) -> None:
        """Adds a problem: its kind, such as `boxes without area`, and the image that it is in."""
        self.found[kind].append(name)

    def report(self, hint: str = "") -> list[str]:
        """Returns notes on what is skipped, or raises an error if nothing may be skipped.

        Args:
            hint: Another fix, as a sentence.
        """
        told = [f"{kind}: {len(names)} ({some(names)})" for kind, names in self.found.items()]
        if told and not self.skip:
            raise DataError(
                "the data has invalid annotations",
                expected="an existing image for each annotation, and annotations that fit it",
                found="; ".join(told),
                where=self.place,
                fix=f"Correct them, or skip them with --skip-bad-images. {hint}".rstrip(),
            )
        notes = [f"skipped: {'; '.join(told)}"] if told else []
        if self.clipped:
            notes.append(f"boxes that were clipped to their image: {self.clipped}")
        return notes


def some(names: Iterable[str]) -> str:
    """Lists the first few names, and how many more there are."""
    names = list(dict.fromkeys(names))
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def read_bytes(file: File, most: int | None = None) -> bytes:
    """Reads a file on disk or in a tar file.

    Args:
        file: The file.
        most: Maximum size in bytes.

    Returns:
        Its content.

    Raises:
        ValueError: If the file is larger.
        OSError: If it cannot be read.
    """
    with file.place.open("rb") as opened:
        if file.offset is not None:
            opened.seek(file.offset)
        size = file.size if file.offset is not None else file.place.stat().st_size
        if most is not None and size > most:
            raise ValueError(f"{size} bytes, more than the limit of {most}")
        return opened.read(size)

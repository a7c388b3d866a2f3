"""Finding images."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from mnv2zoo.data.pixels import FORMATS
from mnv2zoo.errors import ImageReadError

EXTENSIONS = frozenset(ext for ext, name in Image.registered_extensions().items() if name in FORMATS)


def find(place: str) -> list[Path]:
    """Finds the images that an argument of a command means.

    Args:
        place: A file, taken whatever its ending; a folder, searched through all its levels for files
            with an image's ending; or a glob such as `photos/**/*.jpg`, whose matches are taken as
            the content of a folder is.

    Returns:
        The files, each once and in order of their names; at least one.

    Raises:
        ImageReadError: If there are none, or a folder cannot be searched.
    """
    found = []
    for image in walk([place]):
        if isinstance(image, ImageReadError):
            raise image
        found.append(image)
    return found


def spread(files: Sequence[Path], most: int) -> list[Path]:
    """Some of the files, as far apart as can be.

    Args:
        files: The files.
        most: How many, at most.

    Returns:
        Some in their order, or all if there are no more.
    """
    count = min(most, len(files))
    return [files[number * len(files) // count] for number in range(count)]


def fingerprint(folder: Path, files: Iterable[Path]) -> str:
    """A hash of files: their names within a folder, and their content.

    Args:
        folder: The folder.
        files: Files below it.

    Returns:
        SHA-256, in hexadecimal.
    """
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"\0{file.relative_to(folder)}\0".encode(errors="surrogateescape"))
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def walk(places: Iterable[str]) -> Iterator[Path | ImageReadError]:
    """Finds the images that arguments of a command mean, one after the other.

    No more is held in memory than the names in the folders that lead to the current image, and the arguments
    with what globs match.

    Args:
        places: Each as for `find`.

    Yields:
        The files, each once and those of an argument in order of their names; and an error for a place that
        has no images or cannot be searched, after which it goes on.
    """
    roots: list[tuple[str, list[Path]]] = []
    for place in places:
        if matches := _matches(place):
            roots.append((place, matches))
        else:
            yield _no_images(place, "nothing")

    seen: set[str] = set()  # files and folders that were arguments or matches, and are done with
    for place, matches in roots:
        explicit = matches == [Path(place)]
        images, others, troubled = 0, 0, False
        for match in matches:
            path = os.path.abspath(match)  # noqa: PTH100  # without following links
            for file in _files(match) if match.is_dir() else [match]:
                if isinstance(file, ImageReadError):
                    troubled = True
                    yield file
                elif file.suffix.lower() in EXTENSIONS or (explicit and file == match):
                    images += 1
                    if not _covered(os.path.abspath(file), seen):  # noqa: PTH100
                        yield file
                else:
                    others += 1
            seen.add(path)
        if not images and not troubled:
            yield _no_images(place, f"{others} files, none of which ends in {', '.join(sorted(EXTENSIONS))}")


def _matches(place: str) -> list[Path]:
    if os.path.lexists(place):
        return [Path(place)]
    return sorted(Path(match) for match in glob.glob(place, recursive=True))  # noqa: PTH207  # may be absolute


def _no_images(place: str, found: str) -> ImageReadError:
    return ImageReadError("no images", expected="a file, a folder or a glob with images", found=found, where=place)


def _covered(path: str, seen: set[str]) -> bool:
    """Whether a file is among those seen, or below a folder among them."""
    return bool(seen) and (path in seen or any(str(folder) in seen for folder in Path(path).parents))


def _files(folder: Path) -> Iterator[Path | ImageReadError]:
    """What is below a folder, in order of names, without following links to folders."""
    try:
        with os.scandir(folder) as entries:
            names, folders = [], set()  # of a million entries, less than the entries take
            for entry in entries:
                if not entry.is_dir():
                    names.append(entry.name)
                elif not entry.is_symlink():
                    names.append(entry.name)
                    folders.add(entry.name)
    except OSError as error:
        failure = ImageReadError("cannot search a folder", found=error.strerror, where=error.filename)
        failure.__cause__ = error
        yield failure
        return
    for name in sorted(names):
        if name in folders:
            yield from _files(folder / name)
        else:
            yield folder / name

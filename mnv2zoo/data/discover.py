"""Finds images, with the same rules for every command.

The rules apply to folders and tar files:

- An image is a file with an image extension, in upper or lower case.
- Hidden files and folders, and those that operating systems create, are skipped.
- Links to files and folders are followed, but not to a folder that leads to the link.
- Everything that is found and not used is counted and reported on one line.
"""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePath

from PIL import Image

from mnv2zoo.data.pixels import formats
from mnv2zoo.data.tree import File, Folder, TarFolder
from mnv2zoo.errors import ImageReadError

ARRAY = ".npy"  # an image for a model that does not take RGB
EXTENSIONS = frozenset(ext for ext, name in Image.registered_extensions().items() if name in formats())

# Names of folders and tar files for each split.
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing"),
}
SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}

# Files of operating systems and network drives, besides names that begin with a dot.
SYSTEM = frozenset(
    name.lower()
    for name in (
        "__MACOSX", "__pycache__", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found",
        "Thumbs.db", "ehthumbs.db", "desktop.ini", "Icon\r",
    )
)  # fmt: skip
# Files that mark a model folder, whose images are not training images: a run's files, or timm's.
MODEL_FILES = (("recipe.json", "split.json"), ("config.json", "model.safetensors"))
MOST = 5  # maximum number of kinds on the line

Parts = tuple[str, ...]


def is_hidden(name: str) -> bool:
    """Checks whether a file or folder with that name is skipped, such as `._x.jpg`, `.Trash` and `__MACOSX`."""
    return name.startswith(".") or name.lower() in SYSTEM


def is_image(name: str) -> bool:
    """Checks whether a file with that name counts as an image."""
    return PurePath(name).suffix.lower() in EXTENSIONS


def endings(channels: int) -> frozenset[str]:
    """Returns the image extensions for a model with that many channels. They include arrays, unless it takes RGB."""
    return EXTENSIONS if channels == 3 else EXTENSIONS | {ARRAY}


def wanted(channels: int) -> Callable[[str], bool]:
    """Returns a function that checks whether a file name is an image for a model with that many channels."""
    known = endings(channels)
    return lambda name: PurePath(name).suffix.lower() in known


class Unused:
    """Counts what was found and not used, by kind."""

    def __init__(self) -> None:
        self._files: Counter[str] = Counter()
        self._folders: Counter[str] = Counter()

    def add(self, what: str, count: int = 1) -> None:
        """Counts an item, such as a `.heic file` or a `folder eval/`."""
        (self._folders if what.endswith("/") else self._files)[what] += count

    def __bool__(self) -> bool:
        return bool(self._files or self._folders)

    def __str__(self) -> str:
        """Formats the counts on one line, such as `ignored: 9 .heic files, folder eval/`."""
        files = [_plural(what, count) for what, count in self._files.most_common(MOST)]
        if rest := self._files.total() - sum(count for _, count in self._files.most_common(MOST)):
            files.append(_plural("other file", rest))
        folders = [
            what if count == 1 else f"{count} {what.replace('folder ', 'folders ', 1)}"
            for what, count in self._folders.most_common(MOST)
        ]
        if (rest := len(self._folders) - MOST) > 0:
            folders.append(_plural("other folder", rest))
        return "ignored: " + ", ".join(files + folders)


def _plural(what: str, count: int) -> str:
    if count == 1:
        return f"1 {what}"
    for noun in ("file", "image", "link", "folder"):
        if noun in what:
            return f"{count} {what.replace(noun, noun + 's', 1)}"
    return f"{count} {what}"


class Passed(str):
    """An item that is not a usable image, described for `Unused.add`."""

    __slots__ = ()


def below(
    folder: Folder | TarFolder,
    parts: Parts = (),
    above: tuple[str, ...] = (),
    wanted: Callable[[str], bool] = is_image,
) -> Iterator[tuple[Parts, File | Folder | TarFolder | Passed | ImageReadError]]:
    """Searches a folder recursively, in order of names.

    Args:
        folder: The folder.
        parts: Its path relative to the place that is searched.
        above: The real paths of the folders that led to it.
        wanted: Checks whether a file with that name is searched for.

    Yields:
        Each path relative to the place, and what is there: a file that is searched for, a folder before its content, a
        skipped item, or an error for an unreadable folder or a broken link.
    """
    above = (*above, folder.real)
    children = folder.children()
    try:
        first = list(itertools.islice(children, 1))
    except OSError as error:
        failure = ImageReadError(
            "cannot read the folder",
            expected="a readable folder",
            found=error.strerror,
            where=error.filename,
            fix="Make the folder readable, or remove it.",
        )
        failure.__cause__ = error
        yield parts, failure
        return
    for child in itertools.chain(first, children):
        path = (*parts, child.name)
        if is_hidden(child.name):
            yield path, Passed("hidden file" if isinstance(child, File) else f"folder {child.name}/")
        elif isinstance(child, File):
            if wanted(child.name):
                yield path, child
            elif child.dangling:
                yield (
                    path,
                    ImageReadError(
                        f"the link {child.name!r} is broken",
                        expected="a link to an existing file or folder",
                        found="no such file",
                        where="/".join(path),
                        fix="Restore its target, or remove the link.",
                    ),
                )
            else:
                yield path, Passed(_kind(child.name))
        elif child.linked and any(f"{real}/".startswith(f"{child.real.rstrip('/')}/") for real in above):
            yield path, Passed("link to a folder above it")
        elif any(all(map(child.has, files)) for files in MODEL_FILES):
            yield path, Passed(f"model folder {'/'.join(path)}/")
        else:
            yield path, child
            yield from below(child, path, above, wanted)


def _kind(name: str) -> str:
    suffix = PurePath(name).suffix.lower()
    return f"{suffix} file" if suffix else "file without an extension"


def find(place: str, channels: int = 3) -> list[Path]:
    """Finds the images for one argument of a command.

    Args:
        place: A file, with any extension; a folder, which is searched recursively for image files; or a glob
            such as `photos/**/*.jpg`, whose matches are filtered like the content of a folder.
        channels: Number of channels of the model. Unless it takes RGB, `.npy` is also an image extension.

    Returns:
        The files, each once and in order of their names. There is at least one.

    Raises:
        ImageReadError: If there are no images, or a folder cannot be read.
    """
    found = []
    for image in walk([place], channels):
        if isinstance(image, ImageReadError):
            raise image
        found.append(image)
    return found


def spread(files: Sequence[Path], most: int) -> list[Path]:
    """Selects files that are evenly spread over the list.

    Args:
        files: The files.
        most: Maximum number of files.

    Returns:
        The selected files in order, or all if there are no more.
    """
    count = min(most, len(files))
    return [files[number * len(files) // count] for number in range(count)]


def fingerprint(folder: Path, files: Iterable[Path]) -> str:
    """Hashes files: their names relative to a folder, and their content.

    Args:
        folder: The folder.
        files: Files in it.

    Returns:
        SHA-256, in hexadecimal.
    """
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"\0{file.relative_to(folder)}\0".encode(errors="surrogateescape"))
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def walk(places: Iterable[str], channels: int = 3) -> Iterator[Path | ImageReadError]:
    """Finds the images for the arguments of a command, in order.

    Memory use is limited to the names in the folders that lead to the current image, and the arguments and glob
    matches.

    Args:
        places: Each as for `find`.
        channels: As for `find`.

    Yields:
        The files, each once and in order of their names within an argument; and an error for each place that has no
        images or cannot be read, after which the search continues.

    Warns:
        UserWarning: At the end, with one line about what was found and not used.
    """
    roots: list[tuple[str, list[Path]]] = []
    for place in places:
        if matches := _matches(place):
            roots.append((place, matches))
        else:
            yield _no_images(place, "nothing")

    seen: set[str] = set()  # files and folders that were arguments or matches and are finished
    unused = Unused()
    for place, matches in roots:
        images, others, troubled = 0, Unused(), False
        for match in matches:
            for path, item in _items(match, matches == [Path(place)], PurePath(place).parts, wanted(channels)):
                known = _covered(os.path.abspath(path), seen)  # noqa: PTH100  # without following links
                if isinstance(item, ImageReadError):
                    troubled = True
                    yield item
                elif isinstance(item, File):
                    images += 1
                    if not known:
                        yield path
                elif isinstance(item, Passed):
                    others.add(item)
                    if not known:
                        unused.add(item)
            seen.add(os.path.abspath(match))  # noqa: PTH100
        if not images and not troubled:
            yield _no_images(
                place, f"{others}; none ends in {', '.join(sorted(endings(channels)))}" if others else "nothing"
            )
    if unused:
        warnings.warn(str(unused), stacklevel=2)


def _items(
    match: Path, explicit: bool, asked: Sequence[str], wanted: Callable[[str], bool]
) -> Iterator[tuple[Path, File | Folder | TarFolder | Passed | ImageReadError]]:
    """Yields the content of an argument's file or folder. Items that the argument names are never skipped as hidden."""
    if not explicit and any(is_hidden(part) for part in match.parts if part not in asked):
        yield match, Passed("hidden file" if match.is_file() else f"folder {match.name}/")
    elif match.is_dir():
        yield from ((match.joinpath(*parts), item) for parts, item in below(Folder.at(match), wanted=wanted))
    elif explicit or wanted(match.name):
        yield match, File(match.name, match)
    else:
        yield match, Passed(_kind(match.name))


def _matches(place: str) -> list[Path]:
    if os.path.lexists(place):
        return [Path(place)]
    return sorted(Path(match) for match in glob.glob(place, recursive=True))  # noqa: PTH207  # may be absolute


def _no_images(place: str, found: str) -> ImageReadError:
    return ImageReadError(
        f"no images found in {place!r}"[:200],
        expected="a file, a folder or a glob with images",
        found=found,
        where=place,
        fix="Check the path.",
    )


def _covered(path: str, seen: set[str]) -> bool:
    """Checks whether a file is one of those seen, or inside a folder among them."""
    return bool(seen) and (path in seen or any(str(folder) in seen for folder in Path(path).parents))


def common_root(places: Sequence[str]) -> str:
    """Returns the deepest folder that contains all images of the given places.

    Args:
        places: Files, folders and globs.

    Returns:
        The absolute path of the folder.
    """
    folders = []
    for place in places:
        path = _absolute(place)
        folders.append(next(one for one in (path, *path.parents) if one.is_dir()))  # also for files and globs
    return os.path.commonpath(folders)


def _absolute(place: str) -> Path:
    """Returns an absolute path without `..`, with links unchanged."""
    return Path(os.path.normpath(Path(place).absolute()))


def alongside(folder: Path, image: str, suffix: str, root: str) -> Path:
    """Returns the path of a file that belongs to an image, such as its mask, and creates its folder.

    Args:
        folder: The folder of these files. Its structure mirrors `root`.
        image: The image's path.
        suffix: The file's suffix. It replaces the image's, unless that would be another image's file.
        root: A folder that contains all images.

    Returns:
        The path of the file.

    Raises:
        OSError: If the folder cannot be created.
    """
    source = _absolute(image)
    inner = source.relative_to(root)
    others = (source.with_suffix(other) for ext in EXTENSIONS for other in (ext, ext.upper()))
    alone = not any(other != source and other.exists() for other in others)
    file = folder / (inner.with_suffix(suffix) if alone else inner.with_name(inner.name + suffix))
    file.parent.mkdir(parents=True, exist_ok=True)
    return file

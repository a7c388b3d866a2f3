"""Finding images: one rule for what an image, a split and a folder to search is.

Every command follows it, in folders and in tar files alike:

- An image is a file with an image's ending, in whatever case.
- Hidden files and folders, and those that operating systems leave behind, are passed over.
- Links to files and folders are followed, but not back to a folder that leads to them.
- Whatever is found and not used is counted, and said in one line.
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

from mnv2zoo.data.pixels import FORMATS
from mnv2zoo.data.tree import File, Folder, TarFolder
from mnv2zoo.errors import ImageReadError

ARRAY = ".npy"  # an image for a network that does not take RGB
EXTENSIONS = frozenset(ext for ext, name in Image.registered_extensions().items() if name in FORMATS)

# Names that folders and tar files of a split go by.
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing"),
}
SPLIT_OF = {name: split for split, names in SPLITS.items() for name in names}

# What operating systems and network drives leave behind, beside names that begin with a dot.
SYSTEM = frozenset(
    name.lower()
    for name in (
        "__MACOSX", "__pycache__", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found",
        "Thumbs.db", "ehthumbs.db", "desktop.ini", "Icon\r",
    )
)  # fmt: skip
# What tells the folder of a model, whose pictures are not photos: a run's files, or timm's.
MODEL_FILES = (("recipe.json", "split.json"), ("config.json", "model.safetensors"))
MOST = 5  # kinds that a line names

Parts = tuple[str, ...]


def is_hidden(name: str) -> bool:
    """Whether a file or folder of that name is passed over, such as `._x.jpg`, `.Trash` and `__MACOSX`."""
    return name.startswith(".") or name.lower() in SYSTEM


def is_image(name: str) -> bool:
    """Whether a file of that name is taken for an image."""
    return PurePath(name).suffix.lower() in EXTENSIONS


def endings(channels: int) -> frozenset[str]:
    """The endings of images for a network with so many channels: arrays are among them, unless it takes RGB."""
    return EXTENSIONS if channels == 3 else EXTENSIONS | {ARRAY}


def wanted(channels: int) -> Callable[[str], bool]:
    """Creates the test of a file's name for being an image that a network with so many channels takes."""
    known = endings(channels)
    return lambda name: PurePath(name).suffix.lower() in known


class Unused:
    """What was found and not used, counted by what it is."""

    def __init__(self) -> None:
        self._files: Counter[str] = Counter()
        self._folders: Counter[str] = Counter()

    def add(self, what: str, count: int = 1) -> None:
        """Counts something, such as a `.heic file` or a `folder eval/`."""
        (self._folders if what.endswith("/") else self._files)[what] += count

    def __bool__(self) -> bool:
        return bool(self._files or self._folders)

    def __str__(self) -> str:
        """One line, such as `ignored: 9 .heic files, folder eval/`."""
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
    """A thing that is not an image to use, in words for `Unused.add`."""

    __slots__ = ()


def below(
    folder: Folder | TarFolder,
    parts: Parts = (),
    above: tuple[str, ...] = (),
    wanted: Callable[[str], bool] = is_image,
) -> Iterator[tuple[Parts, File | Folder | TarFolder | Passed | ImageReadError]]:
    """Searches a folder through all its levels, in order of names.

    Args:
        folder: The folder.
        parts: Its path below the place that is searched.
        above: The real paths of the folders that led to it.
        wanted: Tells by a file's name whether it is looked for.

    Yields:
        Each path below the place, and what is there: a file that is looked for; a folder, before what is in it;
        something that is passed over; or an error for a folder that cannot be searched and for a link that points to
        nothing.
    """
    above = (*above, folder.real)
    children = folder.children()
    try:
        first = list(itertools.islice(children, 1))
    except OSError as error:
        failure = ImageReadError("cannot search a folder", found=error.strerror, where=error.filename)
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
                        f"the link {child.name!r} points to nothing",
                        where="/".join(path),
                        fix="Restore what it points to, or remove the link.",
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
    """Finds the images that an argument of a command means.

    Args:
        place: A file, taken whatever its ending; a folder, searched through all its levels for files
            with an image's ending; or a glob such as `photos/**/*.jpg`, whose matches are taken as
            the content of a folder is.
        channels: Channels that the network takes. Unless it takes RGB, `.npy` is an image's ending too.

    Returns:
        The files, each once and in order of their names; at least one.

    Raises:
        ImageReadError: If there are none, or a folder cannot be searched.
    """
    found = []
    for image in walk([place], channels):
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


def walk(places: Iterable[str], channels: int = 3) -> Iterator[Path | ImageReadError]:
    """Finds the images that arguments of a command mean, one after the other.

    No more is held in memory than the names in the folders that lead to the current image, and the arguments
    with what globs match.

    Args:
        places: Each as for `find`.
        channels: As for `find`.

    Yields:
        The files, each once and those of an argument in order of their names; and an error for a place that
        has no images or cannot be searched, after which it goes on.

    Warns:
        UserWarning: At the end, in one line, of what was found and not used.
    """
    roots: list[tuple[str, list[Path]]] = []
    for place in places:
        if matches := _matches(place):
            roots.append((place, matches))
        else:
            yield _no_images(place, "nothing")

    seen: set[str] = set()  # files and folders that were arguments or matches, and are done with
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
    """What a file or folder that an argument means holds; whatever the argument names itself is not hidden."""
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
    return ImageReadError("no images", expected="a file, a folder or a glob with images", found=found, where=place)


def _covered(path: str, seen: set[str]) -> bool:
    """Whether a file is among those seen, or below a folder among them."""
    return bool(seen) and (path in seen or any(str(folder) in seen for folder in Path(path).parents))


def common_root(places: Sequence[str]) -> str:
    """The deepest folder that holds all images of some places.

    Args:
        places: Files, folders and globs.

    Returns:
        Its absolute path.
    """
    folders = []
    for place in places:
        path = _absolute(place)
        folders.append(next(one for one in (path, *path.parents) if one.is_dir()))  # of files and of globs
    return os.path.commonpath(folders)


def _absolute(place: str) -> Path:
    """An absolute path without `..`, whose links stay as they are."""
    return Path(os.path.normpath(Path(place).absolute()))


def alongside(folder: Path, image: str, suffix: str, root: str) -> Path:
    """Names a file that belongs to an image, such as its mask, and creates the folder that it goes into.

    Args:
        folder: The folder of such files. The file lies in it as the image lies in `root`.
        image: The image's path.
        suffix: The file's suffix. It replaces the image's, unless that would be the name of another image's file.
        root: A folder that holds all images.

    Returns:
        The file.

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

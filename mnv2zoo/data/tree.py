"""Presents folders and tar files as the same kind of tree, so that the same rules apply to both.

Links to files and folders are followed, and in a tar file hard links too. A tar file is listed once, and its images are
read at random positions, so nothing is unpacked.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from mnv2zoo.errors import DataError

MAX_LINKS = 40  # maximum length of a chain of links, as in Linux
_ZEROS = bytes(tarfile.BLOCKSIZE)


@dataclass(frozen=True, slots=True)
class File:
    """A file on disk or in a tar file.

    Attributes:
        name: Its name.
        place: The file, or the tar file that contains its bytes.
        offset: Start of its bytes in the tar file. None for a separate file.
        size: Number of bytes in the tar file.
        dangling: Whether it is a broken link. `place` then does not exist.
    """

    name: str
    place: Path
    offset: int | None = None
    size: int = 0
    dangling: bool = False


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder on disk.

    Attributes:
        name: Its name.
        path: Its path.
        real: Its path without links, which shows whether a link leads back to it.
        linked: Whether it is a link.
    """

    name: str
    path: Path
    real: str
    linked: bool = False

    @staticmethod
    def at(path: Path) -> Folder:
        """Opens the folder at a path."""
        return Folder(path.name, path, os.path.realpath(path))

    def has(self, name: str) -> bool:
        """Checks whether the folder contains something with that name."""
        return (self.path / name).exists()

    def children(self) -> Iterator[File | Folder]:
        """Lists the content in order of names.

        Raises:
            OSError: If the folder cannot be read.
        """
        with os.scandir(self.path) as entries:
            names, special = [], {}  # for a million files, this takes less memory than the entries
            for entry in entries:
                names.append(entry.name)
                if entry.is_dir():
                    special[entry.name] = "link" if entry.is_symlink() else "folder"
                elif entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110  # a Path takes far longer
                    special[entry.name] = "dangling"
        for name in sorted(names):
            kind, path = special.get(name), self.path / name
            if kind == "link":
                yield Folder(name, path, os.path.realpath(path), linked=True)
            elif kind == "folder":
                yield Folder(name, path, os.path.join(self.real, name))  # noqa: PTH118
            else:
                yield File(name, path, dangling=kind == "dangling")


@dataclass(frozen=True, slots=True)
class _Link:
    target: str  # as stored in the tar file
    parts: tuple[str, ...]  # path of the link itself


@dataclass(slots=True)
class _Directory:
    parts: tuple[str, ...]
    entries: dict[str, _Directory | File | _Link] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TarFolder:
    """A folder in a tar file. It has the attributes of `Folder`."""

    name: str
    path: Path
    real: str
    linked: bool
    _directory: _Directory
    _root: _Directory

    def has(self, name: str) -> bool:
        """Checks whether the folder contains something with that name."""
        return name in self._directory.entries

    def children(self) -> Iterator[File | TarFolder]:
        """Lists the content in order of names."""
        for name, entry in sorted(self._directory.entries.items()):
            linked = isinstance(entry, _Link)
            found = _resolve(self._root, entry)
            if isinstance(found, _Directory):
                yield TarFolder(name, self.path, "/".join(("", *found.parts)), linked, found, self._root)
            elif found is None:
                yield File(name, self.path / name, dangling=True)
            else:
                yield File(name, found.place, found.offset, found.size, found.dangling)


def open_place(place: str | Path) -> Folder | TarFolder:
    """Opens a folder, or a tar file as if it were unpacked.

    Args:
        place: The folder or tar file.

    Returns:
        The tree of its content.

    Raises:
        DataError: If the path does not exist or is something else. The message says what it is and how to fix it.
    """
    path = Path(place)
    if path.is_dir() and str(place):
        return Folder.at(path)
    if path.is_file() and _is_tar(path):
        return _open_tar(path)
    kind, fix = _describe(path) if str(place) else ("an empty name", "Pass the folder that contains the class folders.")
    raise DataError(
        f"{str(place)!r} is not a folder or tar file of images",
        expected="a folder with one subfolder per class, or an uncompressed tar file of one",
        found=kind,
        where=place,
        fix=fix,
    )


def is_compressed(name: str) -> bool:
    """Checks whether a file name is that of an archive that must be unpacked first."""
    endings = (".zip", ".7z", ".rar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
    return name.lower().endswith(endings)


def _is_tar(path: Path) -> bool:
    try:
        with tarfile.open(path, "r:"):
            return True
    except (tarfile.TarError, OSError):
        return False


def _describe(path: Path) -> tuple[str, str]:
    """Describes what is at a path that is not a folder or tar file of images, and how to fix it."""
    unpack = "Unpack it and pass the folder, or repack it as an uncompressed .tar file."
    folder = "Pass the folder that contains the class folders."
    if not path.exists():
        if path.is_symlink():
            return "a broken link", "Restore the target of the link."
        return "no such file or folder", "Check the spelling. " + folder
    if not path.is_file():
        return "a special file", folder
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        return "an empty file", folder
    for module, magic in ((gzip, b"\x1f\x8b"), (bz2, b"BZh"), (lzma, b"\xfd7zXZ")):
        if head.startswith(magic):
            compressed = "a compressed tar file" if _holds_tar(module, path) else "a compressed file"
            return compressed, unpack + " Images in a compressed file cannot be read at random."
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return "a compressed file (Zstandard)", unpack
    if zipfile.is_zipfile(path):
        return "a zip file", unpack
    if head.startswith((b"7z\xbc\xaf", b"Rar!")):
        return "an archive", unpack
    with contextlib.suppress(Exception), Image.open(path) as image:  # decoders can raise anything
        return f"an image ({image.format})", folder + " To classify one image, run `mnv2zoo predict`."
    ending = path.suffix.lower()
    if ending in (".csv", ".tsv", ".json", ".jsonl", ".txt", ".xml", ".parquet", ".yaml", ".yml", ".xlsx"):
        return f"a {ending} file", "Put the images in one folder per class, and pass the folder that contains these."
    if ending == ".tar":
        return "a corrupt or incomplete tar file", "Copy or download it again, and check it with `tar tf`."
    return "another kind of file", folder


def _holds_tar(module: object, path: Path) -> bool:
    try:
        with module.open(path, "rb") as file:  # type: ignore[attr-defined]
            return file.read(tarfile.BLOCKSIZE)[257:262] == b"ustar"
    except (OSError, EOFError, lzma.LZMAError):
        return False


def _open_tar(path: Path) -> TarFolder:
    try:
        with tarfile.open(path, "r:") as tar:
            members = tar.getmembers()
            _check_end(path, tar.offset)
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"the tar file {path.name} is corrupt or incomplete",
            expected="a complete tar file",
            found=str(error).rstrip("."),
            where=path,
            fix="Copy or download it again, and check it with `tar tf`.",
        ) from error
    root = _Directory(())
    late = []
    for member in members:
        parts = _parts(member.name)
        if not parts:
            continue
        if member.isdir():
            _directory(root, parts)
            continue
        folder = _directory(root, parts[:-1])
        if member.issym():
            folder.entries[parts[-1]] = _Link(member.linkname, parts)
        elif member.islnk():
            late.append((folder, parts[-1], member.linkname))
            folder.entries[parts[-1]] = _hard_link(root, path, parts[-1], member.linkname)
        elif member.isreg() and not member.issparse():
            # If a path occurs twice, the later member is the newer version, as when unpacking.
            folder.entries[parts[-1]] = File(parts[-1], path, member.offset_data, member.size)
        else:
            folder.entries[parts[-1]] = File(parts[-1], path / parts[-1], dangling=True)
    for folder, name, target in late:  # links whose targets come later in the file
        entry = folder.entries[name]
        if isinstance(entry, File) and entry.dangling:
            folder.entries[name] = _hard_link(root, path, name, target)
    return TarFolder(path.name, path, "", False, root, root)


def _check_end(path: Path, offset: int) -> None:
    """Checks that the list of members ends with the end mark of a tar file, and that nothing follows it."""
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
        if block != _ZEROS:
            raise tarfile.ReadError(f"no end mark at byte {offset}" if not block else f"no member at byte {offset}")
        while block := file.read(1 << 20):
            if block.strip(b"\0"):
                raise tarfile.ReadError("another tar file, or something else, follows its end")


def _parts(name: str) -> tuple[str, ...]:
    """Returns the path of a member as GNU tar unpacks it: without a leading slash, and starting after the last `..`."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    while ".." in parts:
        del parts[: parts.index("..") + 1]
    return tuple(parts)


def _directory(root: _Directory, parts: tuple[str, ...]) -> _Directory:
    """Returns the directory with that path, creating it if necessary."""
    here = root
    for part in parts:
        entry = here.entries.get(part)
        found = _resolve(root, entry) if entry is not None else None
        if not isinstance(found, _Directory):
            found = here.entries[part] = _Directory((*here.parts, part))
        here = found
    return here


def _hard_link(root: _Directory, tar: Path, name: str, target: str) -> File:
    found = _find(root, root, _parts(target))
    return found if isinstance(found, File) else File(name, tar / name, dangling=True)


def _resolve(root: _Directory, entry: _Directory | File | _Link, links: int = 0) -> _Directory | File | None:
    if not isinstance(entry, _Link):
        return entry
    if links == MAX_LINKS or entry.target.startswith("/"):  # the target is outside the tar file
        return None
    parts = list(entry.parts[:-1])
    for part in entry.target.split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return _find(root, root, tuple(parts), links + 1)


def _find(root: _Directory, here: _Directory, parts: tuple[str, ...], links: int = 0) -> _Directory | File | None:
    found: _Directory | File | None = here
    for part in parts:
        if not isinstance(found, _Directory) or part not in found.entries:
            return None
        found = _resolve(root, found.entries[part], links)
    return found

"""Folders and tar files are the same kind of tree."""

import io
import os
import tarfile

import pytest

from mnv2zoo.data.tree import File, open_place
from mnv2zoo.errors import DataError


def listed(folder, above=""):
    """The paths below a folder, and the bytes of its files."""
    found = {}
    for child in folder.children():
        path = f"{above}{child.name}"
        if not isinstance(child, File):
            found |= {f"{path}/": None, **listed(child, f"{path}/")}
            continue
        with child.place.open("rb") as file:
            file.seek(child.offset or 0)
            found[path] = file.read(child.size if child.offset is not None else -1)
    return found


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "b").write_bytes(b"bytes of b")
    (folder / "sub/a").write_bytes(b"a")
    (folder / "sub/empty").touch()
    return folder


CONTENT = {"b": b"bytes of b", "sub/": None, "sub/a": b"a", "sub/empty": b""}


def test_a_folder_lists_its_children_in_order_of_names(folder):
    assert list(listed(open_place(folder)).items()) == list(CONTENT.items())


def test_a_tar_file_is_read_in_place(folder, tmp_path):
    with tarfile.open(tmp_path / "packed.tar", "w") as packed:
        packed.add(folder, ".")
    assert listed(open_place(tmp_path / "packed.tar")) == CONTENT


def test_links_in_a_tar_file_are_followed(tmp_path):
    with tarfile.open(tmp_path / "packed.tar", "w") as packed:
        entry = tarfile.TarInfo("sub/a")
        entry.size = 1
        packed.addfile(entry, io.BytesIO(b"a"))
        for name, kind, target in (
            ("hard", tarfile.LNKTYPE, "sub/a"),
            ("soft", tarfile.SYMTYPE, "sub/a"),
            ("around", tarfile.SYMTYPE, "sub"),
        ):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            packed.addfile(link)
    found = listed(open_place(tmp_path / "packed.tar"))
    assert {name: found[name] for name in ("hard", "soft", "around/a", "sub/a")} == dict.fromkeys(
        ("hard", "soft", "around/a", "sub/a"), b"a"
    )


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_to_nothing_is_known_as_one(tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    (child,) = open_place(tmp_path).children()
    assert isinstance(child, File)
    assert child.dangling


@pytest.mark.parametrize(
    "make", [lambda file: None, lambda file: file.write_bytes(b"no tar"), lambda file: file.touch()]
)
def test_what_is_neither_a_folder_nor_a_tar_file_is_refused(tmp_path, make):
    make(tmp_path / "data.tar")
    with pytest.raises(DataError) as failure:
        open_place(tmp_path / "data.tar")
    assert failure.value.where is not None

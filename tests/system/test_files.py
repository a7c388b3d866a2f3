"""Files and folders appear whole or not at all, and lock files keep others out."""

import io
import os
from pathlib import Path

import pytest

from mnv2zoo.system import files
from mnv2zoo.system.files import whole_folder


def names(folder):
    return [path.name for path in folder.iterdir()]


def fail_in(writing):
    with writing as made:
        if isinstance(made, Path):
            (made / "file").touch()
        else:
            made.write(b"half")
        raise KeyboardInterrupt


def test_a_file_appears_when_it_is_whole(tmp_path):
    file = tmp_path / "file"
    with files.whole_file(file) as opened:
        opened.write(b"content")
        assert not file.exists()
    assert file.read_bytes() == b"content"
    assert names(tmp_path) == ["file"]


def test_a_failure_leaves_the_former_file_and_nothing_else(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"former")
    with pytest.raises(KeyboardInterrupt):
        fail_in(files.whole_file(file))
    assert file.read_bytes() == b"former"
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_the_file_that_a_link_points_to_is_replaced(tmp_path):
    (tmp_path / "target").write_bytes(b"former")
    (tmp_path / "link").symlink_to("target")
    with files.whole_file(tmp_path / "link") as opened:
        opened.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


@pytest.mark.parametrize(("path", "error"), [("nowhere/file", FileNotFoundError), (".", FileExistsError)])
def test_a_place_that_cannot_hold_a_file_is_refused(tmp_path, path, error):
    with pytest.raises(error):
        files.place(tmp_path / path)


@pytest.mark.parametrize("before", [False, True])
def test_a_folder_moves_to_a_place_that_is_vacant(tmp_path, before):
    (tmp_path / "made").mkdir()
    (tmp_path / "made/file").touch()
    if before:
        (tmp_path / "place").mkdir()
    files.move_folder(tmp_path / "made", tmp_path / "place")
    assert names(tmp_path) == ["place"]
    assert names(tmp_path / "place") == ["file"]


def test_a_folder_appears_when_it_is_whole(tmp_path):
    folder = tmp_path / "above/folder"
    with files.whole_folder(folder) as aside:
        (aside / "file").write_bytes(b"content")
        assert not folder.exists()
    assert (folder / "file").read_bytes() == b"content"
    assert names(tmp_path / "above") == ["folder"]


def test_after_a_failure_the_folders_above_are_gone_too(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fail_in(files.whole_folder(tmp_path / "a/b/folder"))
    assert names(tmp_path) == []


@pytest.mark.parametrize(("make", "vacant"), [(None, True), ("empty", True), ("full", False), ("file", False)])
def test_a_vacant_folder_is_absent_or_empty(tmp_path, make, vacant):
    folder = tmp_path / "folder"
    if make == "file":
        folder.touch()
    elif make:
        folder.mkdir()
    if make == "full":
        (folder / "file").touch()
    assert files.vacant(folder) == vacant


def test_missing_folders_are_listed_from_the_innermost_on(tmp_path):
    assert files.missing(tmp_path / "a/b") == [tmp_path / "a/b", tmp_path / "a"]
    assert files.missing(tmp_path) == []


class Trickle(io.RawIOBase):
    """A file that gives one byte per read, as network file systems may."""

    def __init__(self, content):
        self.content = io.BytesIO(content)

    def read(self, size=-1):
        return self.content.read(min(size, 1))


def test_short_reads_are_continued():
    assert files.read_all(Trickle(b"content"), 7) == b"content"


@pytest.mark.parametrize(("size", "when"), [(8, "before 8"), (6, "after 6")])
def test_a_file_that_changes_while_it_is_read_is_an_error(size, when):
    with pytest.raises(OSError, match=f"ends {when} bytes"):
        files.read_all(Trickle(b"content"), size)


def test_a_held_lock_keeps_others_out_until_it_is_released(tmp_path):
    file = tmp_path / "lock"
    with files.locked(file, seconds=0):
        with pytest.raises(TimeoutError) as failure, files.locked(file, seconds=0):
            pass
        assert failure.value.filename == str(file)
    with files.locked(file, seconds=0):
        pass


def half_a_folder(path):
    with whole_folder(path) as aside:
        (aside / "half").touch()
        raise KeyboardInterrupt


@pytest.mark.slow
def test_a_folder_that_is_not_finished_leaves_none_above_it(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        half_a_folder(tmp_path / "a" / "b" / "c")
    assert list(tmp_path.iterdir()) == []

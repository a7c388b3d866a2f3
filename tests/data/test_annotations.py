"""Files are listed by their paths, and bad annotations are reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from mnv2zoo.data.annotations import Trouble, files_in, read_bytes, some
from mnv2zoo.errors import DataError
from tests.photos import tar


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"content of {name}")
    return folder


def test_files_have_their_paths_and_hidden_ones_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, "a/x.xml", "b.json", ".hidden", "__MACOSX/y.xml")
    assert sorted(files_in(tmp_path)) == [("a", "x.xml"), ("b.json",)]


def test_the_one_tar_file_of_a_folder_counts_as_unpacked(tmp_path: Path) -> None:
    packed = tar(write(tmp_path / "made", "x.xml"), tmp_path / "made.tar", "BCCD/")
    place = tmp_path / "place"
    place.mkdir()
    packed.rename(place / "data.tar")
    files = files_in(place)
    assert list(files) == [("BCCD", "x.xml")]
    assert read_bytes(files["BCCD", "x.xml"]) == b"content of x.xml"


def test_several_tar_files_have_to_be_splits(tmp_path: Path) -> None:
    made = write(tmp_path / "made", "x.xml")
    place = tmp_path / "place"
    place.mkdir()
    for name in ("one", "two"):
        tar(made, place / f"{name}.tar")
    with pytest.raises(DataError) as error:
        files_in(place)
    assert error.value.found == "one.tar, two.tar"


def test_a_file_beyond_its_limit_is_not_read(tmp_path: Path) -> None:
    file = files_in(write(tmp_path, "x.xml"))["x.xml",]
    assert read_bytes(file, most=16) == b"content of x.xml"
    with pytest.raises(ValueError, match="16 bytes, more than the limit of 15"):
        read_bytes(file, most=15)


def test_trouble_is_told_at_once_or_left_out(tmp_path: Path) -> None:
    for skip in (False, True):
        trouble = Trouble(tmp_path, skip)
        for number in range(7):
            trouble.add("boxes without area", f"{number}.jpg")
        told = "boxes without area: 7 (0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg and 2 more)"
        if skip:
            assert trouble.report() == [f"skipped: {told}"]
        else:
            with pytest.raises(DataError) as error:
                trouble.report()
            assert error.value.found == told


def test_names_come_once() -> None:
    assert some(["b", "a", "b"]) == "b, a"

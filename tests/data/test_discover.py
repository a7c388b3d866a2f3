"""Images are found in files, folders and globs."""

import shutil

import pytest

from mnv2zoo.data import discover
from mnv2zoo.data.discover import alongside, common_root
from mnv2zoo.errors import ImageReadError
from tests.conftest import save_photos


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in ("b.jpg", "a.PNG", "notes.txt", "sub/c.webp", "sub/deep/d.jpeg", "sub/e.csv", "odd[1].jpg"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("place", "found"),
    [
        (".", ["a.PNG", "b.jpg", "odd[1].jpg", "sub/c.webp", "sub/deep/d.jpeg"]),
        ("sub", ["sub/c.webp", "sub/deep/d.jpeg"]),
        ("*.jpg", ["b.jpg", "odd[1].jpg"]),
        ("**/*.jp*g", ["b.jpg", "odd[1].jpg", "sub/deep/d.jpeg"]),
        ("s*", ["sub/c.webp", "sub/deep/d.jpeg"]),
        ("*", ["a.PNG", "b.jpg", "odd[1].jpg", "sub/c.webp", "sub/deep/d.jpeg"]),
        ("odd[1].jpg", ["odd[1].jpg"]),
        ("notes.txt", ["notes.txt"]),
    ],
)
def test_files_folders_and_globs_are_found(tree, place, found):
    assert [str(path) for path in discover.find(place)] == found


@pytest.mark.parametrize("place", ["absent.jpg", "*.gif", "", "n*.txt", "empty"])
def test_a_place_without_images_is_an_error_that_names_it(tree, tmp_path, place):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageReadError, match="no images") as caught:
        discover.find(place)
    assert str(caught.value.where) == place


@pytest.fixture
def photos(tmp_path):
    return save_photos(tmp_path / "photos", 7)


def test_folders_are_searched_as_the_images_are_asked_for(photos):
    (photos / "more").mkdir()
    shutil.copy(photos / "00000.jpg", photos / "more/a.jpg")
    shutil.copy(photos / "00000.jpg", photos / "z.jpg")
    walk = discover.walk([str(photos), str(photos / "more"), f"{photos}/*.jpg"])
    assert next(walk) == photos / "00000.jpg"
    shutil.rmtree(photos / "more")
    *found, error, last = walk
    assert [file.name for file in found] == [f"0000{number}.jpg" for number in range(1, 7)]
    assert "cannot read the folder" in str(error)
    assert last == photos / "z.jpg"


def test_the_common_root_of_places(tmp_path, monkeypatch):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "more").mkdir()
    file = tmp_path / "photos" / "a" / "1.jpg"
    file.touch()
    monkeypatch.chdir(tmp_path)
    assert common_root(["photos"]) == str(tmp_path / "photos")
    assert common_root([str(file)]) == str(file.parent)
    assert common_root(["photos/a/*.jpg"]) == str(file.parent)
    assert common_root(["photos/**/*.jpg", "more/../more"]) == str(tmp_path)


def test_files_lie_as_their_images_do_and_do_not_collide(tmp_path):
    root, out = tmp_path / "photos", tmp_path / "out"
    (root / "a").mkdir(parents=True)
    for name in ("1.jpg", "2.jpg", "2.PNG"):
        (root / "a" / name).touch()
    found = {name: alongside(out, str(root / "a" / name), ".png", str(root)) for name in ("1.jpg", "2.jpg", "2.PNG")}
    assert found == {
        "1.jpg": out / "a" / "1.png",
        "2.jpg": out / "a" / "2.jpg.png",
        "2.PNG": out / "a" / "2.PNG.png",
    }
    assert (out / "a").is_dir()


def test_arrays_are_images_for_networks_that_do_not_take_rgb(tmp_path):
    for name in ("a.npy", "b.TIF", "c.png", "d.txt"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.warns(UserWarning, match="1 .npy file"):
        assert [file.name for file in discover.find(str(tmp_path))] == ["b.TIF", "c.png"]
    for channels in (1, 5):
        with pytest.warns(UserWarning, match="1 .txt file"):
            assert [f.name for f in discover.find(str(tmp_path), channels)] == ["a.npy", "b.TIF", "c.png"]

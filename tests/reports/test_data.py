"""Reports about data, such as images that vanish without a word."""

import io
import os
import shutil
import tarfile
import unicodedata
import warnings
import zipfile

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from mnv2zoo.data import decode, discover
from mnv2zoo.data.checks import check
from mnv2zoo.data.datasets import find
from mnv2zoo.data.layout import Layout
from mnv2zoo.data.splits import with_validation
from mnv2zoo.data.timm_datasets import TimmSample
from mnv2zoo.deploy import calibration
from mnv2zoo.errors import DataError, ImageReadError
from tests.model_dir.test_split import command, packed
from tests.photos import COLORS, encoded, fill, photo, tar

MODEL = "mnv2zoo_035"


def names(data):
    """The images by split and class, without the names of the splits' folders."""
    return {split: sorted(sample.name for sample in own) for split, own in data.splits.items()}


def ignored(data):
    (note,) = [note for note in data.notes if note.startswith("ignored: ")]
    return note


@pytest.fixture
def photos(tmp_path):
    """A plain folder of three classes with eight photos each."""
    return fill(tmp_path / "photos")


@pytest.fixture
def splits(tmp_path):
    """Folders of a training, a validation and a test split."""
    folder = tmp_path / "data"
    for first, (split, count) in enumerate({"train": 4, "val": 2, "test": 3}.items()):
        fill(folder / split, count, first=10 * first)
    return folder


# Which files are images.


def clutter(folder):
    """Puts what computers leave behind among photos: 5 files and 3 folders, all named after what they look like."""
    for hidden in (".ipynb_checkpoints", ".Trash", "__MACOSX"):
        (folder / hidden).mkdir()
        photo("red", 99).save(folder / hidden / "99.png")
    for name in ("._00.png", ".DS_Store", "Thumbs.db", "red/._00.png", "red/.hidden.jpg"):
        (folder / name).write_bytes(b"\0\5\26\7")


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_hidden_files_and_folders_are_neither_images_nor_classes(photos, tmp_path, kind):
    expected = names(find(photos))
    clutter(photos)
    data = find(photos if kind == "folder" else packed(photos, tmp_path / "photos.tar"))
    assert (data.class_names, names(data)) == (("blue", "green", "red"), expected)
    note = ignored(data)
    assert "5 hidden files" in note
    assert all(f"folder {name}/" in note for name in (".ipynb_checkpoints", ".Trash", "__MACOSX"))
    check(data, skip_bad=False)


def test_predict_and_calibration_pass_over_the_same_files_as_finetune(photos):
    expected = sorted(photos.rglob("*.png"))
    clutter(photos)
    with pytest.warns(UserWarning, match=r"ignored: 5 hidden files, folder .*__MACOSX/"):
        assert list(discover.walk([str(photos)])) == expected
    model = timm.create_model(MODEL, num_classes=3)
    with pytest.warns(UserWarning, match="ignored"):
        found = calibration.prepare(photos, model, torch.zeros(1, 3, 32, 32))
    data = resolve_data_config(pretrained_cfg=model.pretrained_cfg, use_test_size=True) | {"input_size": (3, 32, 32)}
    transform = create_transform(**data)
    assert torch.equal(found.images, torch.stack([transform(decode.read(file)) for file in expected]))


def test_predict_takes_a_hidden_file_that_is_named(photos):
    (photos / ".one.png").write_bytes((photos / "red/00.png").read_bytes())
    (photos / ".trash").mkdir()
    shutil.copy(photos / "red/00.png", photos / ".trash/a.png")
    places = [photos / ".one.png", photos / ".trash"]
    assert list(discover.walk(map(str, places))) == [photos / ".one.png", photos / ".trash/a.png"]


@pytest.mark.slow
def test_predict_says_on_stderr_what_it_did_not_use(tiny, photos):
    (photos / "red/a.heic").write_bytes(b"ftypheic")
    done = command("predict", photos, "--model", tiny, "--json")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 24
    assert done.stderr.splitlines() == ["warning: ignored: 1 .heic file"]


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_what_is_found_and_not_used_is_counted_in_one_line(photos, tmp_path, kind):
    for number in range(9):
        (photos / "red" / f"{number}.HEIC").write_bytes(b"ftypheic")
    (photos / "blue" / "clip.mp4").write_bytes(b"\0")
    (photos / "blue" / "IMG_0001").write_bytes((photos / "red/00.png").read_bytes())
    photo("red", 50).save(photos / "loose.png")
    shutil.copy(photos / "red/00.png", photos / "red/upper.PNG")
    data = find(photos if kind == "folder" else packed(photos, tmp_path / "photos.tar"))
    assert ignored(data) == (
        "ignored: 9 .heic files, 1 file without an extension, 1 .mp4 file, 1 image outside class folders"
    )
    assert len(data.splits["train"]) == 25


def test_a_class_of_heic_files_alone_is_an_error_that_says_so(photos):
    for file in (photos / "red").iterdir():
        file.rename(file.with_suffix(".heic"))
    with pytest.raises(DataError, match="the class folder 'red' has no images") as error:
        find(photos)
    assert "8 .heic files" in error.value.found


def test_a_finished_run_among_the_photos_is_no_class(photos):
    (photos / "run/report/val").mkdir(parents=True)
    photo("red", 1).save(photos / "run/report/val/curves.png")
    for name in ("recipe.json", "split.json"):
        (photos / "run" / name).write_text("{}")
    data = find(photos)
    assert data.class_names == ("blue", "green", "red")
    assert ignored(data) == "ignored: model folder run/"


# Links.


def test_linked_classes_and_images_are_followed_by_every_command(tmp_path):
    real = fill(tmp_path / "real", 3)
    photos = tmp_path / "photos"
    (photos / "green").mkdir(parents=True)
    (photos / "red").symlink_to(real / "red")
    (photos / "blue").symlink_to("../real/blue")
    for file in (real / "green").iterdir():
        (photos / "green" / file.name).symlink_to(file)
    expected = sorted(photos / color / f"{number:02}.png" for color in ("red", "green", "blue") for number in range(3))
    assert [sample.place for sample in find(photos).splits["train"]] == expected
    assert discover.find(str(photos)) == expected


def test_val_that_links_to_test_is_there(splits):
    shutil.rmtree(splits / "val")
    (splits / "val").symlink_to("test")
    data = find(splits)
    assert {split: len(own) for split, own in data.splits.items()} == {"train": 12, "val": 9, "test": 9}
    assert "9 of 9 test images are also in val: test/blue/20.png" in "\n".join(check(data, False).notes)


def test_two_classes_that_link_to_one_folder_are_both_there_and_said(photos):
    (photos / "yellow").symlink_to("red")
    data = find(photos)
    assert [sum(s.target == label for s in data.splits["train"]) for label in range(4)] == [8, 8, 8, 8]
    assert any(note.startswith("8 images are in more than one class") for note in check(data, False).notes)


@pytest.mark.parametrize("target", ["..", "../..", "../blue", "."])
@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_links_in_circles_end_and_lose_nothing(photos, tmp_path, target, kind):
    (photos / "red" / "again").symlink_to(target)
    (photos / "blue" / "back").symlink_to("../red")
    place = photos if kind == "folder" else packed(photos, tmp_path / "photos.tar")
    found = set(names(find(place))["train"])
    assert found >= {f"train/{color}/{number:02}.png" for color in ("red", "green", "blue") for number in range(8)}
    assert len(found) <= 48
    if kind == "folder":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert len(list(discover.walk([str(photos)]))) == len(found)


def test_a_link_that_points_to_nothing_is_an_error(photos, tmp_path):
    (photos / "yellow").symlink_to("unmounted")
    for place in (photos, packed(photos, tmp_path / "photos.tar")):
        with pytest.raises(DataError, match="'yellow' is broken"):
            find(place)
    (error,) = [item for item in discover.walk([str(photos)]) if isinstance(item, ImageReadError)]
    assert "yellow" in error.where
    (photos / "yellow").unlink()
    (photos / "red/lost.png").symlink_to("nowhere.png")
    for place in (photos, packed(photos, tmp_path / "other.tar")):
        with pytest.raises(DataError, match="1 of 25 images cannot be read"):
            check(find(place), skip_bad=False)
        assert len(check(find(place), skip_bad=True).splits["train"]) == 24


@pytest.mark.parametrize("link", ["hard", "symbolic", "folder"])
def test_links_in_a_tar_file_give_the_images_they_point_to(splits, tmp_path, link):
    expected = find(splits)
    (splits / "store").mkdir()
    for file in sorted((splits / "val").rglob("*.png")):
        kept = splits / "store" / f"{file.parent.name}-{file.name}"
        file.rename(kept)
        if link == "hard":
            os.link(kept, file)
        elif link == "symbolic":
            file.symlink_to(f"../../store/{kept.name}")
    if link == "folder":
        for color in ("red", "green", "blue"):
            (splits / "store" / color).mkdir()
            for file in splits.glob(f"store/{color}-*"):
                file.rename(splits / "store" / color / file.name.partition("-")[2])
        shutil.rmtree(splits / "val")
        (splits / "val").symlink_to("store")
    data = find(packed(splits, tmp_path / "data.tar"))
    assert names(data) == names(expected)
    for one, other in zip(data.splits["val"], expected.splits["val"], strict=True):
        assert one.source().getvalue() == encoded(photo(one.name.split("/")[1], int(one.name[-6:-4])), "PNG")
        assert one.target == other.target


# Tar files.


def members(path, rows):
    """A tar file of members with these names, kinds and contents."""
    with tarfile.open(path, "w") as archive:
        for name, content in rows:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("prefix", ["/data/", "../data/", "./", "", "a/../data/", "data//"])
def test_paths_in_a_tar_file_are_read_as_tar_unpacks_them(tmp_path, prefix):
    rows = [
        (f"{prefix}{color}/{number}.png", encoded(photo(color, number), "PNG"))
        for color in ("red", "blue")
        for number in range(3)
    ]
    data = find(members(tmp_path / "a.tar", rows))
    assert names(data) == {"train": [f"train/{color}/{number}.png" for color in ("blue", "red") for number in range(3)]}


def test_of_a_path_that_a_tar_file_holds_twice_the_last_counts(tmp_path, photos):
    path = tar(photos, tmp_path / "a.tar")
    new = encoded(photo("red", 77), "PNG")
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("red/00.png")
        info.size = len(new)
        archive.addfile(info, io.BytesIO(new))
    data = find(path)
    assert len(data.splits["train"]) == 24
    (sample,) = [sample for sample in data.splits["train"] if sample.name == "train/red/00.png"]
    assert sample.source().getvalue() == new


@pytest.mark.parametrize("cut", [0.3, 0.5, 0.77, "header", "end"])
def test_a_tar_file_that_was_cut_short_is_an_error(tmp_path, photos, cut):
    path = tar(photos, tmp_path / "a.tar")
    content = path.read_bytes()
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1]
        archive.next()
        end = archive.offset
    length = {"header": last.offset, "end": end}.get(cut) or int(len(content) * cut)
    path.write_bytes(content[:length])
    with pytest.raises(DataError, match="corrupt or incomplete") as error:
        find(path)
    assert error.value.fix


def test_two_tar_files_in_one_are_not_half_read(tmp_path, photos):
    path = tar(photos, tmp_path / "a.tar")
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(DataError, match="corrupt or incomplete") as error:
        find(path)
    assert "follows its end" in error.value.found


def test_a_split_that_has_to_be_unpacked_is_an_error(splits, tmp_path):
    with tarfile.open(splits / "val.tar.gz", "w:gz") as archive:
        archive.add(splits / "val", "val")
    shutil.rmtree(splits / "val")
    with pytest.raises(DataError, match=r"compressed file val\.tar\.gz cannot be read"):
        find(splits)


def test_a_split_as_a_folder_and_as_a_tar_file_is_an_error(splits):
    tar(splits / "val", splits / "val.tar")
    with pytest.raises(DataError, match=r"both a folder val/ and a file val\.tar"):
        find(splits)


def places(tmp_path):
    photo("red", 1).save(tmp_path / "photo.jpg")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.write(tmp_path / "photo.jpg", "red/photo.jpg")
    (tmp_path / "labels.csv").write_text("file,class\na.jpg,red\n")
    (tmp_path / "empty.tar").write_bytes(b"")
    (tmp_path / "damaged.tar").write_bytes(b"no tar file" * 99)
    for ending, mode in (("tar.gz", "w:gz"), ("tar.xz", "w:xz"), ("tgz", "w:gz")):
        with tarfile.open(tmp_path / f"photos.{ending}", mode) as archive:
            archive.add(tmp_path / "photo.jpg", "red/photo.jpg")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("name", "found", "fix"),
    [
        ("photo.jpg", "an image", "mnv2zoo predict"),
        ("photos.zip", "a zip file", "Unpack"),
        ("labels.csv", "a .csv file", "one folder per class"),
        ("empty.tar", "an empty file", "folder"),
        ("damaged.tar", "a corrupt or incomplete tar file", "tar tf"),
        ("photos.tar.gz", "a compressed tar file", "Unpack"),
        ("photos.tar.xz", "a compressed tar file", "Unpack"),
        ("photos.tgz", "a compressed tar file", "Unpack"),
        ("dangling", "a broken link", "Restore"),
        ("pipe", "a special file", "folder"),
        ("missing", "no such file or folder", "spelling"),
        ("folder/missing", "no such file or folder", "spelling"),
    ],
)
def test_what_is_no_data_is_named_with_what_to_do(tmp_path, name, found, fix):
    places(tmp_path)
    with pytest.raises(DataError, match=name) as error:
        find(tmp_path / name)
    assert found in error.value.found
    assert fix in error.value.fix


def test_an_empty_name_is_not_the_current_folder(photos, monkeypatch):
    monkeypatch.chdir(photos)
    with pytest.raises(DataError, match="not a folder"):
        find("")
    assert len(find(".").splits["train"]) == 24


# Splits and classes.


@pytest.mark.parametrize("name", ["train", "dev", "valid", "test", "Val"])
@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_a_class_with_a_name_of_a_split_is_no_guess(photos, tmp_path, name, kind):
    (photos / "red").rename(photos / name)
    place = photos if kind == "folder" else packed(photos, tmp_path / "photos.tar")
    with pytest.raises(DataError, match=f"{name} may be a split or a class") as error:
        find(place)
    assert "--layout classes" in error.value.fix
    assert "--train-dir" in error.value.fix
    data = find(place, layout=Layout("classes"))
    assert data.class_names == tuple(sorted(("blue", "green", name)))
    assert len(data.splits["train"]) == 24


def test_a_class_called_eval_is_a_class(photos):
    (photos / "red").rename(photos / "eval")
    assert find(photos).class_names == ("blue", "eval", "green")


def test_a_class_called_train_with_folders_in_it_is_no_split(photos):
    for kind in ("steam", "diesel"):
        (photos / "train" / kind).mkdir(parents=True)
        photo("red", 1).save(photos / "train" / kind / "1.png")
    with pytest.raises(DataError, match="may be a split or a class"):
        find(photos)


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_an_unknown_folder_beside_splits_is_said(splits, tmp_path, kind):
    fill(splits / "eval", 2, first=50)
    place = splits if kind == "folder" else packed(splits, tmp_path / "data.tar")
    data = find(place)
    assert {split: len(own) for split, own in data.splits.items()} == {"train": 12, "val": 6, "test": 9}
    assert ignored(data) == "ignored: folder eval/"
    data = find(place, layout=Layout(val_dir="eval"))
    assert names(data)["val"] == sorted(f"val/{color}/{number}.png" for color in COLORS for number in (50, 51))
    assert ignored(data) == "ignored: folder val/"


def test_two_folders_for_one_split_are_an_error_that_names_both(splits):
    fill(splits / "valid", 2, first=50)
    with pytest.raises(DataError, match=r"2 folders may be the split val: val, valid") as error:
        find(splits)
    assert "--val-dir" in error.value.fix
    data = find(splits, layout=Layout(val_dir="valid"))
    assert names(data)["val"][0] == "val/blue/50.png"
    fill(splits / "Train", 2)
    with pytest.raises(DataError, match="2 folders may be the split train: Train, train"):
        find(splits, layout=Layout(val_dir="valid"))


@pytest.mark.parametrize("content", ["nothing", "heic", "loose"])
def test_a_val_folder_without_images_is_not_replaced_by_training_images(splits, content):
    for file in (splits / "val").rglob("*.png"):
        if content == "heic":
            file.rename(file.with_suffix(".heic"))
        elif content == "loose":
            file.rename(splits / "val" / f"{file.parent.name}{file.name}")
        else:
            file.unlink()
    with pytest.raises(DataError, match="the split val has no images in class folders"):
        find(splits)


def test_unlabeled_test_images_are_left_out_and_said(splits):
    for file in (splits / "test").rglob("*.png"):
        file.rename(splits / "test" / f"{file.parent.name}{file.name}")
    data = find(splits)
    assert list(data.splits) == ["train", "val"]
    assert "test has no images in class folders and is not used" in data.notes
    assert ignored(data) == "ignored: 9 images outside class folders"


def test_splits_may_be_anywhere(tmp_path):
    fill(tmp_path / "data/2023", 4)
    fill(tmp_path / "elsewhere/2024", 2, first=10)
    fill(tmp_path / "data/2023b", 1)
    layout = Layout(train_dir="2023", val_dir=str(tmp_path / "elsewhere/2024"))
    data = find(tmp_path / "data", layout=layout)
    assert {split: len(own) for split, own in data.splits.items()} == {"train": 12, "val": 6}
    assert ignored(data) == "ignored: folder 2023b/"
    with pytest.raises(DataError, match="'2025' for test is not in the data"):
        find(tmp_path / "data", layout=Layout(train_dir="2023", test_dir="2025"))


def test_a_split_within_the_training_folder_is_not_trained_on(photos):
    fill(photos / "held", 2, first=30)
    data = find(photos, layout=Layout(train_dir=".", val_dir="held"))
    assert data.class_names == ("blue", "green", "red")
    assert {split: len(own) for split, own in data.splits.items()} == {"train": 24, "val": 6}


def test_class_folders_that_hold_splits_are_an_error(tmp_path):
    for color in ("red", "blue"):
        for split in ("train", "val"):
            (tmp_path / "data" / color / split).mkdir(parents=True)
            photo(color, 1).save(tmp_path / "data" / color / split / "1.png")
    with pytest.raises(DataError, match="the class folders contain split folders"):
        find(tmp_path / "data")


def test_one_folder_around_everything_is_passed_through_as_in_a_tar_file(tmp_path, splits):
    outer = tmp_path / "outer"
    shutil.copytree(splits, outer / "inner")
    data = find(outer)
    assert names(data) == names(find(splits))
    assert data.notes == ("the class folders are in inner/, the only folder in the data",)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_classes_are_the_same_in_either_unicode_form(tmp_path, forms, kind):
    folder = tmp_path / "data"
    for split, form in zip(("train", "val"), forms, strict=True):
        fill(folder / split, 2)
        (folder / split / "red").rename(folder / split / unicodedata.normalize(form, "café"))
    place = folder if kind == "folder" else packed(folder, tmp_path / "data.tar")
    data = find(place)
    assert data.class_names == ("blue", unicodedata.normalize("NFC", "café"), "green")
    assert [s.target for s in data.splits["val"]] == [s.target for s in data.splits["train"]]
    assert data.notes == ()


def test_two_folders_whose_names_look_the_same_are_one_class(photos):
    for form, color in (("NFC", "red"), ("NFD", "green")):
        (photos / color).rename(photos / unicodedata.normalize(form, "é"))
    data = find(photos)
    assert data.class_names == ("blue", "é")
    assert [s.target for s in data.splits["train"]].count(1) == 16
    assert any("count as one class: é" in note for note in data.notes)


def test_copies_of_a_training_image_are_not_validated_on(photos):
    for file in sorted(photos.rglob("*.png")):
        shutil.copy(file, file.with_name(f"copy-{file.name}"))
    data = with_validation(check(find(photos), False), 0.25, seed=0)
    contents = {split: {s.place.read_bytes() for s in own} for split, own in data.splits.items()}
    assert not contents["train"] & contents["val"]
    assert {split: len(own) for split, own in data.splits.items()} == {"train": 36, "val": 12}


# One way to read an image.


@pytest.mark.parametrize(
    ("image", "mean"),
    [
        (Image.fromarray(np.full((40, 40), 119 * 257, np.uint16)), 119),
        (Image.new("RGBA", (40, 40), (0, 0, 0, 0)), 255),
        (Image.new("LA", (40, 40), (0, 128)), 127),
        (Image.new("CMYK", (40, 40), (0, 0, 0, 0)), 255),
        (Image.fromarray(np.full((40, 40), 0.5, np.float32)), 128),
    ],
    ids=["16-bit", "transparent", "half transparent", "CMYK", "float"],
)
def test_an_image_of_a_timm_dataset_is_read_as_a_file_is(tmp_path, image, mean):
    (found,) = {TimmSample("train/0", 0, [(image, 0)], 0).read().resize((1, 1)).getpixel((0, 0))}
    assert max(abs(value - mean) for value in found) <= 1
    image.save(tmp_path / "a.tif")
    assert found == decode.read(tmp_path / "a.tif").getpixel((0, 0))


def test_files_behind_a_dataset_of_timm_are_read_as_files_are(tmp_path):
    from timm.data import create_dataset

    fill(tmp_path / "train", 2)
    Image.fromarray(np.full((40, 36), 119 * 257, np.uint16)).save(tmp_path / "train/blue/00.png")
    (tmp_path / "train/blue/01.png").write_bytes(b"no image")
    dataset = create_dataset("", root=str(tmp_path), split="train")
    samples = [TimmSample(f"train/{i}", label, dataset, i) for i, (_, label) in enumerate(dataset.reader.samples)]
    assert samples[0].read().getpixel((3, 3)) == (119, 119, 119)
    with pytest.raises(ImageReadError, match="cannot read the image"):  # timm gives the next image instead
        samples[1].read()


def test_a_folder_around_one_tar_file_says_to_pass_that(photos, tmp_path):
    (tmp_path / "around").mkdir()
    packed(photos, tmp_path / "around/photos.tar")
    with pytest.raises(DataError, match="no images") as error:
        find(tmp_path / "around")
    assert error.value.fix == "Pass the tar file photos.tar itself."


def test_an_image_in_two_classes_is_not_both_trained_and_validated_on(photos):
    (photos / "yellow").mkdir()
    shutil.copy(photos / "red/00.png", photos / "yellow/only.png")
    found = check(find(photos), False)
    assert any(note.startswith("1 image is in more than one class") for note in found.notes)
    for seed in range(8):
        data = with_validation(found, 0.5, seed)
        contents = {split: {s.place.read_bytes() for s in own} for split, own in data.splits.items()}
        assert not contents["train"] & contents["val"]
        assert "train/yellow/only.png" in names(data)["train"]

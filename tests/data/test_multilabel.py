"""Images with labels from CSV files, class folders and COCO annotations."""

import json

import pytest

from mnv2zoo.data import multilabel
from mnv2zoo.data.layout import Layout
from mnv2zoo.errors import DataError
from tests.photos import fill as fill_classes
from tests.photos import tar
from tests.tasks.multilabel.scenes import (
    NAMES,
    copy_into,
    fill,
    fill_coco,
    fill_columns,
    fill_folders,
    labels_of,
    picture,
    save,
    write_csv,
)


def read(place, **layout):
    return multilabel.read(place, Layout(**layout))


def found(listing, split="train"):
    """The labels of each image, by the number in its name."""
    return {int(image.name[-7:-4]): sorted(image.labels) for image in listing.splits[split]}


def refused(place, **layout):
    with pytest.raises(DataError) as error:
        read(place, **layout)
    assert error.value.fix
    return error.value


TRUTH = {number: sorted(labels_of(number)) for number in range(16)}


def test_every_form_gives_the_same_labels(tmp_path):
    lists = read(fill(tmp_path / "lists"))
    assert found(lists) == TRUTH
    assert found(lists, "val") == {number: sorted(labels_of(number)) for number in range(16, 24)}
    assert lists.class_names == NAMES
    assert lists.form == "CSV, labels separated by '|'"
    columns = read(fill_columns(tmp_path / "columns"))
    assert (found(columns), columns.class_names, list(columns.splits)) == (TRUTH, NAMES, ["train"])
    coco = read(fill_coco(tmp_path / "coco"))
    assert (found(coco), coco.class_names) == (TRUTH, NAMES[::-1])
    assert coco.notes == ("labels without training images are ignored: unseen",)
    folders = read(fill_folders(tmp_path / "folders"))
    labeled = {number: labels for number, labels in TRUTH.items() if labels}
    assert (found(folders), folders.class_names) == (labeled, NAMES)


def test_a_file_a_folder_and_a_tar_file_hold_the_same(tmp_path):
    folder = fill_columns(tmp_path / "data")
    file, packed = read(folder / "all.csv"), read(tar(folder, tmp_path / "data.tar"))
    assert found(file) == found(packed) == TRUTH


def test_a_column_gives_the_split_and_paths_may_be_absolute(tmp_path):
    save(tmp_path / "images", range(1, 4))
    names = [tmp_path / "images/001.png", "images/002.png", "003.png"]
    rows = [(names[0], "b", "train"), (names[1], "b", "Validation"), (names[2], "", "test")]
    write_csv(tmp_path / "x.csv", [("Image", "labels", "split"), *rows])
    listing = read(tmp_path / "x.csv")
    assert {split: found(listing, split) for split in listing.splits} == {
        "train": {1: ["b"]},
        "val": {2: ["b"]},
        "test": {3: []},
    }


@pytest.mark.parametrize("text", ["image;labels\n001.png;a, b\n", "\ufeffimage,labels\n001.png, a | b |\n"])
def test_spreadsheets_write_other_delimiters_and_marks(tmp_path, text):
    save(tmp_path, [1])
    (tmp_path / "x.csv").write_text(text, encoding="utf-8")
    assert found(read(tmp_path)) == {1: ["a", "b"]}


def test_the_separator_is_found_or_given_but_not_guessed(tmp_path):
    save(tmp_path, [1, 2])
    write_csv(tmp_path / "x.csv", [("image", "labels"), ("001.png", "salt, pepper|oil"), ("002.png", "red wine")])
    assert "--label-separator" in refused(tmp_path).fix
    assert found(read(tmp_path, label_separator="|")) == {1: ["oil", "salt, pepper"], 2: ["red wine"]}
    assert found(read(tmp_path, label_separator=" "))[2] == ["red", "wine"]


def test_rows_of_one_image_are_joined(tmp_path):
    save(tmp_path, [1])
    write_csv(tmp_path / "x.csv", [("image", "labels"), ("001.png", "a"), ("001.png", "b")])
    listing = read(tmp_path)
    assert found(listing) == {1: ["a", "b"]}
    assert listing.notes == ("images in several rows have the labels of all of them: 001.png",)


@pytest.mark.parametrize(
    ("rows", "problem", "told"),
    [
        ([("photo", "labels"), ("001.png", "a")], "no labels", "1 images without labels"),
        ([("image",), ("001.png",)], "a CSV file has no labels", "'image'"),
        (
            [("image", "labels", "who", "when"), ("001.png", "a", "x", "y")],
            "unknown columns",
            "'who', 'when'",
        ),
        ([("image", "a", "a"), ("001.png", "1", "0")], "two columns of a CSV file have the same name", "'a'"),
    ],
)
def test_columns_that_are_not_known_are_named(tmp_path, rows, problem, told):
    save(tmp_path, [1])
    write_csv(tmp_path / "x.csv", rows)
    error = refused(tmp_path)
    assert problem in error.problem
    assert told in str(error.found)


def test_a_file_without_a_column_of_images_is_refused(tmp_path):
    write_csv(tmp_path / "x.csv", [("photo", "labels"), ("001.png", "a")])
    error = refused(tmp_path / "x.csv")
    assert error.problem == f"{tmp_path / 'x.csv'} has no column 'image'"
    assert error.found == "photo, labels"


def test_bad_rows_are_counted_with_their_lines_or_left_out(tmp_path):
    save(tmp_path, [1, 2])
    rows = [("001.png", "1", "0"), ("002.png", "0", "yes"), ("", "", ""), ("9.png", "1", "1"), ("002.png", "1")]
    write_csv(tmp_path / "x.csv", [("image", "a", "b"), *rows[:1], (), *rows[1:]])
    assert refused(tmp_path).found == (
        "values other than 0 and 1, such as 'yes' in 'b': 1 (line 4 of x.csv); "
        "values other than 0 and 1, such as '' in 'a': 1 (line 5 of x.csv); "
        "images that do not exist: 2 (line 5 of x.csv, 9.png); "
        "rows that do not have 3 cells, like the header: 1 (line 7 of x.csv)"
    )
    assert found(read(tmp_path, skip_bad_images=True)) == {1: ["a"]}


def test_an_unknown_split_is_counted(tmp_path):
    save(tmp_path, [1])
    write_csv(tmp_path / "x.csv", [("image", "labels", "split"), ("001.png", "a", "holdout")])
    assert refused(tmp_path).found == "rows with an unknown split, such as 'holdout': 1 (line 2 of x.csv)"


def test_a_label_that_training_does_not_see_is_refused(tmp_path):
    folder = fill(tmp_path / "data")
    write_csv(folder / "val.csv", [("image", "labels"), ("val/016.png", "red|purple"), ("val/017.png", "pink")])
    error = refused(folder)
    assert error.problem == "the split val has labels that train lacks"
    assert error.found == "pink, purple"


def test_a_folder_of_images_is_not_taken_for_a_label(tmp_path):
    save(tmp_path / "images", [1, 2])
    write_csv(tmp_path / "x.csv", [("file", "labels"), ("001.png", "a")])
    error = refused(tmp_path)
    assert (error.problem, error.found) == ("the data has no labels", "only the folder 'images'")


def test_two_files_for_one_split_and_images_without_any_label_are_refused(tmp_path):
    folder = fill_columns(tmp_path / "data")
    write_csv(folder / "more.csv", [("image", "labels"), ("001.png", "a")])
    assert refused(folder).found == "all.csv, more.csv"
    assert found(read(folder / "more.csv")) == {1: ["a"]}
    write_csv(folder / "more.csv", [("image", "labels"), ("001.png", "")])
    assert refused(folder / "more.csv").problem == "no image has a label"


def test_files_about_something_else_do_not_matter(tmp_path):
    folder = fill(tmp_path / "data")
    (folder / "notes.csv").write_bytes(b"\xff\xfeprices\n")
    assert "UTF-8" in str(refused(folder).expected)
    (folder / "notes.csv").write_text("name,price\na,1\n")
    assert found(read(folder)) == TRUTH


def test_folders_of_splits_are_for_class_folders_alone(tmp_path):
    assert refused(fill(tmp_path / "data"), train_dir="train").fix.startswith("Leave out")


def test_copies_in_class_folders_are_one_image_under_any_name(tmp_path):
    picture(1).save(tmp_path / "one.png")
    picture(2).save(tmp_path / "two.png")
    data = tmp_path / "data"
    copy_into(data, tmp_path / "one.png", "a/x.png", "b/x.png", "c/other.png")
    copy_into(data, tmp_path / "two.png", "b/y.png")
    (data / "c").mkdir(exist_ok=True)
    (data / "c/y.png").symlink_to(data / "b/y.png")
    listing = read(data)
    assert [(image.name, sorted(image.labels)) for image in listing.splits["train"]] == [
        ("train/a/x.png", ["a", "b", "c"]),
        ("train/b/y.png", ["b", "c"]),
    ]
    assert listing.form == "class folders, 2 images in several of them"


def test_one_name_for_different_images_is_refused(tmp_path):
    picture(1).save(tmp_path / "one.png")
    picture(2).save(tmp_path / "two.png")
    copy_into(tmp_path / "data", tmp_path / "one.png", "a/x.png")
    copy_into(tmp_path / "data", tmp_path / "two.png", "b/x.png")
    error = refused(tmp_path / "data")
    assert error.problem == "files with the same name in several class folders are different images"
    assert error.found == "1: x.png"


def test_bad_annotations_of_coco_are_counted(tmp_path):
    folder = fill_coco(tmp_path / "data", 4)
    document = json.loads((folder / "annotations.json").read_text())
    document["annotations"] += [
        {"id": 50, "image_id": 100, "category_id": 7},
        {"id": 51, "image_id": 9, "category_id": 10},
    ]
    document["images"].append({"id": 200, "file_name": "gone.png"})
    (folder / "annotations.json").write_text(json.dumps(document))
    assert refused(folder).found == (
        "annotations of an unknown category: 1 (annotation 50 in annotations.json); "
        "annotations of an unknown image: 1 (annotation 51 in annotations.json); "
        "images that do not exist: 1 (gone.png)"
    )
    del document["images"][0]["file_name"]
    (folder / "annotations.json").write_text(json.dumps(document))
    assert refused(folder).found == "KeyError: 'file_name'"


def test_it_is_clear_where_a_csv_file_has_labels(tmp_path):
    assert multilabel.has_labels(fill(tmp_path / "lists"))
    assert multilabel.has_labels(tmp_path / "lists/train.csv")
    assert multilabel.has_labels(fill_columns(tmp_path / "columns"))
    classes = fill_classes(tmp_path / "classes", 1)
    write_csv(classes / "classes.csv", [("name", "price"), ("red", "1")])
    write_csv(classes / "sizes.csv", [("image", "width"), ("red/00.png", "40")])
    (classes / "other.csv").write_bytes(b"\xff\xfe")
    for place in (classes, fill_coco(tmp_path / "coco", 4), fill_folders(tmp_path / "folders", 4), "torch/cifar10"):
        assert not multilabel.has_labels(place)

"""A list says which image is in which split and in which group, or what is wrong with it."""

import json

import pytest

from mnv2zoo.data.datasets import find
from mnv2zoo.data.split_file import SplitFile, apply, group_names
from mnv2zoo.errors import DataError
from tests.photos import photo

NAMES = [f"{color}/{number:02}.png" for color in ("blue", "green", "red") for number in range(8)]
SPLITS = ["test", "val", *["train"] * 6] * 3


def names(data):
    return {split: [sample.name for sample in samples] for split, samples in data.splits.items()}


def expected(split):
    return [f"train/{name}" for name, own in zip(NAMES, SPLITS, strict=True) if own == split]


def rows(header="image,split", tail=""):
    return "\n".join([header, *(f"{name},{split}{tail}" for name, split in zip(NAMES, SPLITS, strict=True)), ""])


def write(path, text):
    path.write_text(text)
    return SplitFile.read(path)


def as_json(path):
    pairs = zip(NAMES, SPLITS, strict=True)
    return write(path / "list.json", json.dumps([{"image": name, "split": split} for name, split in pairs]))


def as_run(path):
    pairs = [(f"train/{name}", split) for name, split in zip(NAMES, SPLITS, strict=True)]
    splits = {split: [name for name, own in pairs if own == split] for split in ("train", "val", "test")}
    return write(path / "split.json", json.dumps(splits | {"images": {}, "folds": []}))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: write(path / "list.csv", rows()),
        lambda path: write(path / "list.csv", "\ufeff" + rows().replace("val", "Validation").replace(",", " , ")),
        lambda path: write(path / "list.tsv", rows().replace(",", "\t")),
        lambda path: write(path / "list.csv", "\n".join(reversed([*rows().splitlines()[1:], "image,split"]))),
        as_json,
        as_run,
    ],
    ids=["csv", "csv of a spreadsheet", "tsv", "csv in another order", "json", "split.json of a run"],
)
def test_each_image_is_in_the_split_of_its_row(photos, tmp_path, make):
    assert names(apply(find(photos), make(tmp_path))) == {
        "train": expected("train"),
        "val": expected("val"),
        "test": expected("test"),
    }


def test_a_list_overrides_the_splits_of_the_data(tmp_path):
    for split, number in (("train", 0), ("train", 1), ("val", 2)):
        for color in ("blue", "red"):
            (tmp_path / "photos" / split / color).mkdir(parents=True, exist_ok=True)
            photo(color, number).save(tmp_path / "photos" / split / color / f"{color}{number}.png")
    text = "image,split\n" + "".join(
        f"{color}{number}.png,{'val' if number == 0 else 'train'}\n" for color in ("blue", "red") for number in range(3)
    )
    found = names(apply(find(tmp_path / "photos"), write(tmp_path / "list.csv", text)))
    assert {split: sorted(own) for split, own in found.items()} == {
        "train": ["train/blue/blue1.png", "train/red/red1.png", "val/blue/blue2.png", "val/red/red2.png"],
        "val": ["train/blue/blue0.png", "train/red/red0.png"],
    }


def test_images_that_were_renamed_are_recognized_by_the_hashes_of_a_run(photos, tmp_path):
    samples = {sample.name: sample.identify() for sample in find(photos).splits["train"]}
    splits = {"train": expected("train"), "val": expected("val") + expected("test")}
    listed = write(tmp_path / "split.json", json.dumps(splits | {"images": samples}))
    for file in list(photos.rglob("*.png")):
        file.rename(file.with_name(f"new-{file.name}"))
    found = names(apply(find(photos), listed))
    assert sorted(found["val"]) == sorted(
        name.rpartition("/")[0] + "/new-" + name.rpartition("/")[2] for name in splits["val"]
    )


@pytest.mark.parametrize(
    ("text", "problem", "found"),
    [
        (
            rows() + "blue/77.png,train\nred/78.png,val\n",
            "2 images in the list are not in the data",
            "blue/77.png, red/78",
        ),
        (rows().replace("red/07.png,train\n", ""), "1 images in the data are not in the list", "train/red/07.png"),
        (
            rows().replace("blue/00.png,test", "blue/00.png,tset"),
            "1 images in the list have an unknown split",
            "tset",
        ),
        (rows() + "red/07.png,val\n", "1 images are listed twice", "red/07.png"),
        (
            rows() + "train/red/07.png,val\n",
            "1 rows in the list match the same image as another row",
            "train/red/07.png",
        ),
        (rows().replace("blue/00.png", "00.png"), "1 names in the list match several images", "00.png"),
        (rows().replace("train", "val"), "the list has no training images", "none"),
        (rows("file,split"), "cannot read the list of images", "file, split"),
        ("image,split\n", "cannot read the list of images", "no rows"),
    ],
)
def test_what_is_wrong_with_a_list_is_named_and_counted(photos, tmp_path, text, problem, found):
    with pytest.raises(DataError) as error:
        apply(find(photos), write(tmp_path / "list.csv", text))
    assert error.value.problem.startswith(problem)
    assert found in str(error.value.found)
    assert error.value.where == tmp_path / "list.csv"


@pytest.mark.parametrize(
    ("name", "content"), [("a.json", "{"), ("a.json", '{"a": 1}'), ("a.csv", None), ("a.json", "[1]")]
)
def test_what_is_no_list_is_refused(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match="cannot read the list of images"):
        SplitFile.read(tmp_path / name)


def test_images_that_cannot_be_read_need_no_row_where_they_are_left_out(photos, tmp_path):
    (photos / "red" / "broken.png").write_bytes(b"no image")
    listed = write(tmp_path / "list.csv", rows())
    with pytest.raises(DataError, match="1 images in the data are not in the list"):
        apply(find(photos), listed)
    data = apply(find(photos), listed, skip_bad_images=True)
    assert sum(map(len, data.splits.values())) == 24
    assert data.notes[-1] == "1 unreadable images are not in the list"


def test_groups_are_a_column_or_what_a_pattern_finds_in_the_path(photos, tmp_path):
    text = "\n".join(["image,plant", *(f"{name},p{number // 4}" for number, name in enumerate(NAMES))])
    listed = write(tmp_path / "list.csv", text)
    assert names(apply(find(photos), listed)) == names(find(photos))  # no column with splits
    by_column = group_names(find(photos), "plant", listed)
    assert by_column == {f"train/{name}": f"p{number // 4}" for number, name in enumerate(NAMES)}
    by_pattern = group_names(find(photos), r"^(\w+)/", None)
    assert by_pattern == {f"train/{name}": name.partition("/")[0] for name in NAMES}


def test_an_image_without_a_group_is_named_and_counted(photos, tmp_path):
    with pytest.raises(DataError) as error:
        group_names(find(photos), r"blue/(\d+)", None)
    assert error.value.problem == r"16 of 24 images do not match the pattern 'blue/(\\d+)'"
    assert "train/green/00.png" in error.value.found
    listed = write(tmp_path / "list.csv", "image,plant\nblue/00.png,\nblue/01.png,a\n")
    with pytest.raises(DataError) as error:
        group_names(find(photos), "plant", listed)
    assert error.value.problem == "23 of 24 images have an empty cell in the column 'plant'"
    for given in (None, listed):
        with pytest.raises(DataError) as error:
            group_names(find(photos), "patient", given)
        assert error.value.problem == "cannot group images by the column 'patient': it does not exist"
    assert error.value.expected == "a column such as plant"

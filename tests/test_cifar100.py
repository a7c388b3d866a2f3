"""The example that trains the bundled weights: which images each of its trainings sees."""

import io
import runpy
import tarfile
from pathlib import PurePath

import pytest

from tests.conftest import ROOT

CLASSES = {"fish": ("ray", "shark"), "trees": ("maple_tree", "oak_tree")}


@pytest.fixture(scope="module")
def arranged(tmp_path_factory):
    """Files of each tar file that `split.py` writes, as (folder, class, name of the image)."""
    place = tmp_path_factory.mktemp("cifar100")
    with tarfile.open(place / "train.tar", "w") as tar:
        for superclass, own in CLASSES.items():
            for name in (f"{superclass}/{fine}__{number:02}.jpg" for fine in own for number in range(20)):
                member = tarfile.TarInfo(f"train/{name}")
                member.size = len(name)
                tar.addfile(member, io.BytesIO(name.encode()))
    (place / "test.tar").write_bytes(b"test images")
    data = place / "data"
    runpy.run_path(str(ROOT / "examples/cifar100/split.py"))["main"](place, data)
    for folder in ("coarse", "all/coarse"):
        assert (data / folder / "test.tar").read_bytes() == b"test images"

    found = {}
    for file in data.rglob("*.tar"):
        if file.name != "test.tar":
            with tarfile.open(file) as tar:
                assert all(tar.extractfile(m).read().decode().endswith(PurePath(m.name).name) for m in tar)
                found[str(file.relative_to(data))] = [PurePath(name).parts for name in tar.getnames()]
    return found


def images(rows):
    return {name for _, _, name in rows}


@pytest.mark.parametrize(("kind", "labels"), [("fine", sum(CLASSES.values(), ())), ("coarse", tuple(CLASSES))])
def test_a_tenth_of_each_class_is_held_out_unless_all_is_learnt_from(arranged, kind, labels):
    train, val = arranged[f"{kind}/train.tar"], arranged[f"{kind}/val.tar"]
    everything = arranged[f"all/{kind}/train.tar"]
    assert (len(train), len(val), len(everything)) == (72, 8, 80)
    assert not images(train) & images(val)
    assert images(train) | images(val) == images(everything)
    assert sorted(name.partition("__")[0] for name in images(val)) == sorted(2 * sum(CLASSES.values(), ()))
    assert arranged[f"all/{kind}/val.tar"] == val
    for rows, folder in ((train, "train"), (val, "val"), (everything, "train")):
        assert {row[0] for row in rows} == {folder}
        assert {row[1] for row in rows} == set(labels)


def test_fine_classes_and_superclasses_hold_out_the_same_images(arranged):
    assert images(arranged["fine/val.tar"]) == images(arranged["coarse/val.tar"])

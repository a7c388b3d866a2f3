import hashlib
import io
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation

import mnv2zoo
from mnv2zoo import environment
from mnv2zoo.data import copies, decode
from mnv2zoo.data.copies import Copies, Smaller
from mnv2zoo.data.transforms import image_transform
from mnv2zoo.errors import DataError
from mnv2zoo.tasks.classify import Classify
from tests.photos import QUICK, encoded
from tests.training.runs import MODEL, equal, interrupted_after

PREPROCESSING = {
    "input_size": (3, 64, 64),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "crop_mode": "center",
}
SQUARE = Smaller(224, 224, 0.35, (3 / 4, 4 / 3), "bicubic")
SMALL = Smaller(32, 32, 0.35, (3 / 4, 4 / 3))


def large(width=1200, height=900, seed=0):
    """A picture with edges and gradients."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image, **options):
    return io.BytesIO(encoded(image, "JPEG", quality=92, **options))


def key_of(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("reader", "size", "factor"),
    [
        (SQUARE, (4000, 3000), np.sqrt(0.35 * 4000 * 3000 * 0.75) / 224),
        (SQUARE, (3000, 4000), np.sqrt(0.35 * 4000 * 3000 * 0.75) / 224),
        (SQUARE, (430, 320), 1),
        (SQUARE, (1010, 757), 1),  # it could be smaller by 1.995
        (SQUARE, (6000, 500), 500 / 224),  # the crop that is taken where none fits is as high as the image
        (Smaller(160, 320, 0.35, (3 / 2, 8 / 3)), (4000, 3000), np.sqrt(0.35 * 4000 * 3000 * 3 / 8) / 160),
    ],
)
def test_how_much_smaller_a_photo_may_be(reader, size, factor):
    assert reader.factor(*size) == pytest.approx(factor)


@pytest.mark.parametrize("size", [(4000, 3000), (3000, 4000), (6000, 500), (2400, 2400), (9000, 1000)])
@pytest.mark.parametrize(
    "reader", [SQUARE, Smaller(160, 320, 0.35, (3 / 2, 8 / 3)), Smaller(64, 64, 0.08, (0.75, 4 / 3))]
)
def test_no_crop_has_fewer_pixels_than_the_input(reader, size):
    image, _ = reader.read(jpeg(Image.new("RGB", size)), "photo")
    if image.size == size:
        pytest.skip("this photo stays as it is")
    for _ in range(2000):
        _, _, height, width = RandomResizedCropAndInterpolation.get_params(image, (reader.scale, 1), reader.ratio)
        assert height >= reader.height - 1  # timm rounds the sides of a crop
        assert width >= reader.width - 1


def test_a_photo_of_moderate_size_is_read_as_it_is():
    file = jpeg(large(900, 700))
    image, odd = SQUARE.read(file, "photo")
    assert image.tobytes() == decode.read(file).tobytes()
    assert odd == ()


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_large_photo_looks_the_same_at_a_smaller_size(form):
    file = io.BytesIO(encoded(large(2400, 1800), form))
    image, _ = SQUARE.read(file, "photo")
    factor = SQUARE.factor(2400, 1800)
    assert image.size == (np.ceil(2400 / factor), np.ceil(1800 / factor))
    assert image.info["full_size"] == (2400, 1800)
    expected = decode.read(file).resize(image.size, Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(image, np.int16) - np.asarray(expected)).max() <= 3


def test_a_rotated_photo_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by a quarter to the right
    image, odd = SQUARE.read(jpeg(large(2400, 1800), exif=exif), "photo")
    assert image.info["full_size"] == (1800, 2400)
    assert image.height > image.width
    assert odd == ("rotated",)


@pytest.fixture
def kept(tmp_path):
    """The copies in a folder, the key of a photo, and its copy."""
    file = jpeg(large())
    image, _ = SMALL.read(file, "photo")
    held, key = Copies.open(None, tmp_path, SMALL, 4), key_of(file.getvalue())
    held.keep(key, SMALL, image)
    return held, key, image


def test_a_copy_has_the_pixels_of_the_photo_that_was_read(kept):
    held, key, image = kept
    copy = held.load(key, SMALL)
    assert (copy.tobytes(), copy.size) == (image.tobytes(), image.size)
    assert copy.info["full_size"] == (1200, 900)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(400, 300), (300, 401), (131, 500)])
@pytest.mark.parametrize("input_size", [(3, 64, 64), (3, 48, 96)])
def test_a_fitted_copy_gives_the_tensor_that_the_photo_gives(crop_mode, size, input_size, tmp_path):
    config = {**PREPROCESSING, "crop_mode": crop_mode, "input_size": input_size}
    file, plain = jpeg(large(*size)), image_transform(config)
    transform = Classify().transforms(config)
    held, key = Copies.open(None, tmp_path, transform.reader, 1), key_of(file.getvalue())
    image, _ = transform.reader.read(file, "photo")
    held.keep(key, transform.reader, image)
    copy = held.load(key, transform.reader)
    assert copy.size == input_size[:0:-1]
    wanted = plain(decode.read(file))
    for found in (image, copy, decode.read(file)):
        assert torch.equal(transform(found, 1)[0], wanted)


def test_a_copy_that_was_fitted_otherwise_is_not_taken_for_the_photo(tmp_path):
    file = jpeg(large(400, 300))
    small, other = (Classify().transforms({**PREPROCESSING, "crop_pct": part}) for part in (0.5, 0.875))
    image, _ = small.reader.read(file, "photo")
    assert not torch.equal(small(image, 0)[0], other(image, 0)[0])
    assert torch.equal(other(image, 0)[0], image_transform(PREPROCESSING)(image))


def test_photos_of_less_than_four_times_the_input_are_not_copied(tmp_path):
    reader = Classify().transforms(PREPROCESSING).reader
    image, _ = reader.read(jpeg(large(127, 128)), "photo")
    assert image.size == (127, 128)


def test_a_copy_is_for_one_way_of_reading(kept):
    held, key, _ = kept
    assert held.load(key, Smaller(48, 48, 0.35, (3 / 4, 4 / 3))) is None


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-1], lambda c: c[:9], lambda c: c[:-1] + bytes([c[-1] ^ 1]), lambda c: b""]
)
def test_a_damaged_copy_is_not_used(kept, damage):
    held, key, _ = kept
    (file,) = held.folder.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert held.load(key, SMALL) is None


def test_a_photo_that_is_read_whole_has_no_copy(tmp_path):
    file = jpeg(large(60, 40))
    held = Copies.open(None, tmp_path, SMALL, 1)
    held.keep(key_of(file.getvalue()), SMALL, SMALL.read(file, "photo")[0])
    assert list(held.folder.iterdir()) == []


def test_only_so_many_photos_are_copied_as_there_is_room_for(tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "MOST_BYTES", 50 * SMALL.most_bytes)
    held = Copies.open(None, tmp_path, SMALL, 200)
    assert held.share == pytest.approx(0.25)
    image, _ = SMALL.read(jpeg(large()), "photo")
    for number in range(200):
        held.keep(key_of(bytes([number])), SMALL, image)
    assert 30 <= len(list(held.folder.iterdir())) <= 70


def test_the_copies_that_were_not_used_for_the_longest_time_make_room(kept):
    held, _, image = kept
    size = next(held.folder.iterdir()).stat().st_size
    for number in range(5):
        held.keep(key_of(bytes([number])), SMALL, image)
        os.utime(held._file(key_of(bytes([number])), SMALL), (number, number))
    assert held.load(key_of(bytes([1])), SMALL) is not None  # which is a use
    Copies(held.folder, 3 * size).close()
    assert [held.load(key_of(bytes([number])), SMALL) is not None for number in range(5)] == [0, 1, 0, 0, 1]


def test_copies_in_memory_go_with_the_run(tmp_path):
    held = Copies.open("ram", tmp_path, SMALL, 1)
    assert held.folder.parent == copies.SHARED_MEMORY
    held.close()
    assert not held.folder.exists()
    assert list(tmp_path.iterdir()) == []


def test_copies_of_a_killed_process_go_with_the_next_run(tmp_path):
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=subprocess.PIPE, text=True)
    left = copies.SHARED_MEMORY / f"mnv2zoo-{int(ended.stdout)}-killed"
    left.mkdir()
    (left / "copy").write_bytes(b"pixels")
    Copies.open("ram", tmp_path, SMALL, 1).close()
    assert not left.exists()


def test_a_system_without_a_folder_in_memory_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "SHARED_MEMORY", tmp_path / "none")
    with pytest.raises(DataError) as error:
        Copies.open("ram", tmp_path, SMALL, 1)
    assert error.value.where == "cache_images"


@pytest.fixture
def photos(tmp_path):
    for number in range(12):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        large(400, 300, number).save(folder / f"{number}.jpg")
    return tmp_path / "photos"


@pytest.mark.slow
def test_a_run_has_the_same_bits_whether_copies_are_kept_or_not(photos, tmp_path, monkeypatch):
    images = environment.home() / "images"
    before = set(images.iterdir()) if images.exists() else set()
    values = {**QUICK, "epochs": 2, "batch_size": 4}
    mnv2zoo.finetune(photos, MODEL, tmp_path / "off", cache_images="off", **values)
    assert (set(images.iterdir()) if images.exists() else set()) == before
    mnv2zoo.finetune(photos, MODEL, tmp_path / "ram", cache_images="ram", **{**values, "workers": 2})
    mnv2zoo.finetune(photos, MODEL, tmp_path / "disk", **values)
    assert equal(tmp_path / "off", tmp_path / "ram")
    assert equal(tmp_path / "off", tmp_path / "disk")
    made = [file.name for file in set(images.iterdir()) - before]
    assert (len(made), sum("fitted" in name for name in made)) == (14, 2)  # two of the photos are for validation

    with interrupted_after(monkeypatch, 1, 0):
        mnv2zoo.finetune(photos, MODEL, tmp_path / "stopped", cache_images="off", **values)
    mnv2zoo.finetune(photos, MODEL, tmp_path / "stopped", resume=True, cache_images="disk", **values)
    assert equal(tmp_path / "off", tmp_path / "stopped")


class Looking(Classify):
    """A classifier with its own transforms, which note the sizes of the images that training gives them."""

    def __init__(self):
        self.sizes = set()

    def transforms(self, preprocessing, recipe=None):
        transform = super().transforms(preprocessing, recipe)

        def noted(image, target):
            self.sizes.add(image.size)
            return transform(image, target)

        return transform if recipe is None else noted


class LookingAtSmaller(Looking):
    def transforms(self, preprocessing, recipe=None):
        noted = super().transforms(preprocessing, recipe)
        if recipe is not None:
            noted.reader = Classify().transforms(preprocessing, recipe).reader
        return noted


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "is_smaller"), [(Looking, False), (LookingAtSmaller, True)])
def test_a_task_with_its_own_transforms_gets_smaller_photos_only_if_it_says_so(
    photos, tmp_path, monkeypatch, kind, is_smaller
):
    monkeypatch.setenv("MNV2ZOO_HOME", str(tmp_path / "home"))
    task = kind()
    mnv2zoo.finetune(photos, MODEL, tmp_path / "run", task=task, **{**QUICK, "epochs": 1, "batch_size": 4})
    (size,) = task.sizes
    assert (size != (400, 300)) == is_smaller
    assert (tmp_path / "home/images").exists() == is_smaller


@pytest.mark.slow
def test_a_classifier_alone_reads_each_photo_once_and_copies_none(photos, tmp_path):
    images = environment.home() / "images"
    before = set(images.iterdir()) if images.exists() else set()
    mnv2zoo.finetune(photos, MODEL, tmp_path / "run", train="head", **QUICK)
    assert (set(images.iterdir()) if images.exists() else set()) == before

"""Every image is read once before a training begins."""

import numpy as np
import pytest
from PIL import Image

from mnv2zoo.data.checks import check
from mnv2zoo.data.datasets import find
from mnv2zoo.data.layout import Layout
from mnv2zoo.errors import DataError
from tests.photos import encoded, photo


def test_images_that_cannot_be_read_stop_a_training_before_it_begins(photos):
    (photos / "red" / "00.png").write_bytes(b"")
    (photos / "blue" / "01.png").write_bytes((photos / "blue" / "02.png").read_bytes()[:200])
    with pytest.raises(DataError) as caught:
        check(find(photos), skip_bad=False)
    assert "2 of 24 images" in str(caught.value)
    assert "train/red/00.png (an empty file)" in str(caught.value)
    assert "train/blue/01.png" in str(caught.value)

    done = []
    data = check(find(photos), skip_bad=True, advance=done.append)
    assert len(data.splits["train"]) == 22
    assert any(
        "2 images are skipped because they cannot be read" in note and "train/red/00.png" in note for note in data.notes
    )
    assert sum(done) == 24


def test_a_class_that_is_left_without_images_is_an_error(photos):
    for file in (photos / "red").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"(?s)'red' has no readable images.*none in red"):
        check(find(photos), skip_bad=True)


def test_odd_images_are_named_counted_and_used(photos):
    picture = photo("red", 1)
    exif = Image.Exif()
    exif[0x0112] = 6
    (photos / "red" / "a.jpg").write_bytes(encoded(picture, "JPEG", exif=exif))
    (photos / "red" / "b.jpg").write_bytes(encoded(picture.convert("CMYK"), "JPEG"))
    (photos / "red" / "c.gif").write_bytes(
        encoded(picture, "GIF", save_all=True, append_images=[photo("blue", 1), photo("green", 2)])
    )
    wide = Image.fromarray(np.full((36, 40), 30_000, np.uint16))
    (photos / "red" / "d.png").write_bytes(encoded(wide, "PNG"))
    data = check(find(photos), skip_bad=False)
    assert len(data.splits["train"]) == 28
    for kind, name in (("rotated", "a.jpg"), ("CMYK", "b.jpg"), ("animated", "c.gif"), ("16-bit", "d.png")):
        assert any(f"1 image is {kind}" in note and f"train/red/{name}" in note for note in data.notes), data.notes
    sizes = {s.name[-5:]: s.read().size for s in data.splits["train"]}
    assert sizes["a.jpg"] == (36, 40)


def test_an_image_with_other_channels_is_named_with_what_the_network_takes(tmp_path):
    for label, channels in (("ant", 5), ("bee", 4)):
        (tmp_path / label).mkdir()
        np.save(tmp_path / label / "0.npy", np.zeros((4, 6, channels), np.uint8))
    data = find(tmp_path, layout=Layout(in_chans=5))
    with pytest.raises(DataError) as error:
        check(data, skip_bad=False)
    expected = "train/bee/0.npy (4 channels in an array of shape (4, 6, 4), but the model takes 5 channels)"
    assert error.value.found == expected
    assert "--in-chans" in error.value.fix

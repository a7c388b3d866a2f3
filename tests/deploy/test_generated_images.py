"""The generated images are of the kinds that their names tell."""

import numpy as np
import pytest
from PIL import Image

from mnv2zoo.data import decode
from mnv2zoo.deploy import generated_images

MODES = {
    "rgb.jpg": "RGB",
    "rotated.jpg": "RGB",
    "cmyk.jpg": "CMYK",
    "gray.jpg": "L",
    "16-bit.png": "I;16",
    "float.tif": "F",
    "black-and-white.png": "1",
    "palette.png": "P",
    "palette-transparent.png": "P",
    "transparent.png": "RGBA",
    "gray-transparent.png": "LA",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return generated_images.write(tmp_path_factory.mktemp("images"), 32)


def test_there_is_one_file_of_each_kind_in_order(files):
    assert [file.name for file in files] == sorted([*MODES, "animated.gif"])
    assert len(files) == generated_images.COUNT


@pytest.mark.parametrize("name", MODES)
def test_a_file_has_the_mode_of_its_kind(files, name):
    with Image.open(files[0].with_name(name)) as image:
        assert (image.mode, image.size) == (MODES[name], (45, 36))


def test_the_odd_kinds_are_odd(files):
    folder = files[0].parent
    with Image.open(folder / "rotated.jpg") as image:
        assert image.getexif()[0x0112] == 6
    with Image.open(folder / "animated.gif") as image:
        assert image.n_frames == 2
    with Image.open(folder / "16-bit.png") as image:
        assert np.asarray(image).max() > 255
    with Image.open(folder / "transparent.png") as image:
        assert image.getchannel("A").getextrema()[0] == 0


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_networks_for_other_channels_get_arrays_and_pages(tmp_path, channels):
    files = generated_images.write(tmp_path, 32, channels)
    arrays = [file.name for file in files if file.suffix == ".npy"]
    assert arrays == ["16-bit.npy", "8-bit.npy", "float.npy"]
    assert len(files) == 3 + (generated_images.COUNT if channels == 1 else 1)
    read = {file.name: decode.read(file, channels=channels) for file in files}
    values = read["float.npy"].values
    assert values.shape == (36, 45, channels)
    assert len({values[..., channel].mean() for channel in range(channels)}) == channels
    for name in (*arrays, *([] if channels == 1 else ["pages.tif"])):
        np.testing.assert_allclose(read[name].values, values, atol=1 / 255)

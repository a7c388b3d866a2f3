import numpy as np
import pytest
from PIL import Image

from mnv2zoo import images
from mnv2zoo.errors import ImageReadError

RAMP = np.linspace(0, 255, 32 * 16).reshape(16, 32).astype(np.uint8)
PICTURE = Image.fromarray(np.stack([RAMP, RAMP.T.reshape(16, 32), 255 - RAMP], -1))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    undo = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}.get(orientation, [])
    stored = PICTURE
    for method in undo:
        stored = stored.transpose(Image.Transpose(method))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(images.read(tmp_path / "a.png")), np.asarray(PICTURE))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    file = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    PICTURE.convert(mode).save(file)
    found = np.asarray(images.read(file)).astype(int)
    expected = np.asarray(PICTURE.convert(mode).convert("RGB")).astype(int)
    assert np.abs(found - expected).max() <= 1


def test_transparent_pixels_are_white(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert np.asarray(images.read(tmp_path / "a.png")).min() == 255


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(images.read(tmp_path / "a.png"))[..., 0], RAMP)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert np.asarray(images.read(tmp_path / "a.gif"))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("content", [b"", b"no image at all", None], ids=["empty", "text", "cut"])
def test_what_is_no_image_is_named(tmp_path, content):
    file = tmp_path / "broken.jpg"
    if content is None:
        Image.effect_noise((256, 256), 50).save(file)
        content = file.read_bytes()[:2000]
    file.write_bytes(content)
    with pytest.raises(ImageReadError, match=r"broken\.jpg"):
        images.read(file)

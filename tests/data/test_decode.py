"""Reading images as RGB, whatever their format, mode and rotation; and finding them."""

import contextlib
import os
import struct
import threading
import time
import zlib
from io import BytesIO

import numpy as np
import PIL
import pytest
from PIL import Image

from mnv2zoo.data import decode
from mnv2zoo.errors import ImageReadError

pytestmark = pytest.mark.filterwarnings("ignore:::PIL")  # about files that are broken on purpose
RAMP = np.linspace(0, 255, 32 * 16).reshape(16, 32).astype(np.uint8)
PICTURE = Image.fromarray(np.stack([RAMP, RAMP.T.reshape(16, 32), 255 - RAMP], -1))
TURNED_BY = {  # what a camera does to the upright image, by the EXIF orientation that it then writes
    1: [],
    2: [Image.Transpose.FLIP_LEFT_RIGHT],
    3: [Image.Transpose.ROTATE_180],
    4: [Image.Transpose.FLIP_TOP_BOTTOM],
    5: [Image.Transpose.TRANSPOSE],
    6: [Image.Transpose.ROTATE_90],
    7: [Image.Transpose.TRANSVERSE],
    8: [Image.Transpose.ROTATE_270],
}


def pixels(path):
    image = decode.read(path)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_gives_the_upright_image(tmp_path, orientation, ending):
    stored = PICTURE
    for turn in TURNED_BY[orientation]:
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"a.{ending}", exif=exif, lossless=True)
    assert np.array_equal(pixels(tmp_path / f"a.{ending}"), np.asarray(PICTURE))


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        *(("RGB", "bmp"), ("RGB", "ppm"), ("RGBA", "png"), ("L", "png"), ("L", "pgm"), ("LA", "png"), ("1", "png")),
        *(("P", "png"), ("P", "gif"), ("CMYK", "tif"), ("YCbCr", "tif")),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, ending):
    if mode == "YCbCr" and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("older Pillow does not read what it writes as a YCbCr TIFF")
    picture = PICTURE.convert(mode)
    picture.save(tmp_path / f"a.{ending}")
    expected = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(pixels(tmp_path / f"a.{ending}") - expected).max() <= 1


def test_a_cmyk_jpeg_keeps_its_colours(tmp_path):
    Image.new("RGB", (16, 16), (250, 30, 20)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(pixels(tmp_path / "a.jpg") - [250, 30, 20]).max() < 12


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path, mode):
    picture = Image.new("RGBA", (8, 8), (200, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 8, 4))
    picture = picture.quantize(4) if mode == "P" else picture.convert(mode)
    picture.save(tmp_path / "a.png")
    found = pixels(tmp_path / "a.png")
    assert (found[:4] == 255).all()
    assert (found[4:, :, 1] < 100).all()


def test_what_is_half_transparent_is_mixed_with_white(tmp_path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 128)).save(tmp_path / "a.png")
    assert np.abs(pixels(tmp_path / "a.png") - 127).max() <= 1


def test_a_transparent_colour_without_an_alpha_channel_is_white_too(tmp_path):
    Image.new("L", (4, 4), 7).save(tmp_path / "a.png", transparency=7)
    assert (pixels(tmp_path / "a.png") == 255).all()


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits_are_scaled_to_8(tmp_path, ending):
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / f"a.{ending}")
    assert np.array_equal(pixels(tmp_path / f"a.{ending}")[..., 0], RAMP)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 32768, 65535]], np.int32), [0, 128, 255]),
        (np.array([[-100, 0, 100]], np.int32), [0, 128, 255]),
        (np.array([[0, 500_000, 1_000_000]], np.int32), [0, 128, 255]),
        (np.array([[0, 0.25, 1]], np.float32), [0, 64, 255]),
        (np.array([[0, 50, 200]], np.float32), [0, 64, 255]),
        (np.array([[7, 7, 7]], np.float32), [0, 0, 0]),
    ],
)
def test_other_ranges_are_stretched_only_where_they_exceed_the_usual_one(tmp_path, values, expected):
    Image.fromarray(values).save(tmp_path / "a.tif")
    assert pixels(tmp_path / "a.tif")[0, :, 0].tolist() == expected


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tif"])
def test_an_animation_gives_its_first_frame(tmp_path, ending):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
    assert np.abs(pixels(tmp_path / f"a.{ending}")[0, 0] - [255, 0, 0]).max() < 8


def test_broken_exif_is_no_reason_to_refuse_a_sound_image(tmp_path):
    PICTURE.save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\xff\xff\xff\xff\0\0")
    assert decode.read(tmp_path / "a.jpg").size == PICTURE.size


def bomb():
    """A PNG of a few bytes that says it has 50000 x 50000 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def cut_jpeg(tmp_path):
    Image.effect_noise((256, 256), 50).save(tmp_path / "whole.jpg")
    return (tmp_path / "whole.jpg").read_bytes()[:4000]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda _: b"", "an empty file"),
        (lambda _: b"a note, not an image", "an unknown image format"),
        (lambda _: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "an unknown image format"),  # EPS
        (cut_jpeg, "truncated"),
        (lambda _: bomb(), "decompression bomb"),
    ],
)
def test_what_is_no_sound_image_is_reported_by_name_and_reason(tmp_path, content, reason):
    file = tmp_path / "photo.jpg"
    file.write_bytes(content(tmp_path))
    with pytest.raises(ImageReadError, match=reason) as caught:
        decode.read(file)
    assert str(caught.value).count("photo.jpg") == 1


def test_what_is_no_file_is_reported(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to("nowhere.jpg")
    reasons = {"": "a folder", "absent.jpg": "no such file", "pipe.jpg": "a special file", "link.jpg": "no such file"}
    for name, reason in reasons.items():
        with pytest.raises(ImageReadError, match=reason):
            decode.read(tmp_path / name)


def test_a_thin_line_is_refused_before_it_is_resized_to_gigabytes(tmp_path):
    Image.new("L", (1, 60_000)).save(tmp_path / "a.png")
    with pytest.raises(ImageReadError, match="1 x 60000 pixels"):
        decode.read(tmp_path / "a.png")


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_file_gives_an_image_or_this_error_and_no_other(tmp_path, seed):
    random = np.random.default_rng(seed)
    for ending in ("jpg", "png", "gif", "tif", "webp", "bmp", "ppm", "jp2"):
        file = tmp_path / f"a.{ending}"
        PICTURE.save(file)
        data = bytearray(file.read_bytes())
        for position in random.integers(0, len(data), 8):
            data[position] = random.integers(256)
        file.write_bytes(data)
        with contextlib.suppress(ImageReadError):
            assert decode.read(file).mode == "RGB"


def test_images_are_read_in_order_and_only_so_far_ahead(tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(12)]
    for number, file in enumerate(files):
        PICTURE.resize((number + 1, 1)).save(file)
    files[3].write_bytes(b"no image")
    started = []

    def width(image):
        started.append(threading.current_thread())
        return image.width

    read = decode.read_all(files, width, ahead=4)
    assert next(read) == (files[0], 1)
    time.sleep(0.1)
    assert len(started) <= 4
    results = [result for _, result in read]
    assert isinstance(results.pop(2), ImageReadError)
    assert results == [2, 3, 5, 6, 7, 8, 9, 10, 11, 12]
    assert threading.main_thread() not in started


STACK = np.random.default_rng(0).integers(0, 65536, (20, 30, 5)).astype(np.uint16)


def saved_pages(file, layers):
    first, *others = (Image.fromarray(layer) for layer in layers)
    first.save(file, save_all=True, append_images=others)


def test_channels_come_from_arrays_and_pages(tmp_path):
    np.save(tmp_path / "stack.npy", STACK)
    saved_pages(tmp_path / "16-bit.tif", np.moveaxis(STACK, 2, 0))
    for name in ("stack.npy", "16-bit.tif"):
        found = decode.read(tmp_path / name, channels=5)
        assert np.array_equal(found.values, (STACK / 65535).astype(np.float32)), name
        assert np.array_equal(decode.read(BytesIO((tmp_path / name).read_bytes()), channels=5).values, found.values)
    saved_pages(tmp_path / "8-bit.tif", (STACK // 256).astype(np.uint8).transpose(2, 0, 1))
    expected = ((STACK // 256) / 255).astype(np.float32)
    assert np.array_equal(decode.read(tmp_path / "8-bit.tif", channels=5).values, expected)


@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_a_tiff_with_channels_that_pillow_does_not_know_is_read(tmp_path, planes):
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
    values = STACK if planes == "contig" else np.moveaxis(STACK, 2, 0)
    tifffile.imwrite(tmp_path / "five.tif", values, photometric="minisblack", planarconfig=planes)
    found = decode.read(tmp_path / "five.tif", channels=5)
    assert np.array_equal(found.values, (STACK / 65535).astype(np.float32))
    # Pillow would give 8 of the 16 bits.
    tifffile.imwrite(tmp_path / "rgba.tif", STACK[..., :4], photometric="rgb", planarconfig="contig")
    found = decode.read(BytesIO((tmp_path / "rgba.tif").read_bytes()), channels=4)
    assert np.array_equal(found.values, (STACK[..., :4] / 65535).astype(np.float32))


def test_the_channels_of_an_rgba_image_stay_apart(tmp_path):
    Image.new("RGBA", (3, 2), (255, 51, 0, 102)).save(tmp_path / "image.png")
    found = decode.read(tmp_path / "image.png", channels=4).values
    np.testing.assert_allclose(found, np.broadcast_to([1, 0.2, 0, 0.4], (2, 3, 4)))


@pytest.mark.parametrize(
    ("save", "channels", "found"),
    [
        (lambda file: np.save(file.open("wb"), STACK), 4, "5 channels in an array of shape (20, 30, 5)"),
        (lambda file: Image.new("RGB", (4, 4)).save(file, "PNG"), 4, "3 channels of mode RGB"),
        (lambda file: np.save(file.open("wb"), STACK), 1, "5 channels in an array of shape (20, 30, 5)"),
    ],
)
def test_another_number_of_channels_names_file_and_fix(tmp_path, save, channels, found):
    file = tmp_path / "image"
    save(file)
    with pytest.raises(ImageReadError) as error:
        decode.read(file, channels=channels)
    assert error.value.expected == ("1 channel" if channels == 1 else f"{channels} channels")
    assert (error.value.found, error.value.where) == (found, file)
    assert "--in-chans" in error.value.fix


@pytest.mark.parametrize("content", [b"\x93NUMPY", b"\x93NUMPY garbage", b"II*\0garbage", b"II*\0", b""], ids=repr)
def test_broken_arrays_and_tiffs_are_told(tmp_path, content):
    (tmp_path / "broken").write_bytes(content)
    with pytest.raises(ImageReadError):
        decode.read(tmp_path / "broken", channels=5)


def test_an_array_of_objects_is_not_unpickled(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(ImageReadError) as error:
        decode.read(tmp_path / "objects.npy", channels=5)
    assert "allow_pickle" in error.value.found


def test_an_array_that_claims_more_than_the_file_holds_is_told(tmp_path):
    np.save(tmp_path / "array.npy", np.zeros((4, 4, 5), np.uint8))
    content = (tmp_path / "array.npy").read_bytes().replace(b"(4, 4, 5)", b"(99999, 99999, 5)", 1)
    (tmp_path / "array.npy").write_bytes(content.replace(b" " * 12, b" " * 4, 1))  # the header keeps its length
    for source in (tmp_path / "array.npy", BytesIO((tmp_path / "array.npy").read_bytes())):
        with pytest.raises(ImageReadError):
            decode.read(source, channels=5)


def test_a_huge_tiff_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
    tifffile.imwrite(tmp_path / "five.tif", STACK, photometric="minisblack", planarconfig="contig")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 299)  # 30 x 20 is more than twice that
    with pytest.raises(ImageReadError) as error:
        decode.read(tmp_path / "five.tif", channels=5)
    assert "30 x 20 pixels" in error.value.found
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    assert decode.read(tmp_path / "five.tif", channels=5).size == (30, 20)
    with pytest.raises(ImageReadError) as error:
        decode.read(tmp_path / "five.tif", channels=4)
    assert error.value.found == "5 channels in a TIFF of shape (20, 30, 5)"

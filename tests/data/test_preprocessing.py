"""The fast preprocessing agrees with timm's, and knows what it cannot do."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform

from mnv2zoo.data import decode, preprocessing
from mnv2zoo.data.pixels import Bands
from mnv2zoo.data.preprocessing import Exact, Fast, Whole
from tests.conftest import SAMPLES, needs_samples

CFG = {
    "input_size": (3, 32, 32),
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.5, 1.0),
}


@pytest.mark.parametrize(
    ("values", "channels", "expected"),
    [
        ((0.1, 0.2, 0.3), 3, (0.1, 0.2, 0.3)),
        ((0.1, 0.2, 0.6), 1, (0.3,)),
        ((0.1, 0.2, 0.3), 4, (0.1, 0.2, 0.3, 0.1)),
        ((0.5,), 2, (0.5, 0.5)),
    ],
)
def test_statistics_follow_the_stem_to_other_channels(values, channels, expected):
    assert preprocessing.per_channel(values, channels) == pytest.approx(expected)


def test_a_cfg_becomes_the_fast_preprocessing():
    assert preprocessing.from_cfg(CFG) == Fast((3, 32, 32), 0.875, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.5, 1.0))


@pytest.mark.parametrize(
    "change",
    [
        {"input_size": (9, 32, 32)},
        {"interpolation": "random"},
        {"crop_pct": 1.5},
        {"mean": None},
        {"test_input_size": (3, 64, 64)},
    ],
    ids=str,
)
def test_only_timm_knows_how_to_prepare_other_images(change):
    assert preprocessing.from_cfg({**CFG, **change}) is None


def test_fast_and_exact_prepare_nearly_the_same_images():
    smooth = np.linspace(0, 255, 60 * 80).reshape(60, 80)
    image = Image.fromarray(np.stack([smooth, smooth.T.reshape(60, 80), 255 - smooth], -1).astype(np.uint8))
    fast, exact = preprocessing.from_cfg(CFG), Exact(create_transform(**CFG))
    device = torch.device("cpu")
    ours, theirs = (how.batch([how.prepare(image)], device) for how in (fast, exact))
    assert ours.shape == theirs.shape == (1, 3, 32, 32)
    assert (ours - theirs).abs().mean() < 0.02  # a level of 8 bits is 1 / 255 / 0.25


def test_a_white_image_is_normalized_by_mean_and_std():
    fast = preprocessing.from_cfg(CFG)
    (image,) = fast.array([fast.prepare(Image.new("RGB", (50, 40), "white"))])
    np.testing.assert_allclose(image[:, 0, 0], [2, 1, 0.5])


@pytest.mark.parametrize(
    "changed",
    [{"crop_pct": 1.2}, {"test_crop_pct": 1.0}],
    ids=str,
)
def test_what_only_timm_knows_is_left_to_timm(changed):
    cfg = {"input_size": (3, 32, 32), "crop_pct": 0.875, "interpolation": "bicubic", "mean": [0.5] * 3, "std": [1] * 3}
    assert preprocessing.from_cfg(cfg) == preprocessing.Fast((3, 32, 32), 0.875, "bicubic", (0.5,) * 3, (1,) * 3)
    assert preprocessing.from_cfg(cfg | changed) is None


@needs_samples
@pytest.mark.parametrize("side", [64, 224])
def test_fast_preprocessing_is_nearly_timms(side):
    cfg = {"input_size": (3, side, side), "crop_pct": 0.875, "interpolation": "bicubic"}
    normal = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    fast = preprocessing.from_cfg(cfg | normal)
    timms = timm.data.create_transform(**cfg, **normal)
    for file in sorted(SAMPLES.iterdir())[:8]:
        photo, whole = decode.read(file, at_least=fast.at_least), decode.read(file)
        halved = min(whole.size) >= 2 * fast.at_least
        assert (photo.size == whole.size) != halved
        found = fast.batch([fast.prepare(photo)], torch.device("cpu"))[0]
        levels = (found - timms(whole)).abs() * torch.tensor(normal["std"]).view(3, 1, 1) * 255
        assert levels.mean() < (5 if halved else 0.5)


@pytest.mark.parametrize("size", [(40, 32), (32, 41), (333, 500), (37, 36)])
def test_flat_colours_are_prepared_as_timm_does(size):
    cfg = {"input_size": (3, 32, 32), "crop_pct": 0.875, "interpolation": "bilinear"}
    normal = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    photo = Image.new("RGB", size, (10, 100, 250))
    fast = preprocessing.from_cfg(cfg | normal)
    found = fast.batch([fast.prepare(photo)], torch.device("cpu"))[0]
    assert torch.equal(found, timm.data.create_transform(**cfg, **normal)(photo))


def test_the_whole_image_is_squashed_and_normalized():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8))
    how = Whole(30, 40, (0.5, 0.4, 0.3), (0.2, 0.25, 0.5))
    prepared = how.prepare(image)
    assert (prepared.input_size, prepared.full_size) == ((40, 30), (80, 48))
    (found,) = how.batch([prepared], torch.device("cpu"))
    expected = np.asarray(image.resize((40, 30), Image.Resampling.BILINEAR)).transpose(2, 0, 1) / 255
    expected = (expected - np.reshape(how.mean, (3, 1, 1))) / np.reshape(how.std, (3, 1, 1))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "expected"), [((640, 480), (400, 300)), ((480, 640), (300, 400)), ((1000, 100), (500, 50))]
)
def test_the_ratio_of_the_sides_is_kept(size, expected):
    how = Whole(300, 500, (0, 0, 0), (1, 1, 1), keep_ratio=True)
    assert how.size_of(*size) == expected
    (found,) = how.batch([how.prepare(Image.new("RGB", size))], torch.device("cpu"))
    assert found.shape == (3, *expected[::-1])


def test_the_full_size_of_a_large_rotated_photo_is_kept(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (1600, 1200)).save(tmp_path / "photo.jpg", exif=exif)
    how = Whole(60, 60, (0, 0, 0), (1, 1, 1))
    image = decode.read(tmp_path / "photo.jpg", at_least=how.at_least)
    assert image.size == (300, 400)  # decoded at a quarter
    assert how.prepare(image).full_size == (1200, 1600)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(40, 32), (32, 41), (333, 500), (90, 20)])
def test_flat_colors_are_fitted_as_timm_does(mode, channels, size):
    cfg = {**CFG, "input_size": (3, 32, 48), "crop_mode": mode, "crop_pct": 0.9}
    photo = Image.new("RGB", size, (200, 200, 200))
    fast = preprocessing.from_cfg({**cfg, "input_size": (channels, 32, 48), "std": (0.5,) * 3})
    found = fast.batch([fast.prepare(photo)], torch.device("cpu"))[0]
    assert torch.equal(found, create_transform(**{**cfg, "std": (0.5,) * 3})(photo)[:channels])


@pytest.mark.parametrize("mode", ["squash", "border"])
def test_fast_and_exact_fit_nearly_alike(mode):
    cfg = {**CFG, "input_size": (3, 30, 52), "crop_mode": mode, "crop_pct": 1.0}
    smooth = np.linspace(0, 255, 60 * 80).reshape(60, 80)
    image = Image.fromarray(np.stack([smooth, smooth.T.reshape(60, 80), 255 - smooth], -1).astype(np.uint8))
    fast, exact = preprocessing.from_cfg(cfg), Exact(create_transform(**cfg))
    ours, theirs = (how.batch([how.prepare(image)], torch.device("cpu")) for how in (fast, exact))
    assert torch.equal(ours, theirs)  # nothing is cut off, so the same pixels are resized


def test_a_letterboxed_jpeg_that_is_decoded_small_keeps_its_place(tmp_path):
    Image.new("RGB", (1601, 401), "white").save(tmp_path / "photo.jpg")
    fast = preprocessing.from_cfg({**CFG, "input_size": (3, 20, 33), "crop_mode": "border", "crop_pct": 1.0})
    small, whole = (decode.read(tmp_path / "photo.jpg", at_least=pixels) for pixels in (fast.at_least, None))
    assert small.size[0] < whole.size[0]
    assert fast.prepare(small) == fast.prepare(whole)


def test_arrays_and_photos_share_a_batch():
    fast = preprocessing.from_cfg({**CFG, "input_size": (1, 32, 32), "mean": (0.5,), "std": (0.25,)})
    white = Image.new("RGB", (50, 40), "white"), Bands.of(np.full((40, 50), 65535, np.uint16), 1)
    found = fast.batch([fast.prepare(image) for image in white], torch.device("cpu"))
    assert torch.equal(found, torch.full((2, 1, 32, 32), 2.0))


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("channels", [1, 3])
def test_exact_arrays_are_timms_bit_for_bit(mode, channels, tmp_path):
    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(0, 256, (40, 30, 3), np.uint8))
    small.resize((900, 1200), Image.Resampling.BICUBIC).save(tmp_path / "large.jpg", quality=90)
    mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
    how = Fast((channels, 32, 32), 0.875, "bicubic", mean, std, mode, exact=True)
    assert how.at_least is None
    data = {"crop_pct": 0.875, "interpolation": "bicubic", "mean": mean, "std": std, "crop_mode": mode}
    theirs = create_transform((channels, 32, 32), **data)
    photo = decode.read(tmp_path / "large.jpg", at_least=how.at_least)
    wanted = theirs(photo.convert("L") if channels == 1 else photo).numpy()
    assert (how.array([how.prepare(photo)])[0] == wanted).all()
    quick = Fast((channels, 32, 32), 0.875, "bicubic", mean, std, mode)
    reduced = decode.read(tmp_path / "large.jpg", at_least=quick.at_least)
    assert (quick.array([quick.prepare(reduced)])[0] != wanted).any()  # so the comparison can tell

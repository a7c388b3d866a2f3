"""Whole folders: memory, engines, and the preprocessing that is known before the network is."""

import os
from pathlib import Path

import pytest

import mnv2zoo
from mnv2zoo.errors import DeployError, DeviceError
from mnv2zoo.models import pretrained
from mnv2zoo.models.names import describe
from tests.conftest import save_photos

BUNDLED = "mnv2zoo_100_c20"  # weights that come with the package


@pytest.fixture
def photos(tmp_path):
    return save_photos(tmp_path / "photos", 7)


def resident():
    """Megabytes of memory that this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tiny, tmp_path):
    folder = save_photos(tmp_path / "photos", 10, links=600)
    count, early = 0, 0.0
    for count, _ in enumerate(mnv2zoo.predict(folder, tiny, output=tmp_path / "rows.csv"), 1):
        if count == 2000:
            early = resident()
    assert count == 6000
    # What is waiting is bounded; 4000 images' pixels alone would be 12 MB.
    assert resident() - early < 8


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_engines_agree(tiny, photos, engine):
    pytest.importorskip(engine)
    wanted = list(mnv2zoo.predict(photos, tiny))
    found = list(mnv2zoo.predict(photos, tiny, engine=engine))
    assert [row["image"] for row in found] == [row["image"] for row in wanted]
    for row, other in zip(found, wanted, strict=True):
        assert [p["score"] for p in row["predictions"]] == pytest.approx(
            [p["score"] for p in other["predictions"]], abs=1e-4
        )


def test_what_the_engine_does_not_know_is_one_error(tiny, photos):
    with pytest.raises(DeployError, match="torch knows no int8"):
        list(mnv2zoo.predict(photos, tiny, precision="int8", calibration=photos))
    with pytest.raises(DeployError, match="torch knows no fp16"):
        list(mnv2zoo.predict(photos, tiny, precision="fp16"))


def test_an_engine_on_a_device_that_is_not_there_is_an_error(tiny, photos):
    with pytest.raises(DeviceError) as error:
        list(mnv2zoo.predict(photos, tiny, engine="torch", device="cuda:99"))
    assert error.value.problem == "Cannot use the device 'cuda:99'"


def test_the_preprocessing_is_known_before_the_network_is(tiny):
    for name in (tiny, f"local-dir:{tiny}", BUNDLED, "mnv2zoo_100_c20.cifar100_coarse"):
        found = describe(name).preprocessing
        assert found is not None
        assert found == pretrained.load(name, "cpu").fast

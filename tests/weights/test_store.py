"""Where bytes come from, and what is made of bad ones."""

import hashlib
import os
import threading
import warnings

import pytest

from mnv2zoo import weights
from mnv2zoo.errors import WeightsError
from mnv2zoo.weights import index, store, trust
from tests.conftest import as_bytes, random_state_dict, raw_entry

NAME = "mnv2zoo_035.test"


@pytest.fixture(scope="module")
def data():
    return as_bytes(random_state_dict("mnv2zoo_035"))


@pytest.fixture
def pinned(hub, overlay, data):
    commit = hub.add("zoo/w", "model.safetensors", data)
    sha256 = hashlib.sha256(data).hexdigest()
    overlay({NAME: raw_entry(repo_id="zoo/w", revision=commit, sha256=sha256, size=len(data))})
    return hub


@pytest.fixture
def unpinned(hub, overlay, data):
    hub.add("zoo/w", "model.safetensors", data)
    overlay({NAME: raw_entry(repo_id="zoo/w")})
    return hub


def test_a_second_load_asks_the_hub_nothing(pinned):
    weights.load(NAME)
    pinned.clear()
    weights.load(NAME)
    assert pinned.requests == []


@pytest.mark.parametrize("place", ["zoo/w/model.safetensors", "{sha256}.safetensors"])
def test_the_mirror_comes_first_and_its_bad_files_are_kept(pinned, data, tmp_path, monkeypatch, place):
    path = tmp_path / "mirror" / place.format(sha256=hashlib.sha256(data).hexdigest())
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    monkeypatch.setenv("MNV2ZOO_WEIGHTS_DIR", str(tmp_path / "mirror"))
    assert weights.fetch(NAME) == path
    assert pinned.requests == []
    path.write_bytes(data[:-1] + b"\0\0")
    with pytest.raises(weights.IntegrityError, match=str(path)):
        weights.load(NAME)
    assert path.exists()


@pytest.mark.parametrize("bad", ["byte", "short", "long", "empty", "fifo", "directory", "dangling"])
def test_a_bad_copy_in_the_cache_never_loads(pinned, data, bad):
    path = weights.fetch(NAME)
    if bad in ("byte", "short", "long", "empty"):
        path.write_bytes({"byte": data[:-1] + b"\1", "short": data[:-1], "long": data + b"\0", "empty": b""}[bad])
    else:
        path.unlink()
        if bad == "fifo":
            os.mkfifo(path)
        elif bad == "directory":
            path.mkdir()
        else:
            path.symlink_to("nowhere")
    assert set(weights.load(NAME)) == set(random_state_dict("mnv2zoo_035"))
    assert path.read_bytes() == data


def test_a_folder_with_content_in_the_place_of_a_copy_is_left_alone(pinned):
    path = weights.fetch(NAME)
    path.unlink()
    path.mkdir()
    (path / "notes.txt").touch()
    with pytest.raises(weights.IntegrityError, match=str(path)):
        weights.load(NAME)
    assert (path / "notes.txt").exists()


def test_a_hub_that_never_ends_its_answer_is_left_in_time(pinned, monkeypatch):
    monkeypatch.setenv("MNV2ZOO_DOWNLOAD_TIMEOUT", "3")
    pinned.fail(status=429, retry_after=3600)
    with pytest.raises(weights.WeightsUnavailableError, match="MNV2ZOO_DOWNLOAD_TIMEOUT"):
        weights.load(NAME)
    pinned.heal()
    weights.load(NAME)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "soon"])
def test_a_timeout_that_is_no_number_of_seconds_is_refused(pinned, monkeypatch, value):
    monkeypatch.setenv("MNV2ZOO_DOWNLOAD_TIMEOUT", value)
    with pytest.raises(weights.WeightsUnavailableError, match="MNV2ZOO_DOWNLOAD_TIMEOUT"):
        weights.load(NAME)


def test_a_bad_copy_and_no_hub_is_an_integrity_error(pinned, data):
    path = weights.fetch(NAME)
    path.write_bytes(data[:-1] + b"\1")
    pinned.fail(status=503)
    with pytest.raises(weights.IntegrityError, match="sha256"):
        weights.load(NAME)


def test_the_first_use_is_recorded_and_holds(unpinned, data):
    with pytest.warns(UserWarning, match=hashlib.sha256(data).hexdigest()):
        weights.load(NAME)
    record = trust.records()[index.entry(NAME).location]
    assert (record.sha256, record.size) == (hashlib.sha256(data).hexdigest(), len(data))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        path = weights.fetch(NAME)
    path.write_bytes(data[:-1] + b"\1")
    unpinned.fail(wrong_bytes=data[:-1] + b"\1", match="model.safetensors")
    with pytest.raises(weights.IntegrityError):
        weights.load(NAME)
    assert trust.forget(index.entry(NAME).location)
    assert not trust.forget(index.entry(NAME).location)


def test_only_pinned_weights_where_that_is_asked_for(unpinned, monkeypatch):
    monkeypatch.setenv("MNV2ZOO_REQUIRE_PINNED", "1")
    with pytest.raises(weights.UnpinnedWeightsError, match="weights pin"):
        weights.load(NAME)
    assert unpinned.requests == []


def test_a_mirror_without_a_hub_is_trusted_on_first_use_and_says_so(unpinned, data, tmp_path, monkeypatch):
    path = tmp_path / "mirror/zoo/w/model.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    monkeypatch.setenv("MNV2ZOO_WEIGHTS_DIR", str(tmp_path / "mirror"))
    unpinned.fail(status=503)
    with pytest.warns(UserWarning, match="mirror"):
        weights.load(NAME)
    path.write_bytes(data[:-1] + b"\1")
    with pytest.raises(weights.IntegrityError):
        weights.load(NAME)


def test_a_damaged_record_is_an_error_and_kept(unpinned):
    trust.path().parent.mkdir(parents=True)
    trust.path().write_text("{")
    with pytest.raises(WeightsError, match=r"first_use\.json"):
        weights.load(NAME)
    assert trust.path().read_text() == "{"


def test_many_records_at_once_are_all_kept(hub):
    def remember(number):
        trust.remember(f"zoo/{number}", trust.Record(None, f"{number:064x}", 1))

    threads = [threading.Thread(target=remember, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trust.records()) == 16
    assert [path.name for path in trust.path().parent.iterdir() if "lock" not in path.name] == [trust.path().name]


def test_bundled_weights_lie_beside_their_index(overlay, hub, data, tmp_path):
    (tmp_path / "own.safetensors").write_bytes(data)
    fields = {
        "repo_id": None,
        "filename": None,
        "bundled": "own.safetensors",
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    overlay({NAME: raw_entry(**fields)})
    assert weights.fetch(NAME) == tmp_path / "own.safetensors"
    assert hub.requests == []
    (tmp_path / "own.safetensors").write_bytes(data[:-1] + b"\1")
    with pytest.raises(weights.IntegrityError):
        weights.load(NAME)


def test_a_pin_is_what_the_hub_has(unpinned, data):
    pinned = store.pin(index.entry(NAME))
    assert (pinned.sha256, pinned.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert len(pinned.revision) == 40

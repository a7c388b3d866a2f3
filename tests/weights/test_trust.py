"""The first use of weights is recorded, and every later one must match."""

import hashlib
import threading
import time
import warnings

import pytest
import safetensors.torch
import timm
import torch
from filelock import FileLock

from mnv2zoo import weights
from mnv2zoo.errors import WeightsError
from mnv2zoo.weights import index, store, trust
from tests.conftest import as_bytes, random_state_dict, raw_entry
from tests.weights.conftest import NAME


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


@pytest.mark.slow
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


COPY = "hf-hub:someone/copy"


@pytest.fixture(scope="module")
def other():
    return as_bytes(random_state_dict("mnv2zoo_035", seed=1))


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def copy(pinned, data):
    """The same Hub with a copy of these weights in a repository that no index lists."""
    config = b'{"architecture": "mnv2zoo_035", "num_classes": 1000, "pretrained_cfg": {}}'
    pinned.add("someone/copy", "config.json", config, lfs=False)
    pinned.commit_of_copy = pinned.add("someone/copy", "model.safetensors", data)
    return pinned


def load_copy(name=COPY):
    return store.verified(store.HubFile.of_hub_id(name.removeprefix("hf-hub:")))


def test_a_first_use_is_recorded_even_where_its_bytes_equal_pinned_ones(copy, data):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # nobody needs to be warned of bytes that an index knows
        assert load_copy().data == data
    record = trust.records()["someone/copy@main/model.safetensors"]
    assert record == trust.Record(copy.commit_of_copy, sha256(data), len(data))


def test_a_repository_that_changes_after_a_first_use_with_pinned_bytes_is_refused(copy, other, monkeypatch, tmp_path):
    load_copy()
    copy.add("someone/copy", "model.safetensors", other, revision=copy.commit_of_copy)  # history rewritten
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "another cache"))
    with pytest.raises(weights.IntegrityError):
        load_copy()


def test_a_branch_that_moves_after_a_first_use_with_pinned_bytes_still_gives_those(
    copy, data, other, monkeypatch, tmp_path
):
    load_copy()
    copy.add("someone/copy", "model.safetensors", other)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "another cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert load_copy().data == data
        model = timm.create_model("mnv2zoo_035", pretrained=True, pretrained_cfg_overlay={"hf_hub_id": "someone/copy"})
    assert torch.equal(model.conv_stem.weight, safetensors.torch.load(data)["conv_stem.weight"])


def test_only_pinned_weights_means_that_a_change_is_refused_too(copy, data, other, monkeypatch, tmp_path):
    monkeypatch.setenv("MNV2ZOO_REQUIRE_PINNED", "1")
    assert load_copy().data == data
    assert "someone/copy@main/model.safetensors" in trust.records()
    copy.add("someone/copy", "model.safetensors", other)
    assert load_copy().data == data
    trust.forget("someone/copy@main/model.safetensors")
    with pytest.raises(weights.UnpinnedWeightsError):
        load_copy()
    assert trust.records() == {}


def test_each_revision_of_a_repository_has_a_first_use_of_its_own(copy, data, other):
    load_copy()
    commit = copy.add("someone/copy", "model.safetensors", other)
    with pytest.warns(UserWarning, match=sha256(other)):
        assert load_copy(f"{COPY}@{commit}").data == other
    assert load_copy().data == data
    assert len(trust.records()) == 2


def test_a_first_use_from_a_mirror_is_recorded_even_where_its_bytes_equal_pinned_ones(
    copy, data, other, monkeypatch, tmp_path
):
    file = tmp_path / "mirror/someone/copy/model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(data)
    monkeypatch.setenv("MNV2ZOO_WEIGHTS_DIR", str(tmp_path / "mirror"))
    monkeypatch.setenv("MNV2ZOO_REQUIRE_PINNED", "1")  # which the bytes satisfy
    copy.fail(status=404, match="someone/copy")
    assert load_copy().data == data
    copy.heal()
    file.write_bytes(other)
    with pytest.raises(weights.IntegrityError):
        load_copy()


def test_a_forgotten_first_use_is_a_first_use_again(copy, data, other):
    load_copy()
    copy.add("someone/copy", "model.safetensors", other)
    assert trust.forget(store.HubFile.of_hub_id("someone/copy").location)
    with pytest.warns(UserWarning, match=sha256(other)):
        assert load_copy().data == other


def test_weights_are_not_pinned_to_other_bytes_than_at_their_first_use(hub, overlay, data, other):
    hub.add("zoo/w", "model.safetensors", data)
    overlay({NAME: raw_entry(repo_id="zoo/w")})
    with pytest.warns(UserWarning, match="first use"):
        weights.load(NAME)
    hub.add("zoo/w", "model.safetensors", other)
    with pytest.raises(weights.IntegrityError) as error:
        store.pin(index.entry(NAME))
    assert sha256(other) in error.value.found
    assert "forget" in error.value.fix


@pytest.mark.slow
def test_a_lock_that_is_never_given_up_ends_a_first_use_in_time(hub, overlay, data, monkeypatch):
    hub.add("zoo/w", "model.safetensors", data)
    overlay({NAME: raw_entry(repo_id="zoo/w")})
    trust.path().parent.mkdir(parents=True)
    monkeypatch.setenv("MNV2ZOO_DOWNLOAD_TIMEOUT", "9")
    with FileLock(f"{trust.path()}.lock"):
        start = time.monotonic()
        error = in_a_thread(lambda: weights.load(NAME))
    assert time.monotonic() - start < 20
    assert error.where == f"{trust.path()}.lock", error
    assert "End the process" in error.fix
    assert trust.records() == {}
    with pytest.warns(UserWarning, match="first use"):
        weights.load(NAME)


def in_a_thread(action):
    """What an action raises in another thread, as it would in another process that is not given a lock."""
    raised = []

    def run():
        try:
            action()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    (error,) = raised
    return error


@pytest.mark.slow
def test_nothing_of_a_file_that_shrinks_is_recorded(hub, overlay, data, tmp_path, monkeypatch):
    overlay({NAME: raw_entry(repo_id="zoo/w")})
    place = tmp_path / "mirror/zoo/w/model.safetensors"
    place.parent.mkdir(parents=True)
    place.write_bytes(data[: len(data) // 2])
    monkeypatch.setenv("MNV2ZOO_WEIGHTS_DIR", str(tmp_path / "mirror"))
    hub.fail(status=404)
    with pytest.raises(weights.IntegrityError):
        weights.load(NAME)
    assert trust.records() == {}
    assert index.entry(NAME).location not in trust.records()

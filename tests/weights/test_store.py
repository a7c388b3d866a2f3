"""Where bytes come from, and what is made of bad ones."""

import hashlib
import os

import pytest
import safetensors.torch
import timm
import torch

from mnv2zoo import weights
from mnv2zoo.weights import index, store
from tests.conftest import random_state_dict, raw_entry
from tests.weights.conftest import NAME


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


def test_work_goes_on_while_bytes_are_hashed_and_bad_ones_are_refused_after_it(pinned, data, monkeypatch):
    path, entry, called = weights.fetch(NAME), index.entry(NAME), []
    assert store.verified(entry, meanwhile=lambda: called.append("good")).data == data
    path.write_bytes(data[:-1] + b"\1")
    pinned.fail(404)
    with pytest.raises(weights.IntegrityError) as error:
        store.verified(entry, meanwhile=lambda: called.append("bad"))
    assert error.value.found == f"sha256 {hashlib.sha256(data[:-1] + bytes([1])).hexdigest()}"
    assert called == ["good", "bad"]


def test_a_file_that_changes_while_it_is_hashed_gives_the_bytes_that_were_read(pinned, data):
    path = weights.fetch(NAME)
    found = store.verified(index.entry(NAME), meanwhile=lambda: path.write_bytes(b"others"))
    assert found.data == data


def test_a_network_is_built_while_its_weights_are_hashed_and_never_given_for_bad_ones(pinned, data):
    built = timm.create_model(NAME, pretrained=True)
    assert torch.equal(built.state_dict()["conv_stem.weight"], safetensors.torch.load(data)["conv_stem.weight"])
    weights.fetch(NAME).write_bytes(data[:-1] + b"\1")
    pinned.fail(404)
    for _ in range(20):
        with pytest.raises(weights.IntegrityError):
            timm.create_model(NAME, pretrained=True)


def test_a_folder_with_content_in_the_place_of_a_copy_is_left_alone(pinned):
    path = weights.fetch(NAME)
    path.unlink()
    path.mkdir()
    (path / "notes.txt").touch()
    with pytest.raises(weights.IntegrityError, match=str(path)):
        weights.load(NAME)
    assert (path / "notes.txt").exists()


@pytest.mark.slow
def test_a_bad_copy_and_no_hub_is_an_integrity_error(pinned, data):
    path = weights.fetch(NAME)
    path.write_bytes(data[:-1] + b"\1")
    pinned.fail(status=503)
    with pytest.raises(weights.IntegrityError, match="sha256"):
        weights.load(NAME)


def test_only_pinned_weights_where_that_is_asked_for(unpinned, monkeypatch):
    monkeypatch.setenv("MNV2ZOO_REQUIRE_PINNED", "1")
    with pytest.raises(weights.UnpinnedWeightsError, match="weights pin"):
        weights.load(NAME)
    assert unpinned.requests == []


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

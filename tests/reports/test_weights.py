"""Reports about weights: first use, machines without what Linux has, locks, short reads and failed downloads."""

import hashlib
import warnings

import pytest
import safetensors.torch
import timm
import torch

from mnv2zoo import weights
from mnv2zoo.weights import index, store, trust
from tests.conftest import as_bytes, random_state_dict, raw_entry

NAME = "mnv2zoo_035.test"
COPY = "hf-hub:someone/copy"


@pytest.fixture(scope="module")
def data():
    return as_bytes(random_state_dict("mnv2zoo_035"))


@pytest.fixture(scope="module")
def other():
    return as_bytes(random_state_dict("mnv2zoo_035", seed=1))


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def pinned(hub, overlay, data):
    """A Hub with the weights NAME, which an index pins."""
    commit = hub.add("zoo/w", "model.safetensors", data)
    overlay({NAME: raw_entry(repo_id="zoo/w", revision=commit, sha256=sha256(data), size=len(data))})
    return hub


@pytest.fixture
def copy(pinned, data):
    """The same Hub with a copy of these weights in a repository that no index lists."""
    config = b'{"architecture": "mnv2zoo_035", "num_classes": 1000, "pretrained_cfg": {}}'
    pinned.add("someone/copy", "config.json", config, lfs=False)
    pinned.commit_of_copy = pinned.add("someone/copy", "model.safetensors", data)
    return pinned


def load_copy(name=COPY):
    return store.verified(store.HubFile.of_hub_id(name.removeprefix("hf-hub:")))


# First use


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

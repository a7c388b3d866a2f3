"""A Hub with weights that an index pins, or does not pin."""

import hashlib

import pytest

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

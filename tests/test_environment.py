"""Environment variables: each has a default, an empty value counts as unset, and `~` is expanded where it can be."""

import math
from pathlib import Path

import pytest

from mnv2zoo import environment

PATHS = [
    ("MNV2ZOO_WEIGHTS_DIR", environment.weights_dir),
    ("MNV2ZOO_WEIGHTS_INDEX", environment.weights_index),
    ("MNV2ZOO_INDEX_PUBKEY", environment.index_pubkey),
]


@pytest.fixture(autouse=True)
def unset(monkeypatch, tmp_path):
    for variable in environment.VARIABLES:
        monkeypatch.delenv(variable.name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize(("name", "path"), PATHS)
def test_a_path_is_read_when_it_is_asked_for(monkeypatch, tmp_path, name, path):
    assert path() is None
    for value, expected in (("a/b", Path("a/b")), ("~/b", tmp_path / "b"), ("", None)):
        monkeypatch.setenv(name, value)
        assert path() == expected


def test_the_home_of_the_package_lies_in_the_users_cache(monkeypatch, tmp_path):
    assert environment.home() == tmp_path / ".cache/mnv2zoo"
    monkeypatch.setenv("MNV2ZOO_HOME", "/srv/state")
    assert environment.home() == Path("/srv/state")


@pytest.mark.parametrize(("path", "homeless"), [("~/x", True), ("~nobody/x", True), ("x/~", False), ("", False)])
def test_a_path_that_still_begins_with_a_tilde_has_no_home(path, homeless):
    assert environment.is_homeless(Path(path)) == homeless


@pytest.mark.parametrize("value", ["", "0", "false", " No ", "off"])
def test_hashes_are_not_required_by_these_values(monkeypatch, value):
    assert not environment.require_pinned()
    monkeypatch.setenv("MNV2ZOO_REQUIRE_PINNED", value)
    assert not environment.require_pinned()


@pytest.mark.parametrize("value", ["1", "true", "yes", "anything"])
def test_hashes_are_required_by_any_other_value(monkeypatch, value):
    monkeypatch.setenv("MNV2ZOO_REQUIRE_PINNED", value)
    assert environment.require_pinned()


@pytest.mark.parametrize(("value", "seconds"), [("", 600.0), ("2.5", 2.5), ("soon", math.nan)])
def test_the_time_for_a_download_is_a_number_of_seconds(monkeypatch, value, seconds):
    assert environment.download_timeout() == 600.0
    monkeypatch.setenv("MNV2ZOO_DOWNLOAD_TIMEOUT", value)
    assert environment.download_timeout() == pytest.approx(seconds, nan_ok=True)

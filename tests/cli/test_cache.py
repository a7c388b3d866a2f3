"""`cache`: shows what is kept, empties it, and fills it."""

import json

import pytest

from mnv2zoo.data.copies import Copies, Smaller
from mnv2zoo.inference import session


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MNV2ZOO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_an_empty_cache_is_listed_and_cleared(run, home):
    assert json.loads(run("cache", "list", "--json").out) == []
    assert run("cache", "list").out.splitlines()[-1] == f"0.0 MB in {home}"
    assert json.loads(run("cache", "clear", "--json").out) == {"freed_bytes": 0}


def test_what_is_kept_is_listed_cleared_and_made_again(run, home, tiny, monkeypatch):
    monkeypatch.setattr(session, "_milliseconds", lambda sessions: dict.fromkeys(sessions, 1.0))
    warm = json.loads(run("cache", "warm", tiny, "--json").out)
    assert warm == {"model": tiny, "engine": session.RUNS_FASTEST[0]}
    copies = Copies.open("disk", home, Smaller(32, 32, 0.08, (0.75, 1.33)), count=1)
    (copies.folder / "copy").write_bytes(bytes(1000))
    (home / "first_use.json").write_text('{"first_use": {}}')
    listed = json.loads(run("cache", "list", "--json").out)
    assert sorted((row["kind"], row["model"], row["engine"], row["precision"]) for row in listed) == [
        ("choice", tiny, " ".join(session.RUNS_FASTEST), "fp32"),
        *(("engine", tiny, name, "fp32") for name in sorted(session.RUNS_FASTEST)),
        ("images", "", "", ""),
    ]
    assert {row["bytes"] for row in listed if row["kind"] == "images"} == {1000}
    table = run("cache", "list").out
    assert tiny in table
    freed = json.loads(run("cache", "clear", "--json").out)["freed_bytes"]
    assert freed == sum(row["bytes"] for row in listed)
    assert json.loads(run("cache", "list", "--json").out) == []
    assert (home / "first_use.json").exists()
    assert run("cache", "clear").out == "0.0 MB freed\n"


def test_a_model_that_needs_pytorch_has_nothing_to_warm(run, home):
    done = run("cache", "warm", "mnv2zoo_035")  # whose weights no index pins
    assert (done.status, done.out) == (0, "mnv2zoo_035: torch, which needs no cache\n")


def test_a_wrong_name_is_an_error(run, home):
    done = run("cache", "warm", "mnv2zoo_36")
    assert done.status == 2
    assert len(done.errors) == 1

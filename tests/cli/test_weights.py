"""`weights fetch | verify | pin | path | forget | sign`."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from mnv2zoo import weights
from mnv2zoo.weights import index, trust
from tests.conftest import as_bytes, random_state_dict, raw_entry
from tests.weights.test_signature import write_keys


def damage(path):
    with Path(path).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")


def test_fetch_prints_the_verified_file(run, zoo):
    done = run("weights", "fetch", "mnv2zoo_035")
    assert (done.status, done.err) == (0, "")
    assert done.out == f"{weights.fetch('mnv2zoo_035.pinned')}\n"


def test_fetch_tells_of_trust_on_first_use_in_one_line(run, zoo):
    done = run("weights", "fetch", "mnv2zoo_035.unpinned", "--json")
    assert list(json.loads(done.out)) == ["mnv2zoo_035.unpinned"]
    (line,) = done.err.splitlines()
    assert line.startswith("warning: mnv2zoo_035.unpinned: ")
    assert zoo["unpinned"] in line
    assert run("weights", "fetch", "mnv2zoo_035.unpinned").err == ""


def test_fetch_goes_on_after_a_failure(run, zoo, hub):
    hub.fail(status=404, match="zoo/unpinned")
    done = run("weights", "fetch", "mnv2zoo_035.unpinned", "mnv2zoo_035.pinned")
    assert done.status == 1
    assert len(done.errors) == len(done.out.splitlines()) == 1


def test_fetch_all_fetches_whatever_is_listed(run, zoo, monkeypatch):
    asked = []
    monkeypatch.setattr(weights, "fetch", lambda name: asked.append(name) or Path("here", name))
    assert run("weights", "fetch", "--all").out.split() == [f"here/{name}" for name in weights.entries()]
    assert asked == list(weights.entries())


def test_fetch_fills_a_mirror_that_serves_alone(run, zoo, hub, tmp_path, monkeypatch):
    mirror = tmp_path / "mirror"
    copy = run("weights", "fetch", "mnv2zoo_035", "--mirror", mirror).out
    assert copy == f"{mirror / 'zoo/pinned/model.safetensors'}\n"
    monkeypatch.setenv("MNV2ZOO_WEIGHTS_DIR", str(mirror))
    hub.clear()
    assert run("weights", "fetch", "mnv2zoo_035").out == copy
    assert hub.requests == []


def test_a_mirror_that_cannot_be_written_is_one_line(run, zoo, tmp_path):
    (tmp_path / "file").touch()
    done = run("weights", "fetch", "mnv2zoo_035", "--mirror", tmp_path / "file")
    assert (done.status, len(done.errors)) == (1, 1)


def test_verify_tells_good_from_bad_from_absent(run, zoo):
    def statuses(*names):
        done = run("weights", "verify", *names, "--json")
        return done, {row["name"]: row["status"] for row in json.loads(done.out)}

    untouched = {name: "ok" if entry.bundled else "not here" for name, entry in weights.entries().items()}
    done, found = statuses()
    assert (done.status, done.err) == (0, "")
    assert found == untouched

    path = run("weights", "fetch", "mnv2zoo_035").out.strip()
    assert statuses("mnv2zoo_035")[1] == {"mnv2zoo_035.pinned": "ok"}
    damage(path)
    done, found = statuses()
    assert (done.status, len(done.errors)) == (1, 1)
    assert path in done.err
    assert found == untouched | {"mnv2zoo_035.pinned": "BAD"}
    row = next(row for row in json.loads(done.out) if row["status"] == "BAD")
    assert row["path"] == path
    assert "wrong hash" in row["problem"]
    assert "BAD" in run("weights", "verify").out


def test_verify_has_nothing_to_compare_what_was_never_used_with(run, zoo, tmp_path, monkeypatch):
    file = tmp_path / "mirror/zoo/unpinned/model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"anything")
    monkeypatch.setenv("MNV2ZOO_WEIGHTS_DIR", str(tmp_path / "mirror"))
    done = run("weights", "verify", "mnv2zoo_035.unpinned")
    assert done.status == 0
    assert "no hash" in done.out


def test_pin_prints_an_entry_that_an_index_takes(run, zoo, overlay):
    done = run("weights", "pin", "mnv2zoo_035.unpinned")
    assert done.status == 0
    overlay(json.loads(done.out))
    entry = weights.entry("mnv2zoo_035.unpinned")
    assert entry.pinned
    assert entry.sha256 == zoo["unpinned"]
    assert len(entry.revision) == 40


@pytest.fixture
def index_file(hub, tmp_path):
    """An index with an entry that is pinned, two that are not and a bundled one, in a format of its own."""
    data = [as_bytes(random_state_dict("mnv2zoo_035", seed)) for seed in range(3)]
    commits = [hub.add(f"zoo/w{seed}", "model.safetensors", data[seed]) for seed in range(3)]
    shas = [hashlib.sha256(one).hexdigest() for one in data]
    entries = {
        "mnv2zoo_035.a": raw_entry(repo_id="zoo/w0", description='a "revision": null of words'),
        "mnv2zoo_035.b": raw_entry(repo_id="zoo/w1", revision=commits[1], sha256=shas[1], size=len(data[1])),
        "mnv2zoo_035.c": raw_entry(repo_id="zoo/w2"),
        "mnv2zoo_035.d": raw_entry(repo_id=None, filename=None, bundled="d.safetensors", sha256="d" * 64),
    }
    path = tmp_path / "own_index.json"
    path.write_text(json.dumps({"schema_version": 1, "weights": entries}, indent=1).replace("70.0", "70.00"))
    return path, [(commit, sha, len(one)) for commit, sha, one in zip(commits, shas, data, strict=True)]


def test_pin_all_fills_an_index_and_changes_nothing_else(run, index_file, hub):
    path, expected = index_file
    before = path.read_text()
    done = run("weights", "pin", "--all", "--index", path)
    assert (done.status, done.err) == (0, "")
    shas = [sha for _, sha, _ in expected]
    assert done.out.splitlines() == [
        f"mnv2zoo_035.a: pinned, sha256 {shas[0]}",
        f"mnv2zoo_035.b: already pinned, sha256 {shas[1]}",
        f"mnv2zoo_035.c: pinned, sha256 {shas[2]}",
    ]
    found = index.read(path)
    assert [(e.revision, e.sha256, e.size) for e in found.values()][:3] == expected
    changed = [
        pair for pair in zip(before.splitlines(), path.read_text().splitlines(), strict=True) if len({*pair}) > 1
    ]
    assert [old.split('"')[1] for old, _ in changed] == 2 * ["revision", "sha256", "size"]
    hub.clear()
    assert [row["status"] for row in json.loads(run("weights", "pin", "--all", "--index", path, "--json").out)] == (
        3 * ["already pinned"]
    )
    assert not [request for request in hub.requests if "/cdn/" in request.path], "nothing is downloaded again"


def test_pin_all_goes_on_after_a_failure_and_resumes(run, index_file, hub):
    path, expected = index_file
    hub.fail(status=404, match="zoo/w0")
    done = run("weights", "pin", "--all", "--index", path)
    assert (done.status, len(done.errors)) == (1, 1)
    assert [line.split(",")[0].split(": ")[1] for line in done.out.splitlines()] == [
        "failed",
        "already pinned",
        "pinned",
    ]
    assert index.read(path)["mnv2zoo_035.a"].sha256 is None
    hub.heal()
    assert run("weights", "pin", "--all", "--index", path).status == 0
    assert [(e.revision, e.sha256, e.size) for e in index.read(path).values()][:3] == expected


@pytest.mark.parametrize(("field", "place", "wrong"), [("sha256", 1, "e" * 64), ("size", 2, 7)])
def test_pin_all_leaves_a_pin_that_the_hub_contradicts_and_says_so(run, index_file, field, place, wrong):
    path, expected = index_file
    right = json.dumps(expected[1][place])
    path.write_text(path.read_text().replace(f'"{field}": {right}', f'"{field}": {json.dumps(wrong)}'))
    before = index.read(path)["mnv2zoo_035.b"]
    assert getattr(before, field) == wrong
    done = run("weights", "pin", "--all", "--index", path)
    assert (done.status, len(done.errors)) == (1, 1)
    assert "the pin of mnv2zoo_035.b does not match the file on the Hub" in done.err
    assert index.read(path)["mnv2zoo_035.b"] == before
    assert index.read(path)["mnv2zoo_035.c"].sha256 == expected[2][1]


def test_pin_all_signs_the_index_or_says_that_its_signature_is_stale(run, index_file, tmp_path, monkeypatch):
    path, _ = index_file
    keys = write_keys(tmp_path / "keys")
    assert run("weights", "sign", path, "--key", keys / "key.pem").status == 0
    text = path.read_text()
    done = run("weights", "pin", "--all", "--index", path)
    assert (done.status, done.err.startswith("warning: ")) == (0, True)
    assert f"{path}.sig is out of date" in done.err
    monkeypatch.setenv("MNV2ZOO_INDEX_PUBKEY", str(keys / "key.pub"))
    with pytest.raises(weights.WeightsIndexError):
        index.read(path)
    path.write_text(text)
    done = run("weights", "pin", "--all", "--index", path, "--key", keys / "key.pem")
    assert (done.status, done.err) == (0, "")
    assert index.read(path)["mnv2zoo_035.a"].pinned


@pytest.mark.parametrize(
    "args", [[], ["mnv2zoo_035", "--all"], ["mnv2zoo_035", "--index", "x.json"], ["mnv2zoo_035", "--key", "key.pem"]]
)
def test_pin_takes_a_name_or_a_whole_index(run, args):
    assert run("weights", "pin", *args).status == 2


def test_path_fetches_nothing(run, zoo, hub):
    done = run("weights", "path", "mnv2zoo_035")
    assert (done.status, done.out, len(done.errors)) == (1, "", 1)
    assert "mnv2zoo weights fetch mnv2zoo_035.pinned" in done.err
    assert hub.requests == []


def test_path_prints_where_the_file_is(run, zoo):
    fetched = run("weights", "fetch", "mnv2zoo_035")
    assert run("weights", "path", "mnv2zoo_035") == fetched
    assert json.loads(run("weights", "path", "mnv2zoo_035", "--json").out) == {
        "mnv2zoo_035.pinned": fetched.out.strip()
    }


def test_forget_lets_changed_weights_be_trusted_anew(run, zoo, hub):
    run("weights", "fetch", "mnv2zoo_035.unpinned")
    hub.add("zoo/unpinned", "model.safetensors", as_bytes(random_state_dict("mnv2zoo_035", seed=3)))
    before = run("weights", "fetch", "mnv2zoo_035.unpinned").out
    assert run("weights", "forget", "mnv2zoo_035.unpinned").out == "forgot zoo/unpinned@main/model.safetensors\n"
    after = run("weights", "fetch", "mnv2zoo_035.unpinned")
    assert after.out != before
    assert after.err.startswith("warning: ")


@pytest.mark.parametrize(
    ("name", "location"),
    [
        ("hf-hub:owner/repo", "owner/repo@main/model.safetensors"),
        ("hf-hub:owner/repo@v1", "owner/repo@v1/model.safetensors"),
    ],
)
def test_forget_takes_names_of_the_hub(run, zoo, name, location):
    trust.remember(location, trust.Record(None, "0" * 64, 1))
    assert run("weights", "forget", name).out == f"forgot {location}\n"
    assert trust.records() == {}
    done = run("weights", "forget", name)
    assert (done.status, len(done.errors)) == (1, 1)


def test_sign_makes_a_signature_that_is_accepted(run, tmp_path, monkeypatch):
    keys = write_keys(tmp_path / "keys", password=b"open sesame")
    path = tmp_path / "index.json"
    path.write_text('{"schema_version": 1, "weights": {}}')
    monkeypatch.setattr("typer.prompt", lambda *args, **kwargs: "open sesame")
    done = run("weights", "sign", path, "--key", keys / "key.pem")
    assert (done.status, done.out, done.err) == (0, f"{path}.sig\n", "")
    monkeypatch.setenv("MNV2ZOO_INDEX_PUBKEY", str(keys / "key.pub"))
    assert index.read(path) == {}


def test_a_key_that_is_not_there_is_one_line(run, tmp_path):
    path = tmp_path / "index.json"
    path.write_text('{"schema_version": 1, "weights": {}}')
    done = run("weights", "sign", path, "--key", tmp_path / "key.pem")
    assert (done.status, done.out, len(done.errors)) == (1, "", 1)
    assert "key.pem" in done.err

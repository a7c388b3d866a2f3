"""The real command, started as a user starts it."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mnv2zoo import architecture
from tests.conftest import as_bytes, random_state_dict, raw_entry
from tests.hub_server import hub_env


@pytest.fixture
def run(hub, tmp_path):
    """Runs the command with weights for two networks on the Hub, one pinned and one not."""
    pinned, unpinned = as_bytes(random_state_dict("mnv2zoo_035")), as_bytes(random_state_dict("mnv2zoo_075"))
    commit = hub.add("zoo/pinned", "model.safetensors", pinned)
    hub.add("zoo/unpinned", "model.safetensors", unpinned)
    entries = {
        "mnv2zoo_035.test": raw_entry(
            repo_id="zoo/pinned", revision=commit, sha256=hashlib.sha256(pinned).hexdigest(), size=len(pinned)
        ),
        "mnv2zoo_075.test": raw_entry(repo_id="zoo/unpinned"),
    }
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"schema_version": 1, "weights": entries}))
    env = hub_env(hub, tmp_path) | {"MNV2ZOO_WEIGHTS_INDEX": str(index), "COLUMNS": "200"}

    def start(*arguments, **extra):
        command = [sys.executable, "-m", "mnv2zoo", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=env | extra, timeout=120)

    return start


@pytest.mark.parametrize(
    "command", [[], ["list"], ["info"], ["predict"], ["weights", "fetch"], ["weights", "pin"]], ids=str
)
def test_help_comes_before_torch(command):
    code = "import sys; from mnv2zoo.cli import app\ntry: app(sys.argv[1:])\nfinally: assert 'torch' not in sys.modules"
    # argv[0] is what the installed script is called; the package then leaves the imports to the commands.
    script = f"import sys; sys.argv[0] = 'mnv2zoo'\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", script, *command, "--help"], capture_output=True, text=True, env=os.environ, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert command in ([], ["weights"]) or "Example" in done.stdout


def test_list_and_info_tell_what_the_tables_tell(run):
    rows = json.loads(run("list", "--json").stdout)
    assert {row["name"] for row in rows} == set(architecture.CONFIGS)
    figures = json.loads(run("info", "mnv2zoo_035", "--json").stdout)
    assert figures["params"] == 1_677_128
    assert list(figures["weights"]) == ["mnv2zoo_035.test"]
    unknown = run("info", "mnv2zoo_36")
    assert (unknown.returncode, unknown.stderr.count("\n")) == (2, 1)
    assert "mnv2zoo_035" in unknown.stderr


def test_predict_goes_on_after_a_bad_file(run, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        Image.effect_noise((80, 60), 40 + number).convert("RGB").save(folder / f"{number}.jpg")
    (folder / "bad.jpg").write_bytes(b"no image")
    done = run(
        "predict", folder, f"{folder}/*.jpg", tmp_path / "absent.jpg", "--model", "mnv2zoo_035", "--topk", "2",
        "--json", "--batch-size", "2", "--output", tmp_path / "rows.jsonl",
    )  # fmt: skip
    assert done.returncode == 1
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["error", "error"]
    assert "bad.jpg" in done.stderr
    assert "absent.jpg" in done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["image"] for row in rows] == [str(folder / f"{number}.jpg") for number in range(3)]
    assert (tmp_path / "rows.jsonl").read_text() == done.stdout
    for row in rows:
        assert row["model"] == "mnv2zoo_035.test"
        assert [set(p) for p in row["predictions"]] == [{"class", "label", "score"}] * 2
        assert row["predictions"][0]["score"] >= row["predictions"][1]["score"] > 0


def test_weights_are_fetched_verified_mirrored_pinned_and_forgotten(run, hub, tmp_path):
    absent = run("weights", "path", "mnv2zoo_035")
    assert (absent.returncode, absent.stderr.count("\n")) == (1, 1)
    path = run("weights", "fetch", "mnv2zoo_035").stdout.strip()
    assert run("weights", "path", "mnv2zoo_035").stdout.strip() == path
    mirrored = run("weights", "fetch", "mnv2zoo_035", "--mirror", tmp_path / "mirror").stdout.strip()
    assert mirrored == str(tmp_path / "mirror/zoo/pinned/model.safetensors")
    with Path(path).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    verified = run("weights", "verify", "--json")
    statuses = {row["name"]: row["status"] for row in json.loads(verified.stdout)}
    assert verified.returncode == 1
    assert statuses["mnv2zoo_035.test"].startswith("BAD")
    assert statuses["mnv2zoo_075.test"] == "not here"
    assert run("predict", path, "--model", "mnv2zoo_140", HF_HUB_OFFLINE="1").stderr.count("\n") == 1

    pinned = json.loads(run("weights", "pin", "mnv2zoo_075").stdout)["mnv2zoo_075.test"]
    assert len(pinned["revision"]) == 40
    assert len(pinned["sha256"]) == 64
    first = run("weights", "fetch", "mnv2zoo_075")
    assert first.stderr.startswith("warning:")
    assert pinned["sha256"] in first.stderr
    assert run("weights", "forget", "mnv2zoo_075").stdout.startswith("forgotten")
    refused = run("weights", "fetch", "mnv2zoo_075", MNV2ZOO_REQUIRE_PINNED="1")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)

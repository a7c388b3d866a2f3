"""The guides that are commands: their shell blocks do what the page says, in a checkout, against the loopback Hub."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from mnv2zoo import architecture
from mnv2zoo.models.mobilenetv2 import MobileNetV2
from mnv2zoo.weights import index
from tests.conftest import ROOT, as_bytes
from tests.docs.test_code import blocks_of
from tests.hub_server import HubServer, hub_env
from tests.photos import fill

pytestmark = pytest.mark.slow

NOT_COPIED = shutil.ignore_patterns(".*", "site", "runs", "dist", "build", "__pycache__")


@pytest.fixture
def checkout(tmp_path: Path, hub: HubServer, stand_ins: Path) -> Path:
    """A checkout whose index pins the random weights that the Hub serves, in an environment of its own."""
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT, folder, ignore=NOT_COPIED)
    entries = {}
    for name, entry in index.read(index.shipped_path()).items():
        entries[name] = entry.to_json()
        if entry.bundled is None:
            data = (stand_ins / f"{name}.safetensors").read_bytes()
            commit = hub.add(entry.repo_id, entry.filename, data)
            if entry.pinned:
                sha256 = hashlib.sha256(data).hexdigest()
                entries[name] |= {"revision": commit, "sha256": sha256, "size": len(data)}
    write_index(folder, entries)
    fill(folder / "photos")
    for command, starts in (("python", ""), ("mnv2zoo", " -m mnv2zoo")):
        file = folder / ".venv/bin" / command
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'#!/bin/sh\nexec {sys.executable}{starts} "$@"\n')
        file.chmod(0o755)
    for stamp in (".made", ".package", ".dev"):  # so that make has nothing to install
        (folder / ".venv" / stamp).touch()
    return folder


def write_index(folder: Path, entries: dict[str, object]) -> None:
    (folder / "weights_index.json").write_text(json.dumps({"schema_version": 1, "weights": entries}))


def section(page: str, title: str) -> str:
    text = (ROOT / page).read_text(encoding="utf-8")
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def shell(page: str, title: str, folder: Path, env: Mapping[str, str]) -> str:
    """Runs the shell blocks of a section, one after the other, and gives what they print."""
    codes = [block.code for block in blocks_of(section(page, title)) if block.language == "sh" and not block.reason]
    assert codes, f"{page}: {title}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "".join(codes)],
        cwd=folder,
        env={**env, "PATH": f"{folder}/.venv/bin:{os.environ['PATH']}", "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def block(page: str, title: str, language: str) -> str:
    (found,) = (block.code for block in blocks_of(section(page, title)) if block.language == language)
    return found


def test_what_is_gathered_where_there_is_a_network_works_where_there_is_none(
    checkout: Path, hub: HubServer, tmp_path: Path
) -> None:
    page = "docs/air-gapped.md"
    shell(page, "Gather on a machine with a network", checkout, hub_env(hub, tmp_path / "there"))
    assert "index.json" in (checkout / "carry/SHA256SUMS").read_text()

    file = checkout / "carry/weights/timm/mobilenetv2_100.ra_in1k/model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + b"\1")
    with pytest.raises(AssertionError, match=r"mobilenetv2_100.ra_in1k/model.safetensors: FAILED"):
        shell(page, "Install and verify offline", checkout, hub_env(hub, tmp_path / "here"))
    file.write_bytes(data)

    hub.clear()
    told = shell(page, "Install and verify offline", checkout, hub_env(hub, tmp_path / "here"))
    assert hub.requests == []
    status = dict(line.split()[:2] for line in told.splitlines() if line.startswith("mnv2zoo_"))
    assert sorted(name for name in status if status[name] == "ok") == [
        "mnv2zoo_050.lamb_in1k",
        "mnv2zoo_050_c20.cifar100_coarse",
        "mnv2zoo_100.ra_in1k",
        "mnv2zoo_100_c20.cifar100_coarse",
    ]
    assert "examples/coffee.jpg" in told
    assert not (tmp_path / "here/mnv2zoo_home/first_use.json").exists(), "nothing was trusted on first use"


def test_weights_of_ones_own_get_a_name(checkout: Path, hub: HubServer, tmp_path: Path) -> None:
    told = shell("docs/adding.md", "Name your own weights", checkout, hub_env(hub, tmp_path))
    assert hub.requests == []
    assert told.count("photos/red/") == 8
    assert "blue" in told


def test_a_network_and_its_weights_join_the_zoo(checkout: Path, hub: HubServer, tmp_path: Path) -> None:
    page, title = "docs/adding.md", "Add a model to the zoo"
    configs = checkout / "mnv2zoo/architecture.py"
    before = configs.read_text(encoding="utf-8")
    place = '        _paper("mnv2zoo_140"'
    assert before.count(place) == 1
    configs.write_text(
        before.replace(place, f"        {block(page, title, 'python').strip()},\n{place}"), encoding="utf-8"
    )
    told = shell(page, title, checkout, hub_env(hub, tmp_path))
    config = replace(architecture.get("mnv2zoo_140"), name="mnv2zoo_130", width=1.3)
    assert f"{architecture.parameters(config):,}" in told
    assert (checkout / "docs/drawings/mnv2zoo_130-network.svg").is_file()

    data = as_bytes(MobileNetV2(config).state_dict())
    hub.add("you/flowers", "model.safetensors", data)
    raw = json.loads((checkout / "weights_index.json").read_text())["weights"]
    added = json.loads("{" + block(page, "Add weights to the zoo", "json") + "}")
    write_index(checkout, raw | added)
    shell(page, "Add weights to the zoo", checkout, hub_env(hub, tmp_path))
    pinned = json.loads((checkout / "entry.json").read_text())
    assert pinned.keys() == added.keys()
    write_index(checkout, raw | pinned)
    shell(page, title, checkout, hub_env(hub, tmp_path))  # make generate, once more
    text = (checkout / "docs/models/mnv2zoo_130.md").read_text(encoding="utf-8")
    assert hashlib.sha256(data).hexdigest() in text

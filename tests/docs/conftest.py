"""The built documentation, and where its examples run."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mnv2zoo import convert
from mnv2zoo.weights import index, schema
from tests.conftest import ROOT, as_bytes, random_state_dict
from tests.photos import fill

MadeOnce = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def site(made_once: MadeOnce) -> Path:
    """The folder that `make docs` makes."""
    pytest.importorskip("mkdocs", reason="the documentation needs the extra: pip install -e '.[docs]'")

    def build(folder: Path) -> None:
        command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
        # As the workflow of a repository builds it, at the root of a host.
        workflow = {"GITHUB_REPOSITORY": "example/mnv2zoo", "SITE_URL": "https://docs.example.org/"}
        built = subprocess.run(command, cwd=ROOT, env=os.environ | workflow, capture_output=True, text=True)
        assert built.returncode == 0, built.stderr

    return made_once("site", build)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """Where the site is served."""
    handler = functools.partial(_Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="session")
def stand_ins(made_once: MadeOnce) -> Path:
    """An index with random weights in the place of those that would be fetched."""
    return made_once("stand-ins", write_stand_ins)


def write_stand_ins(folder: Path) -> None:
    entries = {}
    for name, entry in index.read(index.shipped_path()).items():
        if entry.bundled:
            continue
        state = random_state_dict(entry.architecture)
        data = as_bytes(convert.from_native(state, entry.architecture, entry.layout))
        (folder / f"{name}.safetensors").write_bytes(data)
        raw = entry.to_json() | {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        for field in schema.LOCATION_FIELDS:
            del raw[field]
        entries[name] = raw | {"bundled": f"{name}.safetensors"}
    (folder / "entries.json").write_text(json.dumps(entries))


@pytest.fixture
def workplace(
    stand_ins: Path,
    overlay: Callable[[dict[str, Any]], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder to run examples in: with `examples`, `photos` of three classes, and weights without a network."""
    for file in stand_ins.glob("*.safetensors"):
        os.link(file, tmp_path / file.name)
    overlay(json.loads((stand_ins / "entries.json").read_text()))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    fill(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path

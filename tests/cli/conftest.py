"""The command line within this process, and as a process of its own."""

import hashlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest

from mnv2zoo.cli import main
from tests.conftest import BLOCK, ROOT, as_bytes, random_state_dict, raw_entry


@dataclass
class Done:
    status: int
    out: str
    err: str

    @property
    def errors(self):
        """The blocks of stderr, which are all errors: a line for the problem, and at most four facts below it."""
        blocks = re.findall(BLOCK, self.err)
        assert "".join(blocks) == self.err, self.err
        return blocks


@pytest.fixture
def run(capsys):
    """Runs a command within this process, where torch is imported already."""

    def run(*args):
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main([str(arg) for arg in args])
        return Done(exited.value.code, *capsys.readouterr())

    return run


def process(*args, **options):
    """Runs the command as users do; takes some seconds, most of them for importing torch."""
    command = [sys.executable, "-m", "mnv2zoo", *map(str, args)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)} | options.pop("env", {})
    done = subprocess.run(command, capture_output=True, timeout=120, env=env, **options)
    return Done(done.returncode, done.stdout.decode(errors="surrogateescape"), done.stderr.decode())


@pytest.fixture
def zoo(hub, overlay):
    """Two networks with weights on the Hub, one of them pinned; gives the hash of each."""
    pinned, unpinned = (as_bytes(random_state_dict("mnv2zoo_035", seed)) for seed in (1, 2))
    commit = hub.add("zoo/pinned", "model.safetensors", pinned)
    hub.add("zoo/unpinned", "model.safetensors", unpinned)
    sha256 = {name: hashlib.sha256(data).hexdigest() for name, data in (("pinned", pinned), ("unpinned", unpinned))}
    overlay(
        {
            "mnv2zoo_035.pinned": raw_entry(
                repo_id="zoo/pinned", revision=commit, sha256=sha256["pinned"], size=len(pinned)
            ),
            "mnv2zoo_035.unpinned": raw_entry(repo_id="zoo/unpinned", license="MIT"),
        }
    )
    return sha256

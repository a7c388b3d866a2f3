"""No accelerator is overlooked, and none is looked for where PyTorch was built without any."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mnv2zoo.system import accelerators

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="device files are Linux's")


@pytest.fixture
def here(monkeypatch):
    """Sets PyTorch's version and the device files that there are."""

    def set_to(version, *names):
        monkeypatch.setattr(importlib.metadata, "version", lambda package: version)
        monkeypatch.setattr(Path, "exists", lambda path: path in [Path("/dev", name) for name in names])
        return accelerators.may_be_here()

    return set_to


@LINUX
@pytest.mark.parametrize(
    ("version", "names", "expected"),
    [
        ("2.9.0+cpu", ["nvidia0", "nvidiactl"], False),
        ("2.9.0", [], False),
        ("2.9.0", ["nvidiactl"], True),
        ("2.9.0+cu128", ["dri"], False),
        ("2.9.0+xpu", ["dri"], True),
        ("2.9.0+rocm6.3", ["kfd"], True),
        ("2.9.0", ["dxg"], True),
    ],
)
def test_build_and_drivers_decide(here, version, names, expected):
    assert here(version, *names) is expected


def test_it_is_right_on_this_machine():
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        assert accelerators.may_be_here()


def test_pytorch_is_not_imported():
    code = "import sys; from mnv2zoo.system import accelerators as a; a.may_be_here(); print('torch' in sys.modules)"
    code = "import _mnv2zoo_entry as e; e.is_command_line = True; " + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

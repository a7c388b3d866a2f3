"""PyTorch's OpenMP threads end when they are asked to, and start again."""

import subprocess
import sys

import pytest

PROGRAM = """
import os
import torch
from mnv2zoo.system import openmp

assert openmp._pause() is not None
torch.set_num_threads(3)
image = torch.rand(1 << 20)

def threads():
    return len(os.listdir("/proc/self/task"))

before, wanted = threads(), image * 2
assert threads() == before + 2, (before, threads())
openmp.release_threads()
openmp.release_threads()  # nothing is left to end
assert threads() == before, (before, threads())
assert torch.equal(image * 2, wanted) and threads() == before + 2
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_threads_end_and_start_again():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr

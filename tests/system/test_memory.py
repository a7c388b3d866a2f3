"""Memory that is kept between steps, and given back at the end."""

import subprocess
import sys

import pytest

resource = pytest.importorskip("resource", reason="needs limits that Windows does not have")

PROGRAM = """
import resource, torch
from mnv2zoo.system import memory

def faults():  # pages that had to be got from the system while a large block was used ten times
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

faults()
plain = faults()
with memory.kept():
    faults()
    kept, held = faults(), resident()
print(plain, kept, held - resident())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone is told to keep memory")
def test_kept_memory_is_used_again_and_given_back():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    plain, kept, given_back = map(int, done.stdout.split())
    pages = 4 * 2**24 // resource.getpagesize()
    assert kept < plain / 10, done.stdout
    assert given_back > pages / 2

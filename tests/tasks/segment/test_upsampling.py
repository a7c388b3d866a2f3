"""The class of each pixel is that of PyTorch's own interpolation, with and without PyTorch."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from torch.nn import functional

from mnv2zoo.tasks.segment.upsampling import class_mask, class_tensor
from tests.conftest import ROOT


@pytest.mark.parametrize("size", [(96, 64), (97, 61), (40, 30), (33, 25), (7, 5)])
def test_both_give_what_pytorch_gives(size):
    logits = torch.randn(5, 30, 40, generator=torch.Generator().manual_seed(0))
    whole = functional.interpolate(logits[None], size[::-1], mode="bilinear", antialias=True)[0]
    top = whole.topk(2, 0).values
    clear = (top[0] - top[1] > 1e-4).numpy()  # elsewhere rounding decides
    assert clear.mean() > 0.99
    wanted = whole.argmax(0).numpy()
    for found in (class_mask(logits.numpy(), size), class_tensor(logits, size).numpy()):
        assert (found.dtype, found.shape) == (np.uint8, size[::-1])
        assert (found[clear] == wanted[clear]).all()
    if size > (40, 30):  # on the way up, antialiasing changes nothing
        plain = functional.interpolate(logits[None], size[::-1], mode="bilinear")[0].argmax(0).numpy()
        assert (plain[clear] == wanted[clear]).all()


def test_of_equal_logits_the_first_counts():
    logits = np.zeros((3, 4, 4), np.float32)
    assert not class_mask(logits, (8, 8)).any()
    assert not class_tensor(torch.from_numpy(logits), (8, 8)).any()


def test_memory_does_not_grow_with_the_classes():
    peaks = []
    for classes in (4, 64):
        logits = np.random.default_rng(0).normal(size=(classes, 24, 32)).astype(np.float32)
        tracemalloc.start()
        class_mask(logits, (1600, 1200))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_rows_need_no_pytorch():
    code = (
        "import sys\n"
        "sys.modules['_mnv2zoo_entry'] = entry = type(sys)('entry')\n"
        "entry.is_command_line = True\n"
        "import numpy\n"
        "from mnv2zoo.tasks import find_task\n"
        "from mnv2zoo.tasks.base import Options, Seen\n"
        "logits = numpy.zeros((1, 2, 3, 4), numpy.float32)\n"
        "logits[:, 1, :, 2:] = 1\n"
        "rows = find_task('segment').rows(logits, [Seen('a', (4, 3))], ['x', 'y'], Options())\n"
        "print(rows, sorted({'torch', 'timm', 'torchmetrics', 'matplotlib'} & {*sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[{'mask': None, 'pixels': {'x': 6, 'y': 6}}] []\n", done.stderr

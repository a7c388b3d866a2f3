"""The defaults that a task and its scores start with."""

import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch

from mnv2zoo.errors import TaskError
from mnv2zoo.tasks import Metric, Scores, Task
from tests.conftest import ROOT
from tests.tasks.toy import Errors, MeanColor


def test_scores_have_defaults_for_their_numbers():
    scores = Errors(3, 0.25, 0.5, measured="3 images")
    assert scores.metrics() == {"loss": 0.25, "mae": 0.5}
    assert scores.to_json() == {"measured": "3 images", "images": 3, "loss": 0.25, "mae": 0.5}
    assert scores.epoch_line() == ["val loss 0.25", "val mae 0.5"]
    assert scores.summary() == "loss 0.25, mae 0.5, of 3 images"
    assert scores.last_line() == "3 images: loss 0.25, mae 0.5"
    assert scores.table() == ([], [])


@dataclass(frozen=True)
class Named(Scores):
    loss: float
    names: tuple[str, ...]


def test_only_numbers_are_metrics():
    assert Named(1, 0.5, ("a",)).metrics() == {"loss": 0.5}


def test_scores_without_the_deciding_metric_are_an_error():
    class Lost(MeanColor):
        metric = "accuracy"

    with pytest.raises(TaskError) as error:
        Lost().measured("accuracy", Errors(3, 0.25, 0.5))
    assert error.value.expected == "'accuracy'"
    assert error.value.found == "loss, mae"


def test_tasks_need_no_pytorch():
    code = (
        "import sys\n"
        "sys.modules['_mnv2zoo_entry'] = entry = type(sys)('entry')\n"
        "entry.is_command_line = True\n"
        "from mnv2zoo.tasks import find_task\n"
        "from mnv2zoo.tasks.base import Options\n"
        "import numpy\n"
        "print(find_task().rows(numpy.eye(2), ['a', 'b'], ['x', 'y'], Options(1))[1]['predictions'][0]['label'])\n"
        "print(sorted({'torch', 'timm', 'torchmetrics', 'matplotlib'} & {*sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split("\n")[:2] == ["y", "[]"], done.stderr


def test_incomplete_classes_are_abstract():
    with pytest.raises(TypeError):
        Task()
    with pytest.raises(TypeError):
        Metric()


@pytest.mark.parametrize(
    ("size", "side", "shrunk"), [((64, 64), 32, (32, 32)), ((64, 128), 32, (32, 64)), ((100, 60), 40, (64, 40))]
)
def test_smaller_images_keep_their_aspect(size, side, shrunk):
    images = torch.ones(2, 5, *size)
    found, targets = MeanColor().shrink(images, [1, 2], side, min(size))
    torch.testing.assert_close(found, torch.ones(2, 5, *shrunk))
    assert targets == [1, 2]

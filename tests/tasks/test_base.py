"""Finding a task by its name, and the defaults that a task starts with."""

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest

import mnv2zoo
from mnv2zoo.errors import TaskError
from mnv2zoo.model_dir import records
from mnv2zoo.tasks import Metric, Scores, Task, find_task
from mnv2zoo.tasks.classify import Classify
from mnv2zoo.tasks.lookup import same
from tests.conftest import ROOT
from tests.photos import QUICK
from tests.tasks.toy import Errors, MeanColor

NAME = "tests.tasks.toy:MeanColor"


def test_built_in_and_own_tasks_go_through_one_lookup():
    assert type(find_task()) is type(find_task("classify")) is Classify
    assert find_task("classify").name == "classify"
    task = MeanColor()
    assert find_task(task) is task
    for found in (find_task(NAME), find_task(MeanColor)):
        assert type(found) is MeanColor
        assert found.name == NAME


@pytest.mark.parametrize(
    ("name", "problem", "expected"),
    [
        ("clasify", "no task 'clasify'", "classify, or module:Class"),
        ("detect", "no task 'detect'", "classify, or module:Class"),
        ("tests.tasks.toy:", "no task", "module:Class"),
        (":MeanColor", "no task", "module:Class"),
        ("tests.tasks.nowhere:MeanColor", "no module 'tests.tasks.nowhere'", "a module"),
        ("nowhere_at_all.sub:Task", "no module 'nowhere_at_all'", "a module"),
        ("tests.tasks.toy:MeanColour", "has no 'MeanColour'", "MeanColor"),
        ("tests.tasks.toy:fill", "not a task", "a subclass of mnv2zoo.tasks.Task"),
        ("tests.tasks.toy:Errors", "not a task", "a subclass of mnv2zoo.tasks.Task"),
        ("mnv2zoo.tasks:Task", "cannot create", "complete"),
        ("tests.tasks.test_base:Needy", "cannot create", "no arguments"),
    ],
)
def test_a_wrong_name_is_one_clear_error(name, problem, expected, tmp_path):
    with pytest.raises(TaskError) as error:
        find_task(name)
    assert problem in error.value.problem
    assert expected in str(error.value.expected)
    assert error.value.where == "task"
    assert error.value.fix
    with pytest.raises(TaskError):
        mnv2zoo.finetune(tmp_path, "mnv2zoo_035", tmp_path / "run", task=name, **QUICK)
    assert not (tmp_path / "run").exists()


class Needy(MeanColor):
    """A task that takes an argument."""

    def __init__(self, channels: int) -> None:
        self.channels = channels


def test_an_instance_may_take_arguments():
    assert find_task(Needy(2)).name == "tests.tasks.test_base:Needy"


def test_a_module_that_fails_is_an_error_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    for number, (line, reason) in enumerate(
        [("1 / 0", "ZeroDivisionError"), ("import nothing_of_that_name", "nothing_of_that_name"), ("(", "SyntaxError")]
    ):
        (tmp_path / f"broken{number}.py").write_text(f"{line}\n")
        with pytest.raises(TaskError) as error:
            find_task(f"broken{number}:Task")
        assert "cannot be imported" in error.value.problem
        assert reason in error.value.found


def test_a_recorded_name_is_never_imported(tmp_path, monkeypatch):
    (tmp_path / "recorded_task.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for recorded in ("recorded_task:Task", "mnv2zoo.tasks.classify.task:Classify", "detect"):
        with pytest.raises(TaskError) as error:
            find_task(None, recorded, "run")
        assert (error.value.found, error.value.where) == (recorded, "run")
    assert not (tmp_path / "ran").exists()
    assert type(find_task(None, "classify")) is Classify
    assert type(find_task(MeanColor, "recorded_task:Task")) is MeanColor


@pytest.mark.parametrize(
    ("content", "task"),
    [
        ({"task": "classify"}, "classify"),
        ({"task": NAME}, NAME),
        ({"recipe": {}}, None),
        ({"task": None}, None),
        ({"task": 5}, "5"),
        ([], None),
        ("{", None),
        (None, None),
    ],
)
def test_the_task_of_a_run_is_read_from_its_recipe(tmp_path, content, task):
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "recipe.json").write_text(text)
    assert records.task_name(str(tmp_path)) == task
    assert records.task_name(f"local-dir:{tmp_path}") == task


def test_a_task_whose_module_moved_is_the_same():
    assert same("a:Task", "b.c:Task")
    assert same("classify", "classify")
    assert not same("a:Task", "a:Other")
    assert not same("classify", "a:classify")


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
        Lost().main_metric(Errors(3, 0.25, 0.5))
    assert error.value.expected == "'accuracy'"
    assert error.value.found == "loss, mae"


def test_tasks_need_no_pytorch():
    code = (
        "import sys\n"
        "sys.modules['_mnv2zoo_entry'] = entry = type(sys)('entry')\n"
        "entry.is_command_line = True\n"
        "from mnv2zoo.tasks import find_task\n"
        "import numpy\n"
        "print(find_task().rows(numpy.eye(2), ['a', 'b'], ['x', 'y'], 1, None)[1]['predictions'][0]['label'])\n"
        "print(sorted({'torch', 'timm', 'torchmetrics', 'matplotlib'} & {*sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split("\n")[:2] == ["y", "[]"], done.stderr


def test_incomplete_classes_are_abstract():
    with pytest.raises(TypeError):
        Task()
    with pytest.raises(TypeError):
        Metric()

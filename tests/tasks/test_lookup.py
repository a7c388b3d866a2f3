"""A task is found by its name, and a recorded name is never imported."""

import pytest

import mnv2zoo
from mnv2zoo.errors import TaskError
from mnv2zoo.tasks import find_task
from mnv2zoo.tasks.classify import Classify
from mnv2zoo.tasks.lookup import place_task, same
from tests.photos import QUICK, fill
from tests.tasks.multilabel import scenes
from tests.tasks.toy import MeanColor

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
        ("detct", "no task 'detct'", "detect, or module:Class"),
        ("segmnt", "no task 'segmnt'", "segment, or module:Class"),
        ("tests.tasks.toy:", "no task", "module:Class"),
        (":MeanColor", "no task", "module:Class"),
        ("tests.tasks.nowhere:MeanColor", "the module 'tests.tasks.nowhere' cannot be found", "a module"),
        ("nowhere_at_all.sub:Task", "the module 'nowhere_at_all' cannot be found", "a module"),
        ("tests.tasks.toy:MeanColour", "has no 'MeanColour'", "MeanColor"),
        ("tests.tasks.toy:fill", "not a task", "a subclass of mnv2zoo.tasks.Task"),
        ("tests.tasks.toy:Errors", "not a task", "a subclass of mnv2zoo.tasks.Task"),
        ("mnv2zoo.tasks:Task", "cannot create", "complete"),
        ("tests.tasks.test_lookup:Needy", "cannot create", "no arguments"),
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
    assert find_task(Needy(2)).name == "tests.tasks.test_lookup:Needy"


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
    for recorded in ("recorded_task:Task", "mnv2zoo.tasks.classify.task:Classify", "outline"):
        with pytest.raises(TaskError) as error:
            find_task(None, recorded, "run")
        assert (error.value.found, error.value.where) == (recorded, "run")
    assert not (tmp_path / "ran").exists()
    assert type(find_task(None, "classify")) is Classify
    assert type(find_task(MeanColor, "recorded_task:Task")) is MeanColor


def test_a_task_whose_module_moved_is_the_same():
    assert same("a:Task", "b.c:Task")
    assert same("classify", "classify")
    assert not same("a:Task", "a:Other")
    assert not same("classify", "a:classify")


def test_the_task_of_data_is_found_where_a_csv_file_says_it(tmp_path):
    labels = scenes.fill(tmp_path / "labels", 4, 2)
    assert place_task(labels) == place_task(labels / "train.csv") == "multilabel"
    assert place_task(fill(tmp_path / "photos", 1)) == place_task("torch/cifar10") == "classify"

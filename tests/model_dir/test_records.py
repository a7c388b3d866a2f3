"""What a run recorded is read from its folder."""

import json

import pytest

from mnv2zoo.errors import RunError
from mnv2zoo.model_dir import records

NAME = "tests.tasks.toy:MeanColor"


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


def test_the_record_of_anything_but_a_run_is_empty(tmp_path):
    assert records.recorded(str(tmp_path)) == {}
    assert records.recorded("mnv2zoo_035") == {}
    (tmp_path / "recipe.json").write_text('{"model": "mnv2zoo_035"}')
    assert records.recorded(f"local-dir:{tmp_path}") == {"model": "mnv2zoo_035"}


def test_a_damaged_file_of_a_run_is_named(tmp_path):
    (tmp_path / "split.json").write_text("{")
    for name in ("split.json", "recipe.json"):
        with pytest.raises(RunError) as error:
            records.read_json(tmp_path, name)
        assert error.value.where == tmp_path / name

"""Reports on training that concern more than one module, such as commands that leave a folder behind."""

import json

import pytest

import mnv2zoo
from mnv2zoo.errors import ZooError
from mnv2zoo.model_dir import from_checkpoint, packaging
from tests.training.runs import LABELS, MODEL, ONE, cli, save_run

pytestmark = pytest.mark.slow


def test_the_corrected_command_works(photos, tmp_path):
    run = tmp_path / "run"
    for wrong in (["--opt", "adamww"], ["--auto-augment", "rand-7m"], ["--train", "heda"], ["--init", "pretrained"]):
        done = cli(*words(photos, run), *wrong)
        assert done.returncode in (1, 2)
        assert "unexpected" not in done.stderr
        assert not run.exists()
    assert cli(*words(photos, run), "--opt", "adamw").returncode == 0
    assert json.loads((run / "recipe.json").read_text())["recipe"]["opt"] == "adamw"


def test_a_finished_run_among_the_photos_is_no_class(photos, tmp_path):
    mnv2zoo.finetune(photos, MODEL, tmp_path / "first", **ONE)
    (tmp_path / "first").rename(photos / "run")
    assert mnv2zoo.finetune(photos, MODEL, tmp_path / "second", **ONE).class_names == LABELS


def test_other_commands_leave_no_folder_either(tmp_path):
    out = tmp_path / "a" / "b"
    (tmp_path / "weights.safetensors").write_bytes(b"no weights")
    failing = (
        lambda: mnv2zoo.deploy.export("mnv2zoo_053", out),
        lambda: mnv2zoo.deploy.export(str(save_run(tmp_path / "run")), out, "onxn"),
        lambda: from_checkpoint.convert_checkpoint(tmp_path / "weights.safetensors", out),
        lambda: from_checkpoint.convert_checkpoint(tmp_path / "none.pth", out),
        lambda: packaging.pack(tmp_path / "run", f"{MODEL}.mine", "", out),
    )
    for fails in failing:
        with pytest.raises((ZooError, OSError)):
            fails()
        assert not (tmp_path / "a").exists()


def words(data, run, **values):
    options = {"model": MODEL, **ONE, **values}
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return ["finetune", str(data), "--out", str(run), *flags]

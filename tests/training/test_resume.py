"""A resumed run ends as if it had not been interrupted, or says what has changed."""

import json

import pytest

import mnv2zoo
from mnv2zoo.errors import DataError, RecipeError, RunError
from tests.photos import QUICK, fill, photo
from tests.training.runs import MODEL, cli, content, equal, interrupted_after, save_run


@pytest.mark.slow
@pytest.mark.parametrize("from_command_line", [True, False])
def test_a_run_resumed_without_its_model_ends_as_if_it_had_not_been_interrupted(
    photos, tmp_path, stopped, from_command_line
):
    start = save_run(tmp_path / "start", pad_type="same")
    values = {"init": "pretrained", "batch_size": 24}
    run = stopped(str(start), **values)
    before = (run / "recipe.json").read_bytes()
    if from_command_line:
        done = cli("finetune", str(photos), "--out", str(run), "--resume", "--workers", "1")
        assert done.returncode == 0, done.stderr
    else:
        mnv2zoo.finetune(photos, out=run, resume=True, workers=1, checkpoint_steps=2)
    assert (run / "recipe.json").read_bytes() == before
    mnv2zoo.finetune(photos, str(start), tmp_path / "whole", **{**QUICK, **values, "epochs": 2})
    assert equal(run, tmp_path / "whole")
    assert json.loads((run / "config.json").read_text())["model_args"]["pad_type"] == "same"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "given", "where"),
    [
        ("mnv2zoo_100", {}, "model"),
        ("mnv2zoo_050", {}, "model"),
        (None, {"epochs": 9}, "epochs"),
        (None, {"lr": 0.5}, "lr"),
        (None, {"pad_type": "same"}, "pad_type"),
        (None, {"precision": "bf16"}, "precision"),
        (None, {"init": "pretrained"}, "init"),
        (None, {"mean": [0.1, 0.2, 0.3]}, "mean"),
        (None, {"seed": 1}, "seed"),
        (None, {"batch_size": 12}, "batch_size"),
    ],
)
def test_a_contradiction_to_the_run_is_refused_before_anything_is_written(photos, stopped, model, given, where):
    run = stopped()
    before = content(run)
    with pytest.raises(RecipeError) as error:
        mnv2zoo.finetune(photos, model, run, resume=True, **given)
    assert error.value.where == where
    assert "--out" in error.value.fix
    assert content(run) == before


@pytest.mark.slow
def test_values_that_say_the_same_are_no_contradiction(photos, stopped):
    run = stopped(mean=(0.5, 0.4, 0.3))
    result = mnv2zoo.finetune(
        photos, MODEL, run, resume=True, mean=[0.5, 0.4, 0.3], epochs=2, workers=0, checkpoint_steps=5, input_size=32
    )
    assert len(result.history) == 2


@pytest.mark.slow
def test_start_weights_that_were_replaced_in_the_meantime_are_refused(photos, tmp_path, stopped):
    start = save_run(tmp_path / "start")
    run = stopped(str(start), init="pretrained", train="head")
    before = content(run)
    save_run(start, seed=1)
    with pytest.raises(RunError, match="initial weights of the run have changed") as error:
        mnv2zoo.finetune(photos, out=run, resume=True)
    assert error.value.fix
    save_run(start, pad_type="same")  # the same tensors, used otherwise
    with pytest.raises(RunError, match="initial weights of the run have changed"):
        mnv2zoo.finetune(photos, out=run, resume=True)
    assert content(run) == before


@pytest.mark.slow
def test_a_replaced_init_file_and_a_replaced_teacher_are_refused(photos, tmp_path, stopped):
    start, teacher = tmp_path / "start.safetensors", save_run(tmp_path / "teacher", seed=3)
    start.write_bytes((save_run(tmp_path / "a") / "model.safetensors").read_bytes())
    run = stopped(init=str(start), teacher=str(teacher))
    before, original = content(run), start.read_bytes()
    start.write_bytes((save_run(tmp_path / "b", seed=1) / "model.safetensors").read_bytes())
    with pytest.raises(RunError, match="initial weights of the run have changed"):
        mnv2zoo.finetune(photos, out=run, resume=True)
    start.write_bytes(original)
    save_run(teacher, seed=4)
    with pytest.raises(RunError, match="teacher has changed"):
        mnv2zoo.finetune(photos, out=run, resume=True)
    assert content(run) == before
    save_run(teacher, seed=3)
    assert len(mnv2zoo.finetune(photos, out=run, resume=True).history) == 2


@pytest.mark.slow
def test_a_run_is_resumed_from_another_working_folder(photos, tmp_path, monkeypatch):
    save_run(tmp_path / "start")
    monkeypatch.chdir(tmp_path)
    with interrupted_after(monkeypatch, 1, 0):
        mnv2zoo.finetune("photos", "start", "run", **{**QUICK, "init": "pretrained"})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(mnv2zoo.finetune("../photos", out="../run", resume=True).history) == 2
    assert json.loads((tmp_path / "run/recipe.json").read_text())["model"] == "start"


@pytest.mark.slow
def test_moved_images_are_the_same_and_others_of_the_same_names_are_not(photos, tmp_path, stopped):
    run = stopped()
    before = content(run)
    with pytest.raises(RunError, match="images of the run have changed"):
        mnv2zoo.finetune(
            fill(tmp_path / "other", first=30, count=8) and renumber(tmp_path / "other"), out=run, resume=True
        )
    assert content(run) == before
    photos.rename(tmp_path / "moved")
    assert len(mnv2zoo.finetune(tmp_path / "moved", out=run, resume=True).history) == 2


def renumber(folder):
    for file in sorted(folder.rglob("*.png")):
        file.rename(file.with_name(f"{int(file.stem) - 30:02}.png"))
    return folder


@pytest.mark.slow
def test_another_number_of_processes_is_refused(photos, stopped):
    run = stopped()
    document = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps(document | {"processes": 2}))
    with pytest.raises(RunError, match="another number of processes") as error:
        mnv2zoo.finetune(photos, out=run, resume=True)
    assert (error.value.expected, error.value.found) == (2, 1)


@pytest.mark.slow
def test_a_run_of_an_earlier_version_is_resumed(photos, stopped):
    run = stopped()
    document = json.loads((run / "recipe.json").read_text())
    old = {key: document[key] for key in ("data", "model", "versions")}
    old["recipe"] = {key: value for key, value in document["recipe"].items() if key != "keep_statistics"}
    (run / "recipe.json").write_text(json.dumps(old))
    assert len(mnv2zoo.finetune(photos, out=run, resume=True).history) == 2


@pytest.mark.slow
def test_changes_of_the_data_in_mid_run_are_one_clear_line(photos, stopped):
    run = stopped()
    before = content(run)
    (photos / "yellow").mkdir()
    photo("red", 1).save(photos / "yellow" / "00.png")
    with pytest.raises(DataError, match="classes of the data have changed") as error:
        mnv2zoo.finetune(photos, out=run, resume=True)
    assert "yellow" in str(error.value.found)
    (photos / "yellow/00.png").unlink()
    (photos / "yellow").rmdir()

    name = json.loads((run / "split.json").read_text())["train"][0]
    lost = photos / name.removeprefix("train/")
    aside = lost.read_bytes()
    lost.unlink()
    with pytest.raises(DataError, match="data has changed") as error:
        mnv2zoo.finetune(photos, out=run, resume=True)
    assert name in str(error.value.found)
    assert content(run) == before

    lost.write_bytes(aside)
    photo("red", 99).save(photos / "red" / "99.png")
    done = cli("finetune", str(photos), "--out", str(run), "--resume")
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if "1 image was added since the run started" in line]
    assert not any(
        "99.png" in name for names in json.loads((run / "split.json").read_text()).values() for name in names
    )


def test_another_recipe_does_not_go_on(photos, tmp_path):
    mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **QUICK)
    with pytest.raises(RecipeError, match="where: epochs"):
        mnv2zoo.finetune(photos, MODEL, tmp_path / "run", resume=True, epochs=9)
    again = mnv2zoo.finetune(photos, MODEL, tmp_path / "run", resume=True)  # nothing is left to do
    assert len(again.history) == 2

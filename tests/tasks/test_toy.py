"""A task that the package knows nothing of trains, resumes, reports, is evaluated and predicts."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from timm.data import create_transform, resolve_data_config

import mnv2zoo
from mnv2zoo.errors import RecipeError, TaskError
from tests.conftest import ROOT
from tests.photos import QUICK
from tests.tasks import toy
from tests.tasks.toy import MeanColor, fill, mean_color

NAME = "tests.tasks.toy:MeanColor"
MODEL = "mnv2zoo_100_c20"  # weights that come with the package
HEAD = {"init": "pretrained", "classifier": "linear", "train": "head", "opt": "adamw", "epochs": 60, "input_size": 32}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of images with targets, a run on it, and its result."""
    folder = tmp_path_factory.mktemp("toy")
    photos = fill(folder / "photos", 96)
    result = mnv2zoo.finetune(photos, MODEL, folder / "run", task=MeanColor(), **{**QUICK, **HEAD})
    return photos, folder / "run", result


def cli(*words, timeout=300, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mnv2zoo", *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, **options)


def outputs_of(run, files):
    """The outputs of a run's network on images, computed without the package's own loops."""
    model = timm.create_model(f"local-dir:{run}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config(pretrained_cfg=model.pretrained_cfg, use_test_size=True))
    with torch.inference_mode():
        return model(torch.stack([transform(Image.open(file)) for file in files])).double()


def held_out(photos, run):
    return [photos / name for name in json.loads((run / "split.json").read_text())["val"]]


def test_the_toy_is_small():
    assert len(Path(toy.__file__).read_text().splitlines()) < 150


def test_it_learns_the_colors_of_images_it_has_not_seen(trained):
    photos, run, result = trained
    split = json.loads((run / "split.json").read_text())
    targets = {name: torch.tensor(mean_color(Image.open(photos / name))) for name in split["train"] + split["val"]}
    middle = torch.stack([targets[name] for name in split["train"]]).mean(0)
    guess = torch.stack([targets[name] - middle for name in split["val"]]).abs().mean().item()
    assert result.scores["val"].mae < guess / 2
    assert (len(split["train"]), len(split["val"])) == (86, 10)
    assert result.class_names == ()


def test_the_lowest_error_decides_the_epoch(trained):
    _, run, result = trained
    errors = [row["val_mae"] for row in result.history]
    assert result.epoch == 1 + errors.index(min(errors))
    assert result.scores["val"].mae == pytest.approx(min(errors), rel=1e-3)
    columns = ["epoch", "train_loss", "lr", "val_loss", "val_mae", "images_per_second", "seconds"]
    assert list(json.loads((run / "metrics.jsonl").read_text().splitlines()[0])) == columns


def test_its_errors_are_those_that_the_network_makes(trained):
    photos, run, result = trained
    files = held_out(photos, run)
    wanted = torch.tensor([mean_color(Image.open(file)) for file in files]).double()
    differences = outputs_of(run, files) - wanted
    assert result.scores["val"].mae == pytest.approx(differences.abs().mean().item(), rel=1e-4)
    assert result.scores["val"].loss == pytest.approx(differences.square().mean().item(), rel=1e-4)
    written = json.loads((run / "results.json").read_text())["val"]
    assert written == {"images": 10, "loss": round(result.scores["val"].loss, 6), "mae": round(written["mae"], 6)}


def test_its_report_shows_its_metrics(trained):
    _, run, result = trained
    page = (run / "report/val/README.md").read_text()
    assert f"| mae | {result.scores['val'].mae:.4g} |" in page
    assert "| images | 10 |" in page
    with Image.open(run / "report/val/curves.png") as picture:
        assert picture.width > picture.height  # a panel each for the loss, the error and the learning rate
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    values = [event.value for event in events.Scalars("val/mae")]
    assert values == pytest.approx([row["val_mae"] for row in result.history])
    card = (run / "README.md").read_text()
    assert NAME in card
    assert f"| val | 10 | {result.scores['val'].loss:.4g} | {result.scores['val'].mae:.4g} |" in card


@pytest.mark.slow
def test_evaluate_measures_the_held_out_part(trained):
    photos, run, result = trained
    scores = mnv2zoo.evaluate(photos, run, task=MeanColor)
    assert scores.measured == "10 val images that the run held out"
    assert scores.mae == pytest.approx(result.scores["val"].mae, rel=1e-4)
    done = cli("evaluate", photos, "--model", run, "--task", NAME, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["mae"] == pytest.approx(scores.mae, abs=1e-6)
    assert document["images"] == 10
    done = cli("evaluate", photos, "--model", run, "--task", NAME)
    assert done.stdout.splitlines()[-1] == f"10 images: loss {scores.loss:.4g}, mae {scores.mae:.4g}"


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_predict_writes_its_rows(trained, tmp_path, ending):
    photos, run, _ = trained
    files = held_out(photos, run)
    rows = list(mnv2zoo.predict(files, str(run), task=MeanColor(), exact=True, output=tmp_path / f"rows.{ending}"))
    assert [row["image"] for row in rows] == list(map(str, files))
    for row, wanted in zip(rows, outputs_of(run, files).tolist(), strict=True):
        assert (row["red"], row["green"]) == pytest.approx(wanted, abs=1e-3)
    text = tmp_path / f"rows.{ending}"
    if ending == "jsonl":
        assert [json.loads(line) for line in text.read_text().splitlines()] == rows
    elif ending == "csv":
        with text.open(newline="") as lines:
            found = list(csv.DictReader(lines))
        assert found == [{key: str(value) for key, value in row.items()} for row in rows]
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        assert parquet.read_table(text).to_pylist() == rows


@pytest.mark.slow
def test_the_command_line_predicts(trained):
    photos, run, _ = trained
    file = held_out(photos, run)[0]
    done = cli("predict", file, "--model", run, "--task", NAME, "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert set(row) == {"image", "model", "red", "green"}
    done = cli("predict", file, "--model", run, "--task", NAME)
    assert done.stdout == f"{file}\n  red: {row['red']}\n  green: {row['green']}\n"


def test_files_alongside_the_rows(trained, tmp_path):
    photos, run, _ = trained
    (tmp_path / "masks").mkdir()
    (row,) = mnv2zoo.predict(photos / "000.png", str(run), task=toy.Masks(), files=tmp_path / "masks")
    assert Path(row["file"]).read_text() == f"{row['red']} {row['green']}"
    with pytest.raises(TaskError) as error:
        next(mnv2zoo.predict(photos / "000.png", str(run), task=MeanColor(), files=tmp_path / "masks"))
    assert error.value.where == "files"


def test_an_engine_without_pytorch_runs_it(trained, tmp_path):
    pytest.importorskip("onnxruntime")
    photos, run, _ = trained
    files = held_out(photos, run)[:3]
    wanted = list(mnv2zoo.predict(files, str(run), task=MeanColor()))
    options = {"task": MeanColor(), "engine": "onnxruntime", "cache": tmp_path / "engines"}
    for _ in range(2):  # the second time from the cache
        rows = list(mnv2zoo.predict(files, str(run), **options))
        for row, other in zip(rows, wanted, strict=True):
            assert (row["red"], row["green"]) == pytest.approx((other["red"], other["green"]), abs=1e-3)


def test_without_its_code_a_run_says_what_to_pass(trained, tmp_path, monkeypatch):
    photos, run, _ = trained
    stranger = tmp_path / "stranger"
    shutil.copytree(run, stranger)
    document = json.loads((stranger / "recipe.json").read_text())
    (stranger / "recipe.json").write_text(json.dumps(document | {"task": "evil:Task"}))
    (tmp_path / "evil.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    uses = (
        lambda model: mnv2zoo.evaluate(photos, model),
        lambda model: next(mnv2zoo.predict(photos / "000.png", str(model))),
        lambda model: mnv2zoo.finetune(photos, out=model, resume=True),
    )
    for use in uses:
        for model, name in ((run, NAME), (stranger, "evil:Task")):
            with pytest.raises(TaskError) as error:
                use(model)
            assert error.value.found == name
            assert f"--task {name}" in error.value.fix
    assert not (tmp_path / "ran").exists()
    done = cli("predict", photos / "000.png", "--model", run)
    assert done.returncode == 1
    assert f"--task {NAME}" in done.stderr
    assert "Traceback" not in done.stderr


def test_another_task_does_not_resume_the_run(trained):
    photos, run, _ = trained
    with pytest.raises(RecipeError) as error:
        mnv2zoo.finetune(photos, out=run, resume=True, task="classify")
    assert error.value.where == "task"


@pytest.mark.parametrize("values", [{"mixup": 0.2}, {"loss": "bce"}, {"smoothing": 0.2}], ids=str)
def test_values_that_it_does_not_use_are_refused(tmp_path, values):
    photos = fill(tmp_path / "photos", 12)
    with pytest.raises(RecipeError) as error:
        mnv2zoo.finetune(photos, "mnv2zoo_035", tmp_path / "run", task=MeanColor(), **{**QUICK, **values})
    assert error.value.where in values
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_that_is_killed_in_mid_epoch_resumes_bit_for_bit(tmp_path):
    photos = fill(tmp_path / "photos", 48)
    options = {"task": NAME, "checkpoint_steps": 1, "ema_decay": 0.9, **QUICK, "epochs": 4, "workers": 1}
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words = ["finetune", str(photos), "--model", "mnv2zoo_035", *flags, "--out"]
    assert cli(*words, tmp_path / "whole").returncode == 0
    run = tmp_path / "killed"
    checkpoint = run / "checkpoints/last.pt"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-m", "mnv2zoo", *words, str(run)], env=environment, stdout=subprocess.DEVNULL
    )
    seen: set[int] = set()
    while len(seen) < 9 and child.poll() is None:  # an epoch has six steps, and its end a checkpoint more
        if checkpoint.exists():
            seen.add(checkpoint.stat().st_mtime_ns)
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    assert child.wait(timeout=60) == -signal.SIGKILL
    state = torch.load(checkpoint, weights_only=True)
    assert state["epoch"] < 4
    assert (state["epoch"], state["step"]) >= (1, 1)
    done = cli("finetune", photos, "--out", run, "--resume", "--task", NAME)
    assert done.returncode == 0, done.stderr
    whole, killed = (safetensors.torch.load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", run))
    assert all(torch.equal(whole[key], killed[key]) for key in whole)
    histories = [
        [json.loads(line)["train_loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (tmp_path / "whole", run)
    ]
    assert histories[0] == histories[1]


@pytest.mark.slow
def test_two_processes_measure_every_image_once(tmp_path):
    photos = fill(tmp_path / "photos", 33)
    options = {**QUICK, **HEAD, "epochs": 2, "val_fraction": 0.3, "workers": 0, "cache_features": None}
    flags = [word for name, value in options.items() if value for word in (f"--{name.replace('_', '-')}", str(value))]
    words = [str(photos), "--model", MODEL, "--task", NAME, *flags, "--no-cache-features"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launch = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m", "mnv2zoo", "finetune", *words]
    done = subprocess.run(
        [sys.executable, "-m", *launch, "--out", str(tmp_path / "two")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "two/results.json").read_text())["val"]
    assert written["images"] == 10
    files = held_out(photos, tmp_path / "two")
    wanted = torch.tensor([mean_color(Image.open(file)) for file in files]).double()
    assert written["mae"] == pytest.approx((outputs_of(tmp_path / "two", files) - wanted).abs().mean().item(), rel=1e-3)

"""Reports on training: what a run resumes from, what it leaves behind, and the machines that it runs on."""

import contextlib
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from timm.data import Mixup

import mnv2zoo
from mnv2zoo.errors import DataError, RecipeError, RunError, UnknownArgumentError, UnknownModelError, ZooError
from mnv2zoo.model_dir import files, packaging
from mnv2zoo.system.files import whole_folder
from mnv2zoo.tasks.recipe import Recipe
from mnv2zoo.training import accelerate_settings, builders, trainer
from tests.conftest import ROOT, random_state_dict
from tests.photos import QUICK, fill, photo

pytestmark = pytest.mark.slow

MODEL = "mnv2zoo_035"
LABELS = ("blue", "green", "red")
ONE = {**QUICK, "epochs": 1, "batch_size": 24}


def weights(run):
    return safetensors.torch.load_file(Path(run) / "model.safetensors")


def equal(one, other):
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def content(folder):
    """What every file of a folder holds, but for the lock."""
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file() and file.name != ".lock"}


def save_run(folder, seed=0, labels=LABELS, **arguments):
    """A run folder of random weights, to start from."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(seed)
    model = timm.create_model(MODEL, num_classes=len(labels), **arguments)
    torch.manual_seed(seed)
    model.load_state_dict(random_state_dict(MODEL, seed, num_classes=len(labels)))
    data = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bilinear"}
    for name, data_of_file in files.model_files(model, {**data, "crop_pct": 1.0}, labels).items():
        (folder / name).write_bytes(data_of_file)
    if arguments:
        config = json.loads((folder / "config.json").read_text())
        config["model_args"] = config.get("model_args", {}) | arguments
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@contextlib.contextmanager
def interrupted_after(monkeypatch, epoch, step):
    """Interrupts the training, as Ctrl-C does, after a checkpoint."""
    real = trainer.Trainer.save

    def save(self):
        real(self)
        if (self.progress.epoch, self.progress.step) == (epoch, step):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(trainer.Trainer, "save", save)
        yield
        pytest.fail("nothing was interrupted")


@pytest.fixture
def photos(tmp_path):
    return fill(tmp_path / "photos")


@pytest.fixture
def stopped(photos, tmp_path, monkeypatch):
    """Makes a run that was interrupted after its first epoch."""

    def make(model=MODEL, **values):
        with interrupted_after(monkeypatch, 1, 0):
            mnv2zoo.finetune(photos, model, tmp_path / "run", **{**QUICK, "epochs": 2, **values})
        return tmp_path / "run"

    return make


# A resumed run takes what decides its result from the run.


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


def test_values_that_say_the_same_are_no_contradiction(photos, stopped):
    run = stopped(mean=(0.5, 0.4, 0.3))
    result = mnv2zoo.finetune(
        photos, MODEL, run, resume=True, mean=[0.5, 0.4, 0.3], epochs=2, workers=0, checkpoint_steps=5, input_size=32
    )
    assert len(result.history) == 2


def test_start_weights_that_were_replaced_in_the_meantime_are_refused(photos, tmp_path, stopped):
    start = save_run(tmp_path / "start")
    run = stopped(str(start), init="pretrained", train="head")
    before = content(run)
    save_run(start, seed=1)
    with pytest.raises(RunError, match="started from have changed") as error:
        mnv2zoo.finetune(photos, out=run, resume=True)
    assert error.value.fix
    save_run(start, pad_type="same")  # the same tensors, used otherwise
    with pytest.raises(RunError, match="started from have changed"):
        mnv2zoo.finetune(photos, out=run, resume=True)
    assert content(run) == before


def test_a_replaced_init_file_and_a_replaced_teacher_are_refused(photos, tmp_path, stopped):
    start, teacher = tmp_path / "start.safetensors", save_run(tmp_path / "teacher", seed=3)
    start.write_bytes((save_run(tmp_path / "a") / "model.safetensors").read_bytes())
    run = stopped(init=str(start), teacher=str(teacher))
    before, original = content(run), start.read_bytes()
    start.write_bytes((save_run(tmp_path / "b", seed=1) / "model.safetensors").read_bytes())
    with pytest.raises(RunError, match="started from have changed"):
        mnv2zoo.finetune(photos, out=run, resume=True)
    start.write_bytes(original)
    save_run(teacher, seed=4)
    with pytest.raises(RunError, match="teacher has changed"):
        mnv2zoo.finetune(photos, out=run, resume=True)
    assert content(run) == before
    save_run(teacher, seed=3)
    assert len(mnv2zoo.finetune(photos, out=run, resume=True).history) == 2


def test_a_run_is_resumed_from_another_working_folder(photos, tmp_path, monkeypatch):
    save_run(tmp_path / "start")
    monkeypatch.chdir(tmp_path)
    with interrupted_after(monkeypatch, 1, 0):
        mnv2zoo.finetune("photos", "start", "run", **{**QUICK, "init": "pretrained"})
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(mnv2zoo.finetune("../photos", out="../run", resume=True).history) == 2
    assert json.loads((tmp_path / "run/recipe.json").read_text())["model"] == "start"


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


def test_another_number_of_processes_is_refused(photos, stopped):
    run = stopped()
    document = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps(document | {"processes": 2}))
    with pytest.raises(RunError, match="another number of processes") as error:
        mnv2zoo.finetune(photos, out=run, resume=True)
    assert (error.value.expected, error.value.found) == (2, 1)


def test_a_run_of_an_earlier_version_is_resumed(photos, stopped):
    run = stopped()
    document = json.loads((run / "recipe.json").read_text())
    old = {key: document[key] for key in ("data", "model", "versions")}
    old["recipe"] = {key: value for key, value in document["recipe"].items() if key != "keep_statistics"}
    (run / "recipe.json").write_text(json.dumps(old))
    assert len(mnv2zoo.finetune(photos, out=run, resume=True).history) == 2


@pytest.mark.parametrize(
    "damage", ["{", "[]", '{"recipe": {}}', '{"versions": {}, "recipe": {"epochs": "x"}, "model": "a"}']
)
def test_a_damaged_recipe_is_an_error_and_stays(photos, stopped, damage):
    run = stopped()
    (run / "recipe.json").write_text(damage)
    before = content(run)
    with pytest.raises((RunError, RecipeError)) as error:
        mnv2zoo.finetune(photos, out=run, resume=True)
    assert error.value.fix
    assert content(run) == before


def test_a_finished_run_without_its_checkpoint_is_not_started_again(photos, tmp_path):
    run = tmp_path / "run"
    mnv2zoo.finetune(photos, MODEL, run, **ONE)
    (run / "checkpoints/last.pt").unlink()
    before = content(run)
    with pytest.raises(RunError, match="no checkpoint") as error:
        mnv2zoo.finetune(photos, out=run, resume=True)
    assert "--model" in error.value.fix
    with pytest.raises(RunError, match="a run in the folder"):
        mnv2zoo.finetune(photos, MODEL, run, **ONE)
    assert content(run) == before


def test_a_checkpoint_of_another_network_is_an_error(photos, tmp_path, stopped):
    run = stopped()
    checkpoint = torch.load(run / "checkpoints/last.pt", weights_only=True)
    checkpoint["trainee"].pop("conv_stem.weight")
    torch.save(checkpoint, run / "checkpoints/last.pt")
    before = content(run)
    with pytest.raises(RunError, match="cannot read the checkpoint"):
        mnv2zoo.finetune(photos, out=run, resume=True)
    assert content(run) == before


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
    assert [line for line in done.stdout.splitlines() if "1 images were added since the run began" in line]
    assert not any(
        "99.png" in name for names in json.loads((run / "split.json").read_text()).values() for name in names
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_a_photo_that_vanishes_while_the_run_reads_it_is_one_clear_error(photos, tmp_path, monkeypatch, workers):
    real = trainer.Trainer.begin

    def begin(self):
        real(self)
        next(sample.place for sample in self.data.splits["train"]).unlink()

    monkeypatch.setattr(trainer.Trainer, "begin", begin)
    with pytest.raises(ZooError) as error:
        mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **{**ONE, "workers": workers})
    assert "Traceback" not in str(error.value)
    assert "no file" in str(error.value)
    assert not (tmp_path / "run").exists()


# What cannot work is refused before there is a run folder.


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"opt": "sdg"}, "opt"),
        ({"opt": "lbfgs"}, "opt"),
        ({"opt": "fusedadam"}, "opt"),
        ({"auto_augment": "rnad-m7"}, "auto_augment"),
        ({"auto_augment": "rand-m7-foo1"}, "auto_augment"),
        ({"auto_augment": "rand-m7-foo"}, "auto_augment"),
        ({"auto_augment": "rand-m7-tnone"}, "auto_augment"),
        ({"auto_augment": "rand-mx7"}, "auto_augment"),
        ({"auto_augment": "augmix-z3"}, "auto_augment"),
        ({"sched": "cosin"}, "sched"),
        ({"loss": "mse"}, "loss"),
        ({"train": "Bottleneck_99"}, "train"),
        ({"classifier": "cnov"}, "classifier"),
        ({"pad_type": "smae"}, "pad_type"),
        ({"train": "head", "cutmix": 1.0}, "cutmix"),
        ({"train": "head", "mixup": 0.2}, "mixup"),
        ({"start_input_size": 64}, "start_input_size"),
        ({"batch_size": 7, "mixup": 0.2}, "batch_size"),
    ],
    ids=str,
)
def test_a_value_that_cannot_work_leaves_no_folder(photos, tmp_path, values, where):
    with pytest.raises(RecipeError) as error:
        mnv2zoo.finetune(photos, MODEL, tmp_path / "a" / "run", **{**ONE, **values})
    assert error.value.where == where
    assert error.value.fix
    assert not (tmp_path / "a").exists()


def test_the_corrected_command_works(photos, tmp_path):
    run = tmp_path / "run"
    for wrong in (["--opt", "adamww"], ["--auto-augment", "rand-7m"], ["--train", "heda"], ["--init", "pretrained"]):
        done = cli(*words(photos, run), *wrong)
        assert done.returncode in (1, 2)
        assert "unexpected" not in done.stderr
        assert not run.exists()
    assert cli(*words(photos, run), "--opt", "adamw").returncode == 0
    assert json.loads((run / "recipe.json").read_text())["recipe"]["opt"] == "adamw"


def test_whatever_fails_at_the_start_leaves_no_folder(photos, tmp_path, hub):
    run = tmp_path / "run"
    cases = [
        ({"model": "mnv2zoo_053"}, UnknownModelError),
        ({"init": "nowhere.pth"}, UnknownModelError),
        ({"init": "pretrained"}, ZooError),  # there are none of this architecture
        ({"model": "mnv2zoo_100", "init": "hf-hub:zoo/none"}, ZooError),
        ({"teacher": str(save_run(tmp_path / "teacher", labels=("a", "b", "c")))}, RecipeError),
        ({"optt": "sgd"}, UnknownArgumentError),
    ]
    for values, kind in cases:
        with pytest.raises(kind):
            mnv2zoo.finetune(photos, values.pop("model", MODEL), run, **{**ONE, **values})
        assert not run.exists()
    (photos / "red/00.png").write_bytes(b"no image")
    with pytest.raises(DataError):
        mnv2zoo.finetune(photos, MODEL, run, **ONE)
    assert not run.exists()
    run.mkdir()  # a folder of the user's stays
    with pytest.raises(DataError):
        mnv2zoo.finetune(photos, MODEL, run, **ONE)
    assert list(run.iterdir()) == []


def test_a_loss_that_diverges_in_the_first_epoch_leaves_the_folder_free(photos, tmp_path):
    with pytest.raises(RunError, match="no longer finite"):
        mnv2zoo.finetune(
            photos, MODEL, tmp_path / "run", **{**QUICK, "lr": 1e6, "batch_size": 2, "epochs": 1, "warmup_epochs": 0.0}
        )
    assert not (tmp_path / "run").exists()
    mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **ONE)


def test_a_run_killed_before_its_first_checkpoint_starts_again(photos, tmp_path, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(trainer.RunFolder, "discard", lambda self: None)  # as a kill leaves it
        patch.setattr(trainer.Trainer, "setup_batches", lambda self: 1 / 0)
        for _ in range(2):  # the second time over the remains of the first
            with pytest.raises(ZeroDivisionError):
                mnv2zoo.finetune(photos, MODEL, run, **{**ONE, "epochs": 3})
    assert {file.name for file in run.iterdir()} >= {"recipe.json", "split.json"}
    assert len(mnv2zoo.finetune(photos, out=run, resume=True).history) == 3
    with monkeypatch.context() as patch:
        patch.setattr(trainer.RunFolder, "discard", lambda self: None)
        patch.setattr(trainer.Trainer, "setup_batches", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            mnv2zoo.finetune(photos, MODEL, tmp_path / "second", **{**ONE, "epochs": 3})
    corrected = mnv2zoo.finetune(photos, MODEL, tmp_path / "second", **ONE)
    assert len(corrected.history) == 1


def test_a_file_of_the_users_is_not_taken_for_a_run(photos, tmp_path):
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "recipe.json").write_text('{"epochs": 3}')
    with pytest.raises(RunError, match="new or empty"):
        mnv2zoo.finetune(photos, MODEL, folder, **ONE)
    assert (folder / "recipe.json").read_text() == '{"epochs": 3}'


def test_a_run_folder_among_the_photos_is_refused(photos, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(photos)
    for data, out in (
        (photos, photos / "run"),
        (photos, photos / "red" / "run"),
        (tmp_path / "link", photos / "run"),
        (photos, tmp_path / "link" / "run"),
    ):
        with pytest.raises(DataError, match="inside the data") as error:
            mnv2zoo.finetune(data, MODEL, out, **ONE)
        assert "--out" in error.value.fix
    monkeypatch.chdir(photos)
    before = content(photos)
    done = cli("finetune", ".", cwd=photos)
    assert done.returncode == 1
    assert "--out" in done.stderr
    assert content(photos) == before
    mnv2zoo.finetune(".", MODEL, "../run", **ONE)


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
        lambda: mnv2zoo.model_dir.from_checkpoint.convert_checkpoint(tmp_path / "weights.safetensors", out),
        lambda: mnv2zoo.model_dir.from_checkpoint.convert_checkpoint(tmp_path / "none.pth", out),
        lambda: packaging.pack(tmp_path / "run", f"{MODEL}.mine", "", out),
    )
    for fails in failing:
        with pytest.raises((ZooError, OSError)):
            fails()
        assert not (tmp_path / "a").exists()


def half_a_folder(path):
    with whole_folder(path) as aside:
        (aside / "half").touch()
        raise KeyboardInterrupt


def test_a_folder_that_is_not_finished_leaves_none_above_it(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        half_a_folder(tmp_path / "a" / "b" / "c")
    assert list(tmp_path.iterdir()) == []


def test_no_momentum_is_plain_gradient_descent(photos, tmp_path):
    mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **{**ONE, "momentum": 0.0})
    net, lr = torch.nn.Linear(2, 2), 0.1
    before = net.weight.detach().clone()
    optimizer = builders.make_optimizer(net, Recipe(momentum=0.0, weight_decay=0.0), lr)
    for _ in range(2):
        optimizer.zero_grad()
        net(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    torch.testing.assert_close(net.weight, before - 2 * lr)


@pytest.mark.parametrize(
    "name", ["rand-m7-mstd0.5-inc1", "rand-m9-n3-p0.4-mmax12-tweights", "augmix-m3-w3", "3a", "original-mstd0.5"]
)
def test_augmentations_of_timm_are_taken(name):
    builders.check(Recipe(auto_augment=name))


def test_optimizers_of_timm_are_taken():
    for name in ("sgd", "momentum", "adamw", "lamb", "lion", "lookahead_adamw", "nadamw", "rmsproptf", "muon"):
        builders.check(Recipe(opt=name))


def test_mixup_asks_each_process_for_an_even_batch(monkeypatch):
    class Two:
        num_processes = 2

        def __init__(self, **options):
            pass

    monkeypatch.setattr(accelerate_settings, "Accelerator", Two)
    with pytest.raises(RecipeError) as error:
        accelerate_settings.start(Recipe(batch_size=6, mixup=0.2))
    assert (error.value.where, "3 each" in str(error.value.found)) == ("batch_size", True)
    with pytest.raises(AssertionError):  # what would come of it
        Mixup(0.2)(torch.rand(3, 3, 8, 8), torch.zeros(3, dtype=torch.long))
    accelerate_settings.start(Recipe(batch_size=8, mixup=0.2))
    accelerate_settings.start(Recipe(batch_size=6))
    with pytest.raises(RecipeError):
        accelerate_settings.start(Recipe(batch_size=2))


# Accelerate's environment.


@pytest.mark.environment
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("GRADIENT_ACCUMULATION_STEPS", "8"),
        ("GRADIENT_ACCUMULATION_STEPS", "many"),
        ("MIXED_PRECISION", "bf16"),
        ("MIXED_PRECISION", "fp16"),
        ("MIXED_PRECISION", "fp8"),
        ("DYNAMO_BACKEND", "INDUCTOR"),
        ("USE_DEEPSPEED", "true"),
        ("USE_FSDP", "true"),
        ("USE_MEGATRON_LM", "true"),
        ("USE_PARALLELISM_CONFIG", "true"),
        ("USE_SAGEMAKER", "true"),
        ("DOWNCAST_BF16", "1"),
        ("GRADIENT_CLIPPING", "1.0"),
    ],
)
def test_an_environment_that_would_change_the_result_is_refused_by_name(photos, tmp_path, monkeypatch, variable, value):
    monkeypatch.setenv(f"ACCELERATE_{variable}", value)
    with pytest.raises(RecipeError) as error:
        mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **ONE)
    assert error.value.where == f"ACCELERATE_{variable}"
    assert f"ACCELERATE_{variable}" in error.value.fix
    assert not (tmp_path / "run").exists()


@pytest.mark.environment
def test_an_environment_that_is_accepted_changes_nothing(photos, tmp_path):
    plain, other = tmp_path / "plain", tmp_path / "other"
    options = ["--epochs", "2", "--opt", "adamw", "--lr", "0.001"]
    assert cli(*words(photos, plain), *options).returncode == 0
    names = {
        "GRADIENT_ACCUMULATION_STEPS": "1",
        "MIXED_PRECISION": "no",
        "USE_CPU": "true",
        "USE_FSDP": "false",
        "DYNAMO_BACKEND": "NO",
        "DYNAMO_MODE": "max-autotune",
        "DEBUG_MODE": "true",
        "LOG_LEVEL": "debug",
        "TORCH_DEVICE": "cpu",
        "SPLIT_BATCHES": "true",
        "BYPASS_DEVICE_MAP": "true",
    }
    done = cli(*words(photos, other), *options, **{f"ACCELERATE_{name}": value for name, value in names.items()})
    assert done.returncode == 0, done.stderr
    assert equal(plain, other)


@pytest.mark.environment
def test_an_environment_that_accelerate_cannot_read_is_one_line(photos, tmp_path):
    done = cli(*words(photos, tmp_path / "run"), ACCELERATE_USE_CPU="perhaps")
    assert done.returncode == 1
    assert "Accelerate cannot start" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.environment
def test_the_launchers_configuration_file_is_refused_where_it_asks_for_more(photos, tmp_path):
    config = tmp_path / "accelerate.yaml"
    config.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nmixed_precision: bf16\nnum_processes: 1\n"
        "use_cpu: true\nmachine_rank: 0\nnum_machines: 1\n"
    )
    launcher = ["accelerate.commands.launch", "--config_file", str(config)]
    done = cli(*words(photos, tmp_path / "run"), launcher=launcher)
    assert done.returncode != 0
    assert "ACCELERATE_MIXED_PRECISION" in done.stderr
    assert not (tmp_path / "run").exists()
    done = cli(*words(photos, tmp_path / "run"), "--precision", "bf16", launcher=launcher)
    assert done.returncode == 0, done.stderr


# Ordinary machines.


@pytest.mark.environment
@pytest.mark.parametrize("train", ["head", "all"])
def test_more_batches_than_open_files(tmp_path, train):
    photos = fill(tmp_path / "photos" / "train", 100)
    fill(tmp_path / "photos" / "val", 90, first=200)

    def few_files():
        resource.setrlimit(resource.RLIMIT_NOFILE, (96, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    words_of_command = words(photos.parent, tmp_path / "run", batch_size=2, workers=2, train=train, epochs=1)
    done = cli(*words_of_command, preexec_fn=few_files)
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["val"]["images"] == 270


def test_every_way_of_training_works_on_another_device(tmp_path):
    fill(tmp_path / "photos" / "train", 5)
    fill(tmp_path / "photos" / "test", 1, first=20)
    start = save_run(tmp_path / "start")
    program = [
        sys.executable,
        "-m",
        "tests.fake_training",
        str(tmp_path / "photos"),
        str(start),
        str(tmp_path / "runs"),
    ]
    done = subprocess.run(program, env=environment(), capture_output=True, text=True, timeout=500, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    found = dict(re.findall(r"^RESULT (.*?): (.*)$", done.stdout, re.MULTILINE))
    assert len(found) == 8, done.stdout
    wrong = {way: outcome for way, outcome in found.items() if not re.fullmatch(r"[\d.]+e[-+]\d+", outcome)}
    assert not wrong
    # Rounding differs with the layout of gradients in memory; autocast does nothing on a device that it does not know.
    far = {way: worst for way, worst in found.items() if float(worst) > 0.01 and "bf16" not in way}
    assert not far


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def words(data, run, **values):
    options = {"model": MODEL, **ONE, **values}
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return ["finetune", str(data), "--out", str(run), *flags]


def cli(*command, launcher=(), cwd=None, preexec_fn=None, **variables):
    launch = [sys.executable, "-m", *launcher, *(["-m"] if launcher else []), "mnv2zoo", *command]
    return subprocess.run(
        launch,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        preexec_fn=preexec_fn,
    )

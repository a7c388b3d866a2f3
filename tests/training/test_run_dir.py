"""The run folder: what may be in it, and that each of its files is whole or absent."""

import re

import pytest
import torch

import mnv2zoo
from mnv2zoo.errors import DataError, RecipeError, RunError, UnknownArgumentError, UnknownModelError, ZooError
from mnv2zoo.training import trainer
from tests.conftest import BLOCK
from tests.photos import QUICK
from tests.training.runs import MODEL, ONE, cli, content, process, save_run, words

resource = pytest.importorskip("resource", reason="needs limits that Windows does not have")


def test_a_folder_with_a_run_is_not_overwritten(trained, photos):
    _, run, _ = trained
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*") if file.is_file() and file.name != ".lock"}
    with pytest.raises(RunError, match=r"(?s)already contains a run.*--resume"):
        mnv2zoo.finetune(photos, MODEL, run, **QUICK)
    with pytest.raises(RunError, match="new or empty"):
        mnv2zoo.finetune(photos, MODEL, photos, **QUICK)
    assert before == {file: file.stat().st_mtime_ns for file in before}


@pytest.mark.slow
def test_a_full_disk_is_one_block_and_the_checkpoint_stays(photos, tmp_path):
    run = tmp_path / "run"
    assert process(*words(photos, run)).returncode == 0
    (run / "metrics.jsonl").unlink()
    checkpoint = (run / "checkpoints" / "last.pt").read_bytes()

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = process(*words(photos, run), "--resume", preexec_fn=small_files)
    assert done.returncode == 1
    assert re.fullmatch(BLOCK, done.stderr[done.stderr.index("error: ") :])
    assert "a file in the run folder cannot be written" in done.stderr
    assert "--resume" in done.stderr
    assert (run / "checkpoints" / "last.pt").read_bytes() == checkpoint
    assert process(*words(photos, run), "--resume").returncode == 0


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_finished_run_without_its_checkpoint_is_not_started_again(photos, tmp_path):
    run = tmp_path / "run"
    mnv2zoo.finetune(photos, MODEL, run, **ONE)
    (run / "checkpoints/last.pt").unlink()
    before = content(run)
    with pytest.raises(RunError, match="no checkpoint") as error:
        mnv2zoo.finetune(photos, out=run, resume=True)
    assert "--model" in error.value.fix
    with pytest.raises(RunError, match="already contains a run"):
        mnv2zoo.finetune(photos, MODEL, run, **ONE)
    assert content(run) == before


@pytest.mark.slow
def test_a_checkpoint_of_another_network_is_an_error(photos, tmp_path, stopped):
    run = stopped()
    checkpoint = torch.load(run / "checkpoints/last.pt", weights_only=True)
    checkpoint["trainee"].pop("conv_stem.weight")
    torch.save(checkpoint, run / "checkpoints/last.pt")
    before = content(run)
    with pytest.raises(RunError, match="the checkpoint cannot be read"):
        mnv2zoo.finetune(photos, out=run, resume=True)
    assert content(run) == before


@pytest.mark.slow
def test_whatever_fails_at_the_start_leaves_no_folder(photos, tmp_path, hub):
    run = tmp_path / "run"
    cases = [
        ({"model": "mnv2zoo_053"}, UnknownModelError),
        ({"init": "nowhere.pth"}, UnknownModelError),
        ({"model": "mnv2zoo_140_c20", "init": "pretrained"}, ZooError),  # there are none of this architecture
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


@pytest.mark.slow
def test_a_loss_that_diverges_in_the_first_epoch_leaves_the_folder_free(photos, tmp_path):
    with pytest.raises(RunError, match="loss is not finite"):
        mnv2zoo.finetune(
            photos, MODEL, tmp_path / "run", **{**QUICK, "lr": 1e6, "batch_size": 2, "epochs": 1, "warmup_epochs": 0.0}
        )
    assert not (tmp_path / "run").exists()
    mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **ONE)


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_file_of_the_users_is_not_taken_for_a_run(photos, tmp_path):
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "recipe.json").write_text('{"epochs": 3}')
    with pytest.raises(RunError, match="new or empty"):
        mnv2zoo.finetune(photos, MODEL, folder, **ONE)
    assert (folder / "recipe.json").read_text() == '{"epochs": 3}'


@pytest.mark.slow
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

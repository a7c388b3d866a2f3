"""A cross-validation trains a run per fold, keeps finished folds, and reports means and deviations."""

import contextlib
import json
import math

import pytest

import mnv2zoo
from mnv2zoo.errors import DataError, RecipeError, RunError
from mnv2zoo.tasks.recipe import Recipe
from mnv2zoo.training import trainer
from mnv2zoo.training.folds import FoldsResult
from tests.photos import QUICK, fill
from tests.tasks.detect import scenes as detect_scenes
from tests.tasks.segment import scenes as segment_scenes
from tests.training.runs import MODEL, cli, content, equal

HEAD = {**QUICK, "train": "head", "folds": 3}


def read(file):
    return json.loads(file.read_text())


def test_means_and_deviations_are_those_worked_out_by_hand(tmp_path):
    scores = {"val": ({"top1": 80.0, "loss": 0.5}, {"top1": 90.0, "loss": 0.1}, {"top1": 94.0})}
    result = FoldsResult(tmp_path, (3, 1, 2), scores)
    assert result.mean == {"val": {"top1": 88.0, "loss": pytest.approx(0.3)}}
    # The squared distances from the mean are 64, 4 and 36, and 0.04 and 0.04.
    assert result.std == {"val": {"top1": pytest.approx(math.sqrt(104 / 2)), "loss": pytest.approx(math.sqrt(0.08))}}
    assert result.runs == (tmp_path / "fold-1", tmp_path / "fold-2", tmp_path / "fold-3")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A cross-validation that was not interrupted, with its data."""
    folder = tmp_path_factory.mktemp("whole")
    photos = fill(folder / "photos")
    return photos, folder / "run", mnv2zoo.finetune(photos, MODEL, folder / "run", **HEAD)


def test_each_image_is_held_out_once_and_the_report_is_of_the_folds(whole):
    photos, run, result = whole
    held = [name for own in result.runs for name in read(own / "split.json")["val"]]
    assert sorted(held) == sorted(f"train/{file.relative_to(photos).as_posix()}" for file in photos.rglob("*.png"))
    document = read(run / "folds.json")
    top1 = [read(own / "results.json")["val"]["top1"] for own in result.runs]
    assert [row["val"]["top1"] for row in document["folds"]] == pytest.approx(top1, abs=1e-3)
    assert document["mean"]["val"]["top1"] == pytest.approx(sum(top1) / 3, abs=1e-3)
    assert document == result.to_json()
    assert f"| top1 | {result.mean['val']['top1']:.4f} |" in (run / "README.md").read_text()
    for number, own in enumerate(result.runs, 1):
        recipe = read(own / "recipe.json")["recipe"]
        assert (recipe["folds"], recipe["fold"]) == (3, number)
        assert (
            mnv2zoo.evaluate(photos, own).measured
            == f"{len(read(own / 'split.json')['val'])} val images that the run held out"
        )


def test_one_fold_alone_is_the_same_run(whole, tmp_path):
    photos, run, _ = whole
    mnv2zoo.finetune(photos, MODEL, tmp_path / "second", **HEAD, fold=2)
    assert equal(tmp_path / "second", run / "fold-2")


def test_a_second_run_uses_the_split_of_the_first(whole, tmp_path):
    photos, run, _ = whole
    first = run / "fold-3"
    values = {**HEAD, "folds": 0, "split_file": str(first / "split.json")}
    mnv2zoo.finetune(photos, MODEL, tmp_path / "again", **values)
    one, other = (read(own / "split.json") for own in (first, tmp_path / "again"))
    assert {split: sorted(one[split]) for split in ("train", "val")} == {
        split: sorted(other[split]) for split in ("train", "val")
    }


@contextlib.contextmanager
def interrupted_in(monkeypatch, fold, epoch=1):
    """Interrupts a fold, as Ctrl-C does, after a checkpoint."""
    real = trainer.Trainer.save

    def save(self):
        real(self)
        if (self.folder.path.name, self.progress.epoch) == (fold, epoch):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "save", save)
        with pytest.raises(KeyboardInterrupt):
            yield


@pytest.mark.slow
@pytest.mark.parametrize(("fold", "epoch"), [("fold-1", 1), ("fold-1", 2), ("fold-2", 1)])
def test_a_resumed_cross_validation_ends_with_the_same_bits(whole, tmp_path, monkeypatch, fold, epoch):
    photos, expected, result = whole
    run = tmp_path / "run"
    with interrupted_in(monkeypatch, fold, epoch):
        mnv2zoo.finetune(photos, MODEL, run, **HEAD)
    resumed = mnv2zoo.finetune(photos, out=run, resume=True)
    assert all(equal(run / own.name, own) for own in result.runs)
    assert (run / "folds.json").read_bytes() == (expected / "folds.json").read_bytes()
    assert resumed.mean == result.mean


def test_finished_folds_are_kept_as_they_are(whole):
    photos, run, result = whole
    before = content(run)
    again = mnv2zoo.finetune(photos, out=run, resume=True, folds=3)
    assert (again.scores, again.epochs) == (result.scores, result.epochs)
    assert content(run) == before


def test_images_that_were_added_between_folds_are_left_out(whole, tmp_path, monkeypatch, capsys):
    _, expected, _ = whole
    photos = fill(tmp_path / "photos")
    with interrupted_in(monkeypatch, "fold-1"):
        mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **HEAD)
    fill(photos, 1, first=20)
    mnv2zoo.finetune(photos, out=tmp_path / "run", resume=True)
    assert "3 images were added since the first fold; they are ignored" in capsys.readouterr().out
    for fold in ("fold-2", "fold-3"):
        assert read(tmp_path / "run" / fold / "split.json") == read(expected / fold / "split.json")


def test_what_contradicts_the_folds_is_refused_before_anything_is_written(whole, tmp_path):
    photos, run, _ = whole
    before = content(run)
    for given, kind, where in (
        ({"resume": True, "folds": 4}, RecipeError, "folds"),
        ({"resume": True, "epochs": 9}, RecipeError, "epochs"),
        ({"folds": 3}, RunError, run),
    ):
        with pytest.raises(kind) as error:
            mnv2zoo.finetune(photos, out=run, **given)
        assert error.value.where == where
    assert content(run) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(RunError, match="a new or empty folder"):
        mnv2zoo.finetune(photos, MODEL, tmp_path / "other", **HEAD)


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"folds": 1}, "folds"),
        ({"fold": 1}, "fold"),
        ({"folds": 3, "fold": 4}, "fold"),
        ({"group_by": "("}, "group_by"),
        ({"group_by": "(a)(b)"}, "group_by"),
        ({"group_by": r"plant\(a"}, "group_by"),
    ],
)
def test_bad_values_are_named(values, where):
    with pytest.raises(RecipeError) as error:
        Recipe(**values)
    assert error.value.where == where


def test_groups_are_not_torn_apart_and_too_few_leave_no_folder(photos, tmp_path):
    values = {**HEAD, "group_by": r"(\d)\.png"}  # eight plants, each in every class
    result = mnv2zoo.finetune(photos, MODEL, tmp_path / "run", **{**values, "epochs": 1})
    for own in result.runs:
        train, val = ({name[-5] for name in read(own / "split.json")[split]} for split in ("train", "val"))
        assert not train & val
    with pytest.raises(DataError) as error:
        mnv2zoo.finetune(photos, MODEL, tmp_path / "new" / "run", **{**values, "folds": 9})
    assert (error.value.problem, error.value.found) == ("there are only 8 groups for 9 folds", 8)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_objects_and_masks_are_folded_alike(tmp_path):
    boxes = detect_scenes.fill_voc(tmp_path / "boxes", train=6, val=3)
    masks = segment_scenes.fill(tmp_path / "masks", 6)
    segment = {**segment_scenes.QUICK, "task": "segment"}
    for data, quick, metric in ((boxes, detect_scenes.QUICK, "map"), (masks, segment, "miou")):
        values = {**quick, "epochs": 1, "folds": 3, "group_by": r"(\d\d)\.png"}
        result = mnv2zoo.finetune(data, detect_scenes.MODEL, tmp_path / quick["task"], **values)
        assert len(result.scores["val"]) == 3
        assert metric in result.mean["val"]
        held = [name for own in result.runs for name in read(own / "split.json")["val"]]
        assert len(held) == len(set(held))
        again = {**quick, "epochs": 1, "split_file": str(result.runs[0] / "split.json")}
        mnv2zoo.finetune(data, detect_scenes.MODEL, tmp_path / "again" / quick["task"], **again)
        one, other = (read(own / "split.json") for own in (result.runs[0], tmp_path / "again" / quick["task"]))
        assert sorted(one["val"]) == sorted(other["val"])


@pytest.mark.slow
def test_folds_from_the_command_line(photos, tmp_path):
    options = [word for name, value in HEAD.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    done = cli("finetune", str(photos), "--model", MODEL, "--out", str(tmp_path / "run"), *options, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == {"run": str(tmp_path / "run")} | read(tmp_path / "run" / "folds.json")
    assert "fold 3 of 3" in done.stderr

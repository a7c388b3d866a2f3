"""Cross-validation: one run per fold, and a report with the mean and standard deviation of each metric.

| file | content |
| --- | --- |
| `fold-1`, `fold-2` and so on | the run of each fold; its `split.json` lists the images of all folds |
| `folds.json` | the metrics of each finished fold, their means and standard deviations |
| `README.md` | the same as a table |
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2zoo.errors import RunError
from mnv2zoo.model_dir import records
from mnv2zoo.model_dir.records import RECIPE, SPLIT
from mnv2zoo.system.files import vacant
from mnv2zoo.tasks import Task, find_task, pages
from mnv2zoo.tasks import recipe as recipes
from mnv2zoo.training import resume
from mnv2zoo.training.progress import Log
from mnv2zoo.training.run_dir import RunFolder

if TYPE_CHECKING:
    from mnv2zoo.training.trainer import FinetuneResult

FOLDS = "folds.json"
Metrics = Mapping[str, float]


@dataclass(frozen=True)
class FoldsResult:
    """The outcome of a cross-validation.

    Attributes:
        run: The folder that contains the run of each fold.
        epochs: For each fold, the epoch of its saved weights, from 1.
        scores: The metrics of each fold by split, for `val` and, if the data has such images, `test`.
    """

    run: Path
    epochs: tuple[int, ...]
    scores: Mapping[str, tuple[Metrics, ...]]

    @property
    def runs(self) -> tuple[Path, ...]:
        """The run folder of each fold, in order."""
        return tuple(_folder(self.run, fold) for fold in range(1, len(self.epochs) + 1))

    @property
    def mean(self) -> dict[str, dict[str, float]]:
        """The mean of each metric over the folds, by split."""
        return {
            split: {name: statistics.fmean(found) for name, found in _by_metric(own).items()}
            for split, own in self.scores.items()
        }

    @property
    def std(self) -> dict[str, dict[str, float]]:
        """The sample standard deviation of each metric over the folds, by split; 0 for a single fold."""
        return {
            split: {name: statistics.stdev(found) if found[1:] else 0.0 for name, found in _by_metric(own).items()}
            for split, own in self.scores.items()
        }

    def to_json(self) -> dict[str, Any]:
        """The content of `folds.json`, as `json.dumps` takes it."""
        rows = [
            {"run": folder.name, "epoch": epoch} | {split: own[number] for split, own in self.scores.items()}
            for number, (folder, epoch) in enumerate(zip(self.runs, self.epochs, strict=True))
        ]
        mean, std = ({split: _rounded(own) for split, own in found.items()} for found in (self.mean, self.std))
        return {"folds": rows, "mean": mean, "std": std}


def _by_metric(folds: tuple[Metrics, ...]) -> dict[str, list[float]]:
    """The values of each metric. A fold may lack some metrics."""
    names = dict.fromkeys(name for own in folds for name in own)
    return {name: [own[name] for own in folds if name in own] for name in names}


def _rounded(metrics: Metrics) -> dict[str, float]:
    return {name: round(value, 6) for name, value in metrics.items()}


def count(out: str | Path, given: Mapping[str, Any], resumes: bool) -> int:
    """Returns the number of folds of a cross-validation.

    Args:
        out: The output folder.
        given: The given fields of `Recipe`.
        resumes: Whether to resume a cross-validation in the folder.

    Returns:
        The number of folds; 0 for a single run.

    Raises:
        RunError: If the folder cannot be used for a cross-validation.
        RecipeError: If the number of folds differs from that of the resumed cross-validation.
    """
    folder = Path(out)
    wanted = given.get("folds", 0) if not given.get("fold") else 0
    if resumes and (_folder(folder, 1) / RECIPE).is_file():
        recorded = int(records.read_json(_folder(folder, 1), RECIPE)["recipe"].get("folds", 0))
        if "folds" in given and given["folds"] != recorded:
            raise recipes.contradiction("folds", recorded, given["folds"])
        return recorded
    there = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    if wanted and not vacant(folder) and not (resumes and there == {_folder(folder, 1).name}):
        again = FOLDS in there or _folder(folder, 1).name in there
        raise RunError(
            "the folder already contains a cross-validation" if again else "the output folder is not empty",
            expected="a new or empty folder",
            found=f"{min(there)!r} in it" if there else "a file",
            where=folder,
            fix=("Resume it with --resume, or choose" if again else "Choose") + " another folder with --out.",
        )
    return wanted


def run(
    place: str | Path,
    model_name: str | None,
    out: str | Path,
    given: Mapping[str, Any],
    folds: int,
    task: str | Task | type[Task] | None = None,
    resumes: bool = False,
    log: Log | None = None,
    device: str | None = None,
) -> FoldsResult:
    """Trains one run per fold; see `mnv2zoo.finetune`.

    The first fold divides the images; the other folds use its `split.json`. Folds that `folds.json` lists are finished
    and are not trained again.

    Args:
        place: The data.
        model_name: The model; None for the default, or for the model of the resumed folds.
        out: The output folder.
        given: The given fields of `Recipe`.
        folds: The number of folds.
        task: The task; None for classification, or for the task of the resumed folds.
        resumes: Whether to resume the folds in the folder, if there are any.
        log: The log.
        device: The device; by default the accelerator if there is one.

    Returns:
        The outcome.
    """
    from mnv2zoo.training import trainer

    folder, log = Path(out), log or Log()
    RunFolder(folder).outside(place)
    rows: list[dict[str, Any]] = _finished(folder) if resumes else []
    begun = records.recorded(str(_folder(folder, 1))) if resumes else {}
    shared, model = _shared(begun, given, model_name) if begun else (dict(given), model_name)
    common = trainer.Shared()
    for fold in range(1, folds + 1):
        own = _folder(folder, fold)
        if fold <= len(rows):
            log.say(f"fold {fold} of {folds}: already finished")
        else:
            log.say(f"fold {fold} of {folds}: {own}")
            values = {**(given if (own / RECIPE).is_file() else shared), "folds": folds, "fold": fold}
            found = task or begun.get("task")
            done = trainer.run(place, model, own, values, found, resumes, log, device, common)
            rows.append(_row(done))
            _write(folder, _result(folder, rows), folds, log.active)
        common.split = common.split or records.read_json(_folder(folder, 1), SPLIT)
    result = _result(folder, rows)
    metric = shared.get("monitor") or find_task(task, begun.get("task")).metric
    for split, mean in result.mean.items():
        log.say(f"{split}: {metric} {mean[metric]:.4g} ± {result.std[split][metric]:.2g} over {folds} folds")
    log.say(f"all metrics: {folder / 'README.md'} and {folder / FOLDS}")
    return result


def _folder(out: Path, fold: int) -> Path:
    return out / f"fold-{fold}"


def _shared(begun: Mapping[str, Any], given: Mapping[str, Any], model_name: str | None) -> tuple[dict[str, Any], str]:
    """The recipe and the model of the first fold, which the remaining folds use too."""
    recipe, model = resume.resumed(dict(begun), given, model_name)
    return recipe.to_json(), model


def _row(done: FinetuneResult) -> dict[str, Any]:
    """The metrics of a fold, rounded as in `folds.json`, so that resumed folds give the same mean."""
    return {"epoch": done.epoch} | {split: _rounded(scores.metrics()) for split, scores in done.scores.items()}


def _finished(out: Path) -> list[dict[str, Any]]:
    """The folds that `folds.json` lists."""
    if not (out / FOLDS).is_file():
        return []
    document = records.read_json(out, FOLDS)
    try:
        return [{key: row[key] for key in row if key != "run"} for row in document["folds"]]
    except (KeyError, TypeError) as error:
        raise RunError(
            "the metrics of the folds cannot be read",
            expected="a JSON document with the metrics of each fold",
            found="another JSON document",
            where=out / FOLDS,
            fix="Restore the file, or delete it to evaluate the folds again.",
        ) from error


def _result(out: Path, rows: list[dict[str, Any]]) -> FoldsResult:
    splits = [split for split in rows[0] if split != "epoch"]
    epochs = tuple(row["epoch"] for row in rows)
    return FoldsResult(out, epochs, {split: tuple(row[split] for row in rows) for split in splits})


def _write(out: Path, result: FoldsResult, folds: int, active: bool) -> None:
    """Writes the metrics of the finished folds: first the page, then `folds.json`."""
    if not active:
        return
    done = len(result.epochs)
    parts = [f"# Cross-validation: {done} of {folds} folds"]
    for split, own in result.scores.items():
        mean, std = result.mean[split], result.std[split]
        rows = (
            [
                name,
                *(f"{value:.4f}" for value in (mean[name], std[name])),
                *(f"{o[name]:.4f}" if name in o else "" for o in own),
            ]
            for name in mean
        )
        titles = ["metric", " mean", " standard deviation", *(f" fold {number}" for number in range(1, done + 1))]
        parts += [f"## {split} images", pages.table(titles, rows)]
    folder = RunFolder(out)
    folder.write("README.md", "\n\n".join(parts) + "\n")
    folder.write_json(FOLDS, result.to_json())

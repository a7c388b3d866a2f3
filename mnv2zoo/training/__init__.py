"""Training: the trainer, and everything that belongs to a run alone.

Needs the extra `train`: `pip install -e ".[train]"` in a checkout.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from mnv2zoo.system import processes
from mnv2zoo.tasks import Task, find_task
from mnv2zoo.tasks import recipe as recipes
from mnv2zoo.tasks.extra import needs_train_extra
from mnv2zoo.tasks.recipe import Recipe

if TYPE_CHECKING:
    from mnv2zoo.training.folds import FoldsResult
    from mnv2zoo.training.progress import Log
    from mnv2zoo.training.trainer import FinetuneResult

__all__ = ["Recipe", "finetune"]


@overload
def finetune(
    data: str | Path,
    model: str | None = None,
    out: str | Path = "run",
    *,
    task: str | Task | type[Task] | None = None,
    resume: bool = False,
    device: str | None = None,
    log: Log | None = None,
    folds: int,
    **recipe: Any,
) -> FoldsResult: ...


@overload
def finetune(
    data: str | Path,
    model: str | None = None,
    out: str | Path = "run",
    *,
    task: str | Task | type[Task] | None = None,
    resume: bool = False,
    device: str | None = None,
    log: Log | None = None,
    **recipe: Any,
) -> FinetuneResult: ...


def finetune(
    data: str | Path,
    model: str | None = None,
    out: str | Path = "run",
    *,
    task: str | Task | type[Task] | None = None,
    resume: bool = False,
    device: str | None = None,
    log: Log | None = None,
    **recipe: Any,
) -> FinetuneResult | FoldsResult:
    """Trains a network on a folder of photos.

    By default it learns to classify them; another `task` may learn something else.

    Args:
        data: A folder with one subfolder per class; one with subfolders `train` and, if there are, `val` and `test`,
            each with one subfolder per class; a tar file of either; a folder with one tar file per split; or timm's
            name for a dataset, such as `torch/cifar10`. Where the folders may be read either way, pass
            `layout="classes"`, or name the splits with `train_dir`, `val_dir` and `test_dir`. For several labels per
            image: a CSV file with the columns `image` and `labels`, a folder with one, or what
            `mnv2zoo.data.multilabel.read` takes else.
        model: A name of the zoo, or a folder or `hf-hub:` repository with `config.json`, such as the run
            folder of an earlier training; by default `mnv2zoo_100`.
        out: The run folder, which is made outside the data. Afterwards `timm.create_model(f"local-dir:{out}",
            pretrained=True)` gives the trained network.
        task: What to learn: `classify`, `multilabel`, `detect`, `segment`, or a task of your own, as an instance of a
            subclass of `mnv2zoo.tasks.Task`, the class itself, or its name `module:Class`. By default `multilabel`
            where a CSV file lists images with labels, and `classify` otherwise.
        resume: Resume an interrupted run in that folder. Everything that decides its result comes from its
            `recipe.json`; an argument that contradicts it is an error. `workers`, `checkpoint_steps`, the device and
            the place of the images may change. Pass a task of your own again. Without a run in the folder a new one
            starts.
        device: Where to train, such as `cpu`, `cuda:1`, `mps` or `xpu`; by default the accelerator if there is one. A
            run resumes on any device. With several processes, name the kind alone, such as `cuda`: each process takes
            one device.
        log: The output; lines on stdout by default, or a progress bar on a terminal.
        **recipe: Fields of `Recipe`.

    Returns:
        The trained network with its metrics. With `folds`, a `FoldsResult` with the metrics of each fold, their means
        and standard deviations; the run of each fold is a folder `fold-1` and so on in `out`.

    Raises:
        UnknownArgumentError: If a field is none of the recipe's; the message names the nearest.
        RecipeError: If a value is of the wrong kind, out of bounds, or does not suit the network or the task.
        TaskError: If there is no such task.
        DeviceError: If the device cannot be used; the message names those that can.
        DataError: If the images are not laid out, or not readable, as they must be.
        WeightsError: If weights to start from cannot be found, fetched or verified.
        RunError: If the run folder cannot be used or written, or the loss is no longer finite.
        WorkerError: If worker processes would run your script again. On macOS and Windows, and for a GPU, put the call
            under `if __name__ == "__main__":`.
        MissingExtraError: If the extra `train` is not installed.

    Examples:
        >>> result = mnv2zoo.finetune("photos", out="run", epochs=10)  # doctest: +SKIP
        >>> result.scores["val"].top1  # doctest: +SKIP
        93.1
        >>> result = mnv2zoo.finetune("photos", out="folds", folds=5)  # doctest: +SKIP
        >>> result.mean["val"]["top1"], result.std["val"]["top1"]  # doctest: +SKIP
        (91.4, 1.2)
    """
    processes.check_is_no_worker()
    recipes.check_names(recipe)
    if not resume:
        recipes.make(**recipe)  # bad values are reported before the imports, which take seconds
    with needs_train_extra():
        if task is not None:
            task = find_task(task)
        from mnv2zoo.training import folds, trainer
    if count := folds.count(out, recipe, resume):
        return folds.run(data, model, out, recipe, count, task, resume, log, device)
    return trainer.run(data, model, out, recipe, task, resume, log, device)

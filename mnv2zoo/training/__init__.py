"""Fine-tuning: the trainer and the run folder.

Requires the `train` extra: `pip install -e ".[train]"` in a checkout.
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
    """Fine-tunes a model on your images.

    Args:
        data: Your images, in one of these layouts for classification:

            - a folder with one subfolder per class
            - a folder with subfolders `train` and optionally `val` and `test`, each with one subfolder per class
            - a tar file of either, or a folder with one tar file per split
            - a timm dataset name, such as `torch/cifar10`

            If the folders are ambiguous, pass `layout="classes"`, or name the splits with `train_dir`, `val_dir` and
            `test_dir`. For `multilabel`: a CSV file with the columns `image` and `labels`, a folder that contains one,
            or another layout that `mnv2zoo.data.multilabel.read` accepts.
        model: A model name from the zoo, or a folder or `hf-hub:` repository with `config.json`, such as an earlier
            run folder. By default `mnv2zoo_100`.
        out: The run folder, which must be outside the data. After training, load the model with
            `timm.create_model(f"local-dir:{out}", pretrained=True)`.
        task: The task: `classify`, `multilabel`, `detect`, `segment`, or your own, as a subclass of
            `mnv2zoo.tasks.Task`, an instance of it, or its name `module:Class`. By default `multilabel` if the data is
            a CSV file of labels, else `classify`.
        resume: Resume an interrupted run in the run folder. The recipe comes from its `recipe.json`, and an argument
            that contradicts it raises an error. You can change `workers`, `cache_images`, `checkpoint_steps`,
            `compile`, the device and the location of the images. Pass your own task again. If the folder contains no
            run, a new one starts.
        device: The device, such as `cpu`, `cuda:1`, `mps` or `xpu`. By default the accelerator if there is one, else
            the CPU. A run can be resumed on another device. With several processes, pass the type alone, such as
            `cuda`: each process takes one device.
        log: Where to print. By default, lines on stdout, or a progress bar on a terminal.
        **recipe: Fields of `Recipe`.

    Returns:
        The trained model with its metrics. With `folds`, a `FoldsResult` with the metrics of each fold, and their means
        and standard deviations. The run folder of each fold is a subfolder of `out`: `fold-1`, `fold-2` and so on.

    Raises:
        UnknownArgumentError: If a recipe field is unknown. The message suggests the closest name.
        RecipeError: If a value has the wrong type, is out of bounds, or does not suit the model or the task.
        TaskError: If the task is unknown.
        DeviceError: If the device cannot be used. The message lists the usable ones.
        DataError: If the images are not in a supported layout, or cannot be read.
        WeightsError: If the initial weights cannot be found, downloaded or verified.
        RunError: If the run folder cannot be used or written, or the loss becomes infinite or NaN.
        WorkerError: If worker processes would run your script again. On macOS and Windows, and with a GPU, put the call
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
        recipes.make(**recipe)  # report invalid values before the imports, which take seconds
    with needs_train_extra():
        if task is not None:
            task = find_task(task)
        from mnv2zoo.training import folds, trainer
    if count := folds.count(out, recipe, resume):
        return folds.run(data, model, out, recipe, count, task, resume, log, device)
    return trainer.run(data, model, out, recipe, task, resume, log, device)

"""Fine-tuning: data, recipe, loop and report.

Needs the extra `train`: `pip install "mnv2zoo[train]"`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2zoo.errors import MissingExtraError
from mnv2zoo.tasks import recipe as recipes
from mnv2zoo.tasks.recipe import Recipe

if TYPE_CHECKING:
    from mnv2zoo.tasks.classify.metrics import Scores
    from mnv2zoo.training.progress import Log
    from mnv2zoo.training.trainer import FinetuneResult

__all__ = ["Recipe", "evaluate", "finetune"]


def finetune(
    data: str | Path,
    model: str | None = None,
    out: str | Path = "run",
    *,
    resume: bool = False,
    log: Log | None = None,
    **recipe: Any,
) -> FinetuneResult:
    """Trains a network on a folder of photos.

    Args:
        data: A folder with one subfolder per class; one with subfolders `train` and, if there are, `val` and `test`,
            each with one subfolder per class; a tar file of either; a folder with one tar file per split; or timm's
            name for a dataset, such as `torch/cifar10`. Where the folders may be read either way, pass
            `layout="classes"`, or name the splits with `train_dir`, `val_dir` and `test_dir`.
        model: A name of the zoo, or a folder or `hf-hub:` repository with `config.json`, such as the run
            folder of an earlier training; by default `mnv2zoo_100`.
        out: The run folder, which is made outside the data. Afterwards `timm.create_model(f"local-dir:{out}",
            pretrained=True)` gives the trained network.
        resume: Resume an interrupted run in that folder. Everything that decides its result comes from its
            `recipe.json`; an argument that contradicts it is an error. `workers`, `checkpoint_steps`, the device and
            the place of the images may change. Without a run in the folder a new one starts.
        log: What is shown meanwhile; lines on stdout by default, or a progress bar on a terminal.
        **recipe: Fields of `Recipe`.

    Returns:
        The trained network with its figures.

    Raises:
        UnknownArgumentError: If a field is none of the recipe's; the message names the nearest.
        RecipeError: If a value is of the wrong kind, out of bounds, or does not suit the network.
        DataError: If the images are not laid out, or not readable, as they must be.
        WeightsError: If weights to start from cannot be found, fetched or verified.
        RunError: If the run folder cannot be used or written, or the loss is no longer finite.
        MissingExtraError: If the extra `train` is not installed.

    Examples:
        >>> result = mnv2zoo.finetune("photos", out="run", epochs=10)  # doctest: +SKIP
        >>> result.scores["val"].top1  # doctest: +SKIP
        93.1
    """
    recipes.check_names(recipe)
    if not resume:
        recipes.make(**recipe)  # bad values are reported before the imports, which take seconds
    with _needs_extra():
        from mnv2zoo.training import trainer
    return trainer.run(data, model, out, recipe, resume, log)


def evaluate(data: str | Path, model: str | Path, split: str | None = None, **options: Any) -> Scores:
    """Measures a network on photos.

    On the photos that a run trained on, its held-out part is measured: its test images if it has some, or else its
    validation images. They are recognized by their content, so the folder may have moved, be a tar file now, or hold
    further photos.

    Args:
        data: Photos, laid out as for `finetune`.
        model: A name of the zoo, or a folder or `hf-hub:` repository with `config.json`, such as a run folder.
        split: `train`, `val` or `test`: of the run, where the photos are the run's, and of the data otherwise. `all`
            for all photos. By default the run's held-out part; on other photos the last split that is there, or all
            photos where there are none.
        **options: Further arguments of `mnv2zoo.evaluation.evaluator.evaluate`, such as `batch_size`.

    Returns:
        The figures: top-1 and top-5, each class, and the calibration error. `measured` says which images they are of.

    Raises:
        DataError: If the images are not laid out as they must be, a folder's name is none of the network's
            classes, or only some of the images are those of the run.
        WeightsError: If the network's weights cannot be found, fetched or verified.
        MissingExtraError: If the extra `train` is not installed.

    Examples:
        >>> scores = mnv2zoo.evaluate("photos", "run")  # doctest: +SKIP
        >>> scores.top1, scores.measured  # doctest: +SKIP
        (93.1, '37 val images that the run held out')
    """
    with _needs_extra():
        from mnv2zoo.evaluation import evaluator
    return evaluator.evaluate(data, model, split=split, **options)


@contextlib.contextmanager
def _needs_extra() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            "training and evaluation need further packages",
            found=f"no {error.name}",
            fix='Install them: pip install "mnv2zoo[train]".',
        ) from error

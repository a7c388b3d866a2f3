"""Evaluation of a model on images.

Requires the `train` extra: `pip install -e ".[train]"` in a checkout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mnv2zoo.tasks import Task
from mnv2zoo.tasks.extra import needs_train_extra

__all__ = ["evaluate"]


def evaluate(
    data: str | Path,
    model: str | Path,
    split: str | None = None,
    *,
    task: str | Task | type[Task] | None = None,
    **options: Any,
) -> Any:
    """Measures a model on your images.

    If the model is a run that was trained on these images, only the held-out images are measured: the test images if
    there are any, else the validation images. They are recognized by their content, so you can move or rename the
    folder, pack it in a tar file, or add images.

    Args:
        data: Your images, in any layout that `finetune` accepts.
        model: A model name from the zoo, or a folder or `hf-hub:` repository with `config.json`, such as a run folder.
        split: `train`, `val`, `test`, or `all` for all images. If the images belong to the run, these are its splits,
            and the default is its held-out images. Otherwise they are the splits of the data, and the default is the
            last one, or all images if there are no splits.
        task: The task, as for `finetune`. By default the task of the run. Required for a run with your own task:
            code is never imported only because a run folder names it.
        **options: More arguments of `mnv2zoo.evaluation.evaluator.evaluate`, such as `batch_size`.

    Returns:
        The scores of the task. For a classifier: top-1, top-5, the metrics of each class and the calibration error; see
        `mnv2zoo.tasks.classify.metrics.Scores`. `measured` says which images were measured.

    Raises:
        DataError: If the images are not in a supported layout, a folder name is not a class of the model, or only some
            of the images belong to the run.
        WeightsError: If the model's weights cannot be found, downloaded or verified.
        TaskError: If the task is unknown, or the run's task is not built in and `task` is None.
        MissingExtraError: If the extra `train` is not installed.

    Examples:
        >>> scores = mnv2zoo.evaluate("photos", "run")  # doctest: +SKIP
        >>> scores.top1, scores.measured  # doctest: +SKIP
        (93.1, '37 val images that the run held out')
    """
    with needs_train_extra():
        from mnv2zoo.evaluation import evaluator
    return evaluator.evaluate(data, model, split=split, task=task, **options)

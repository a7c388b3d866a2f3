"""Evaluation: the metrics of a trained network on images.

Needs the extra `train`: `pip install -e ".[train]"` in a checkout.
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
        task: The task, as for `finetune`; by default that of the run. A run for a task of your own needs it: code is
            never imported because a run folder names it.
        **options: Further arguments of `mnv2zoo.evaluation.evaluator.evaluate`, such as `batch_size`.

    Returns:
        The scores. A classifier has top-1 and top-5, each class, and the calibration error; see
        `mnv2zoo.tasks.classify.metrics.Scores`. `measured` says which images they are of.

    Raises:
        DataError: If the images are not laid out as they must be, a folder's name is none of the network's
            classes, or only some of the images are those of the run.
        WeightsError: If the network's weights cannot be found, fetched or verified.
        TaskError: If there is no such task, or the run's task is not built in and none is given.
        MissingExtraError: If the extra `train` is not installed.

    Examples:
        >>> scores = mnv2zoo.evaluate("photos", "run")  # doctest: +SKIP
        >>> scores.top1, scores.measured  # doctest: +SKIP
        (93.1, '37 val images that the run held out')
    """
    with needs_train_extra():
        from mnv2zoo.evaluation import evaluator
    return evaluator.evaluate(data, model, split=split, task=task, **options)

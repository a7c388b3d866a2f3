"""The task of multi-label classification. Importing it needs no PyTorch, so that inference can do without."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2zoo.data.thresholds import DEFAULT_THRESHOLD, over_thresholds
from mnv2zoo.tasks.base import Options, Seen, Task
from mnv2zoo.tasks.classify.task import Classify
from mnv2zoo.tasks.recipe import OF_DETECTORS, OF_HEADS, OF_SEGMENTERS, Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from timm.data import Mixup
    from torch import nn

    from mnv2zoo.data.datasets import AnySample, Data
    from mnv2zoo.data.layout import Layout
    from mnv2zoo.models.names import Description
    from mnv2zoo.tasks.initialization import Start
    from mnv2zoo.tasks.multilabel.metrics import LabelMetric, Scores

METRICS = ("loss", "map", "f1_micro", "f1_macro")
NAMED = 12  # labels whose images are counted one by one
SEPARATOR = "|"  # between the labels of an image in CSV files that are written


class Multilabel(Classify):
    """Any number of labels per image, from a CSV file, class folders or COCO annotations.

    A label has a threshold of its own, which training chooses on the validation images for the highest F1 and writes
    into `config.json`. Predictions are the labels whose scores reach their thresholds.
    """

    metric = "map"
    lower_is_better = ("loss",)
    metric_names = METRICS
    defaults = {"loss": "bce", "smoothing": 0.0}  # noqa: RUF012  # a ClassVar in the base class
    ignores = ("teacher", "calibrate", *OF_HEADS, *OF_DETECTORS, *OF_SEGMENTERS)
    losses = ("bce", "focal", "asymmetric")
    top_score = Task.top_score  # an image may have no label, which is no reason to reject it

    def __init__(self) -> None:
        self._thresholds: tuple[float, ...] | None = None

    # Data.

    def find_data(self, place: str | Path, layout: Layout) -> Data:
        """Finds images with their labels."""
        from mnv2zoo.tasks.multilabel import data

        return data.find(place, layout)

    def found(self, data: Data) -> str:
        """The form of the data, the images, and the images of each label."""
        from mnv2zoo.tasks.multilabel.data import counts

        everything = [sample for own in data.splits.values() for sample in own]
        by_label = counts(everything)
        labels = ", ".join(f"{by_label[number]} {name}" for number, name in enumerate(data.class_names))
        if len(data.class_names) > NAMED:
            labels = f"{min(by_label.values())} to {max(by_label.values())} per label"
        without = sum(not sample.target.classes for sample in everything)
        images = ", ".join(f"{len(samples)} {split}" for split, samples in data.splits.items())
        return f"{data.form}: {len(data.class_names)} labels; images: {images}; {labels}; {without} without a label"

    def transforms(
        self, preprocessing: Mapping[str, Any], recipe: Recipe | None = None
    ) -> Callable[[Any, Any], tuple[Any, Any]]:
        """The transforms of a classifier; targets become vectors of 0 and 1."""
        from mnv2zoo.tasks.multilabel.data import WithTargets

        of_images: Any = super().transforms(preprocessing, recipe)
        return WithTargets(of_images.transform)

    def align(self, samples: Sequence[AnySample], data: Data, label_names: Sequence[str]) -> list[AnySample]:
        """Numbers the labels of the data as the network does.

        Raises:
            DataError: If a label is none of the network's.
        """
        from mnv2zoo.tasks.multilabel.data import align

        return align(samples, data.class_names, label_names)

    # Network.

    def build_model(self, target: Description, source: Description | Path | None, recipe: Recipe, data: Data) -> Start:
        """Builds the network as for classification.

        Raises:
            DataError: If no validation image has a label.
        """
        from mnv2zoo.tasks.multilabel.data import check_validation

        check_validation(data.splits)
        return super().build_model(target, source, recipe, data)

    def of_model(self, name: str) -> Task:
        """A copy with the thresholds of a trained network; 0.5 for each label where its `config.json` has none."""
        from mnv2zoo.models import names

        described, own = names.describe(name), copy.copy(self)
        own._thresholds = tuple(described.thresholds) or (DEFAULT_THRESHOLD,) * len(described.label_names)
        return own

    # Training.

    def make_loss(
        self, recipe: Recipe, num_classes: int, weights: Sequence[float] | None
    ) -> tuple[Mixup | None, nn.Module]:
        """Creates the mixing of images and labels, None for none, and the loss."""
        from mnv2zoo.tasks.multilabel import loss

        self._thresholds = None  # those of a training before this one
        return loss.make_mixup(recipe, num_classes), loss.make_criterion(recipe, weights)

    # Metrics.

    def metrics(self, label_names: Sequence[str]) -> LabelMetric:  # type: ignore[override]
        """Average precision, and F1 at thresholds: the network's own, or the best where it has none yet."""
        from mnv2zoo.tasks.multilabel.metrics import LabelMetric

        return LabelMetric(label_names, lambda: self._thresholds)

    def calibrate(self, metric: LabelMetric) -> None:  # type: ignore[override]
        """Chooses a threshold per label."""
        self._thresholds = metric.thresholds()

    def measured_rows(  # type: ignore[override]
        self, metric: LabelMetric, images: Sequence[str], label_names: Sequence[str]
    ) -> tuple[Iterator[dict[str, Any]], dict[str, list[str]]]:
        """The labels of each image, those that were found, and the scores of all labels."""
        rows = (
            {
                "image": image,
                "truth": SEPARATOR.join(label_names[label] for label in truth),
                "predicted": SEPARATOR.join(label_names[label] for label in found),
                "correct": truth == found,
                "scores": [round(score, 6) for score in scores],
            }
            for image, (truth, found, scores) in zip(images, metric.by_image(), strict=True)
        )
        return rows, {"scores": list(label_names)}

    # The run folder.

    def model_files(self, model: Any, preprocessing: Mapping[str, Any], label_names: Sequence[str]) -> dict[str, bytes]:
        """The files of a classifier, with the task and the thresholds in `config.json`."""
        from mnv2zoo.model_dir import files

        thresholds = list(self._thresholds or (DEFAULT_THRESHOLD,) * len(label_names))
        return files.model_files(model, preprocessing, label_names, task=self.name, thresholds=thresholds)

    def model_card(  # type: ignore[override]
        self, model: str, architecture: str, origin: str, run: Mapping[str, Any], scores: Mapping[str, Scores]
    ) -> str:
        """The model card, with a table of the labels."""
        from mnv2zoo.tasks.multilabel import card

        return card.model_card(model, architecture, origin, run, scores)

    def write_report(  # type: ignore[override]
        self,
        folder: Path,
        history: Sequence[Mapping[str, Any]],
        metric: LabelMetric,
        scores: Scores,
        samples: Sequence[AnySample],
        title: str,
    ) -> dict[str, Figure]:
        """Writes curves, each label, and precision-recall curves."""
        from mnv2zoo.tasks.multilabel import report

        return report.write(folder, history, scores, *metric.pooled(), title)

    # Predictions.

    def rows(
        self, outputs: Any, images: Sequence[Seen], label_names: Sequence[str], options: Options
    ) -> list[dict[str, Any]]:
        """The labels of each image whose scores reach their thresholds, or the user's threshold, in order of scores."""
        limits = self._thresholds or (DEFAULT_THRESHOLD,) * len(label_names)
        if options.threshold is not None:
            limits = (options.threshold,) * len(label_names)
        return [{"predictions": over_thresholds(logits, label_names, limits)} for logits in outputs]

    def facts(self) -> dict[str, Any]:
        """The thresholds."""
        return {"thresholds": list(self._thresholds or ())}

    def describe(self, row: Mapping[str, Any]) -> str:
        """A line per label."""
        return super().describe(row) if row["predictions"] else f"{row['image']}\n  no label"

    def csv_columns(self, topk: int) -> list[str]:
        """`labels`, which training takes as it is, and `predictions` as JSON."""
        return ["labels", "predictions"]

    def csv_cells(self, row: Mapping[str, Any]) -> list[Any]:
        """The names of the labels, and all predictions as JSON."""
        found = row["predictions"]
        return [SEPARATOR.join(one["label"] for one in found), json.dumps(found, ensure_ascii=False)]

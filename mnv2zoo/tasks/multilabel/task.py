"""The multi-label classification task. It can be imported without PyTorch, for inference."""

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
NAMED = 12  # most labels whose counts are listed one by one
SEPARATOR = "|"  # separates the labels of an image in CSV output


class Multilabel(Classify):
    """Any number of labels per image, from a CSV file, class folders or COCO annotations.

    Each label has its own threshold. Training chooses it for the highest F1 on the validation images and writes it to
    `config.json`. The predicted labels are those whose scores reach their thresholds.
    """

    metric = "map"
    lower_is_better = ("loss",)
    metric_names = METRICS
    defaults = {"loss": "bce", "smoothing": 0.0}  # noqa: RUF012  # a ClassVar in the base class
    ignores = ("teacher", "calibrate", *OF_HEADS, *OF_DETECTORS, *OF_SEGMENTERS)
    losses = ("bce", "focal", "asymmetric")
    top_score = Task.top_score  # an image without labels is a valid prediction, so it is not rejected

    def __init__(self) -> None:
        self._thresholds: tuple[float, ...] | None = None

    # Data.

    def find_data(self, place: str | Path, layout: Layout) -> Data:
        """Finds images with their labels."""
        from mnv2zoo.tasks.multilabel import data

        return data.find(place, layout)

    def found(self, data: Data) -> str:
        """The form of the data, the number of images, and the number of images per label."""
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
        return WithTargets(of_images.transform, of_images.reader)

    def align(self, samples: Sequence[AnySample], data: Data, label_names: Sequence[str]) -> list[AnySample]:
        """Renumbers the labels of the data to match the model.

        Raises:
            DataError: If the model lacks a label.
        """
        from mnv2zoo.tasks.multilabel.data import align

        return align(samples, data.class_names, label_names)

    # Network.

    def build_model(self, target: Description, source: Description | Path | None, recipe: Recipe, data: Data) -> Start:
        """Builds the network as for classification.

        Raises:
            DataError: If none of the validation images has a label.
        """
        from mnv2zoo.tasks.multilabel.data import check_validation

        check_validation(data.splits)
        return super().build_model(target, source, recipe, data)

    def of_model(self, name: str) -> Task:
        """A copy with the thresholds of a trained model, or 0.5 for each label if its `config.json` has none."""
        from mnv2zoo.models import names

        described, own = names.describe(name), copy.copy(self)
        own._thresholds = tuple(described.thresholds) or (DEFAULT_THRESHOLD,) * len(described.label_names)
        return own

    # Training.

    def make_loss(
        self, recipe: Recipe, num_classes: int, weights: Sequence[float] | None
    ) -> tuple[Mixup | None, nn.Module]:
        """Creates mixup or CutMix, which may be None, and the loss."""
        from mnv2zoo.tasks.multilabel import loss

        self._thresholds = None  # reset the thresholds of an earlier run
        return loss.make_mixup(recipe, num_classes), loss.make_criterion(recipe, weights)

    # Metrics.

    def metrics(self, label_names: Sequence[str]) -> LabelMetric:  # type: ignore[override]
        """Average precision, and F1 at the model's thresholds, or at the best ones if it has none yet."""
        from mnv2zoo.tasks.multilabel.metrics import LabelMetric

        return LabelMetric(label_names, lambda: self._thresholds)

    def calibrate(self, metric: LabelMetric) -> None:  # type: ignore[override]
        """Chooses a threshold per label."""
        self._thresholds = metric.thresholds()

    def measured_rows(  # type: ignore[override]
        self, metric: LabelMetric, images: Sequence[str], label_names: Sequence[str]
    ) -> tuple[Iterator[dict[str, Any]], dict[str, list[str]]]:
        """The annotated labels, the predicted labels and the scores of all labels of each image."""
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
        """Writes training curves, metrics per label and precision-recall curves."""
        from mnv2zoo.tasks.multilabel import report

        return report.write(folder, history, scores, *metric.pooled(), title)

    # Predictions.

    def rows(
        self, outputs: Any, images: Sequence[Seen], label_names: Sequence[str], options: Options
    ) -> list[dict[str, Any]]:
        """The labels whose scores reach their thresholds, or the user's threshold, the highest score first."""
        limits = self._thresholds or (DEFAULT_THRESHOLD,) * len(label_names)
        if options.threshold is not None:
            limits = (options.threshold,) * len(label_names)
        return [{"predictions": over_thresholds(logits, label_names, limits)} for logits in outputs]

    def facts(self) -> dict[str, Any]:
        """The thresholds."""
        return {"thresholds": list(self._thresholds or ())}

    def describe(self, row: Mapping[str, Any]) -> str:
        """Formats one line per label."""
        return super().describe(row) if row["predictions"] else f"{row['image']}\n  no label"

    def csv_columns(self, topk: int) -> list[str]:
        """`labels`, which training accepts, and `predictions` as JSON."""
        return ["labels", "predictions"]

    def csv_cells(self, row: Mapping[str, Any]) -> list[Any]:
        """The names of the labels, and all predictions as JSON."""
        found = row["predictions"]
        return [SEPARATOR.join(one["label"] for one in found), json.dumps(found, ensure_ascii=False)]

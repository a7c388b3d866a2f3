"""The classification task. It can be imported without PyTorch, for inference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mnv2zoo.data.labels import classes_of
from mnv2zoo.errors import RecipeError
from mnv2zoo.tasks.base import Options, Seen, Task
from mnv2zoo.tasks.recipe import OF_DETECTORS, OF_HEADS, OF_MULTILABEL, OF_SEGMENTERS, Recipe

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure
    from PIL import Image
    from timm.data import Mixup
    from torch import Tensor, nn

    from mnv2zoo.data.datasets import AnySample, Data
    from mnv2zoo.models.pretrained import Network
    from mnv2zoo.tasks.classify.metrics import Accuracy, Mistake, Scores
    from mnv2zoo.tasks.initialization import Start

FIELDS = ("class", "label", "score")
# Fields of `metrics.Scores` with one number for all images.
METRICS = (
    *("loss", "top1", "top5", "calibration_error", "f1_macro", "f1_weighted", "precision_macro"),
    *("balanced_accuracy", "roc_auc", "average_precision"),
)


class Classify(Task):
    """Classification: one class per image, which is the name of its folder."""

    metric = "top1"
    lower_is_better: ClassVar[tuple[str, ...]] = ("loss", "calibration_error")
    metric_names: ClassVar[tuple[str, ...]] = METRICS
    ignores: ClassVar[tuple[str, ...]] = (*OF_MULTILABEL, *OF_HEADS, *OF_DETECTORS, *OF_SEGMENTERS)
    losses: ClassVar[tuple[str, ...]] = ("ce", "bce", "focal")

    def check(self, recipe: Recipe) -> None:
        """Rejects recipe values that the task does not use, and losses that do not suit its targets."""
        super().check(recipe)
        if recipe.loss not in self.losses:
            raise RecipeError(
                f"the task {self.name} does not support the loss {recipe.loss!r}",
                expected=" or ".join(self.losses),
                found=repr(recipe.loss),
                where="loss",
                fix=f"Pass --loss {self.losses[0]}, or another --task.",
            )

    def num_outputs(self, data: Data) -> int:
        """One output per class."""
        return len(data.class_names)

    def setup(self, recipe: Recipe, data: Data, start: Start, device: torch.device) -> None:
        """Prepares the loss, mixup and the teacher."""
        from mnv2zoo.tasks import augmentation, class_weights
        from mnv2zoo.tasks.classify.distillation import Teacher

        self._start = start
        self._calibrates = recipe.calibrate
        self._temperature: float | None = None
        counts = Counter(label for sample in data.splits.get("train", ()) for label in classes_of(sample.target))
        by_class = [counts[label] for label in range(len(data.class_names))]
        self._weights = class_weights.weights(recipe.class_weights, by_class, data.class_names)
        self._mixup, criterion = self.make_loss(recipe, len(data.class_names), self._weights)
        self._criterion = criterion.to(device)
        self.on_device = augmentation.for_device(recipe, start.preprocessing, device)
        self._teacher, self._teacher_weight = None, recipe.teacher_weight
        if recipe.teacher is not None:
            self._teacher = Teacher(recipe.teacher, data.class_names, recipe, start.preprocessing).to(device)

    def make_loss(
        self, recipe: Recipe, num_classes: int, weights: Sequence[float] | None
    ) -> tuple[Mixup | None, nn.Module]:
        """Creates mixup or CutMix, which may be None, and the loss."""
        from mnv2zoo.tasks.classify import loss

        return loss.make_mixup(recipe, num_classes), loss.make_criterion(recipe, weights)

    def fingerprints(self) -> dict[str, Any]:
        """The hash of the teacher, and the class weights if there are any."""
        teacher = None if self._teacher is None else self._teacher.fingerprint
        weights = {} if self._weights is None else {"class_weights": self._weights}
        return {"teacher": teacher, **weights}

    def training_step(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of images (N, 3, H, W) and classes (N,), plus the distillation loss if there is a teacher."""
        if self._mixup is not None:
            inputs, targets = self._mixup(inputs, targets)
        logits = model(inputs)
        loss: Tensor = self._criterion(logits, targets)
        if self._teacher is not None:
            loss = loss.lerp(self._teacher(inputs, logits), self._teacher_weight)
        return loss

    def metrics(self, label_names: Sequence[str]) -> Accuracy:
        """Top-1, top-5, the confusion matrix and the calibration error."""
        from mnv2zoo.tasks.classify.metrics import Accuracy

        return Accuracy(label_names)

    def calibrate(self, metric: Accuracy) -> float | None:
        """Fits the temperature, if the recipe has `calibrate` on and the validation images suffice."""
        from mnv2zoo.tasks.classify import temperature

        self._temperature = temperature.fit(*metric.outputs()) if self._calibrates else None
        return self._temperature

    def align(self, samples: Sequence[AnySample], data: Data, label_names: Sequence[str]) -> list[AnySample]:
        """Renumbers the classes of the data to match the model.

        Raises:
            DataError: If a folder name is not a class of the model.
        """
        from mnv2zoo.data.labels import match_classes

        present = sorted({sample.target for sample in samples})
        found = match_classes([data.class_names[label] for label in present], label_names)
        classes = dict(zip(present, found, strict=True))
        return [replace(sample, target=classes[sample.target]) for sample in samples]

    def measured_rows(
        self, metric: Accuracy, images: Sequence[str], label_names: Sequence[str]
    ) -> tuple[Iterator[dict[str, Any]], dict[str, list[str]]]:
        """The true class, the predicted class and the scores of all classes of each image."""
        rows = (
            {
                "image": image,
                "truth": label_names[truth],
                "predicted": label_names[predicted],
                "correct": truth == predicted,
                "scores": [round(score, 6) for score in scores],
            }
            for image, (truth, predicted, scores) in zip(images, metric.by_image(), strict=True)
        )
        return rows, {"scores": list(label_names)}

    def model_files(self, model: Any, preprocessing: Mapping[str, Any], label_names: Sequence[str]) -> dict[str, bytes]:
        """The model's tensors, and a `config.json` with its temperature."""
        from mnv2zoo.model_dir import files

        recorded: dict[str, Any] = {} if self._temperature is None else {"temperature": self._temperature}
        return files.model_files(model, preprocessing, label_names, **recorded)

    def model_card(
        self, model: str, architecture: str, origin: str, run: Mapping[str, Any], scores: Mapping[str, Scores]
    ) -> str:
        """The model card of a classifier."""
        from mnv2zoo.model_dir import cards

        return cards.run_card(model, architecture, origin, run, scores)

    def write_report(
        self,
        folder: Path,
        history: Sequence[Mapping[str, Any]],
        metric: Accuracy,
        scores: Scores,
        samples: Sequence[AnySample],
        title: str,
    ) -> dict[str, Figure]:
        """Writes curves, the confusion matrix, metrics per class and the most confident mistakes.

        With the extra `explain`, adds heat maps of these mistakes and probable label errors.
        """
        from mnv2zoo.data import decode
        from mnv2zoo.tasks.classify import explanation, report

        mistakes = metric.worst_mistakes()

        def read(index: int) -> Image.Image:
            return decode.picture(samples[index].read())

        heat: Sequence[Image.Image] = ()
        doubtful: Sequence[Mistake] = ()
        if explanation.installed():
            heat = explanation.of_mistakes(
                self._start.model, self._start.test_preprocessing, mistakes, lambda index: samples[index].read()
            )
            doubtful = metric.doubtful_labels()
        return report.write(folder, history, scores, mistakes, read, title, heat, doubtful)

    def explain(self, network: Network, images: Sequence[Any], rows: Sequence[Mapping[str, Any]]) -> list[Image.Image]:
        """Draws Grad-CAM heat maps of the first class in each row, or of the class with the highest logit."""
        from mnv2zoo.tasks.classify import explanation

        classes = [row["predictions"][0]["class"] if row["predictions"] else None for row in rows]
        return explanation.explain(network.model, network.transform, network.config, images, classes)

    def rows(
        self, outputs: Any, images: Sequence[Seen], label_names: Sequence[str], options: Options
    ) -> list[dict[str, Any]]:
        """The most probable classes of each image. Scores are the softmax of the logits (N, C)."""
        scores = np.exp((outputs - outputs.max(1, keepdims=True)) / options.temperature)
        scores /= scores.sum(1, keepdims=True)
        best = np.argsort(-outputs, axis=1, kind="stable")[:, : options.topk]
        chosen = np.take_along_axis(scores, best, 1)
        return [
            {
                "predictions": [
                    # float32 has no more significant digits.
                    {"class": index, "label": label_names[index], "score": round(score, 6)}
                    for index, score in zip(indices, values, strict=True)
                ]
            }
            for indices, values in zip(best.tolist(), chosen.tolist(), strict=True)
        ]

    def top_score(self, row: Mapping[str, Any]) -> float:
        """The score of the most probable class."""
        return row["predictions"][0]["score"]

    def describe(self, row: Mapping[str, Any]) -> str:
        """Formats one line per class."""
        lines = [f"  {p['score']:.4f}  {p['class']:>4}  {p['label']}" for p in row["predictions"]]
        return "\n".join([row["image"] + ("  (rejected)" if row.get("rejected") else ""), *lines])

    def csv_columns(self, topk: int) -> list[str]:
        """`class_1`, `label_1`, `score_1` and so on up to `topk`."""
        return [f"{name}_{rank + 1}" for rank in range(topk) for name in FIELDS]

    def csv_cells(self, row: Mapping[str, Any]) -> list[Any]:
        """The predictions side by side."""
        return [prediction[name] for prediction in row["predictions"] for name in FIELDS]

    def parquet_fields(self) -> list[tuple[str, Any]]:
        """A column `predictions`, a list of structures."""
        import pyarrow as pa

        prediction = pa.struct([("class", pa.int64()), ("label", pa.string()), ("score", pa.float32())])
        return [("predictions", pa.list_(prediction))]

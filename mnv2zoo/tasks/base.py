"""The interface of tasks, which training, evaluation and inference use.

Importing this module does not import PyTorch, because inference does not need it.
"""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mnv2zoo.errors import RecipeError, TaskError, nearest, unknown
from mnv2zoo.tasks.recipe import (
    OF_CLASSES,
    OF_CLASSIFIERS,
    OF_DETECTORS,
    OF_HEADS,
    OF_MULTILABEL,
    OF_SEGMENTERS,
)

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure
    from PIL import Image
    from torch import Tensor, nn

    from mnv2zoo.data.copies import Reader
    from mnv2zoo.data.datasets import AnySample, Data
    from mnv2zoo.data.layout import Layout
    from mnv2zoo.models.names import Description
    from mnv2zoo.models.pretrained import Network
    from mnv2zoo.tasks.augmentation import Normalized
    from mnv2zoo.tasks.initialization import Start
    from mnv2zoo.tasks.recipe import Recipe

DEFAULT = "classify"
BUILT_IN = {
    "classify": "mnv2zoo.tasks.classify.task:Classify",
    "multilabel": "mnv2zoo.tasks.multilabel.task:Multilabel",
    "detect": "mnv2zoo.tasks.detect.task:Detect",
    "segment": "mnv2zoo.tasks.segment.task:Segment",
}


@dataclass(frozen=True)
class Scores:
    """The metrics of a model on a set of images. Each task has a subclass with a field for each metric.

    Attributes:
        images: Number of images.
        measured: A description of the measured images, such as `37 val images that the run held out`. May be empty.
    """

    images: int
    measured: str = field(default="", kw_only=True)

    def metrics(self) -> dict[str, float]:
        """The metrics to record in the training history, by name. By default all numeric fields."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "images"}
        return {name: value for name, value in values.items() if isinstance(value, int | float)}

    def to_json(self) -> dict[str, Any]:
        """The content of `results.json` and of `--json` output, as `json.dumps` takes it."""
        measured = {"measured": self.measured} if self.measured else {}
        return measured | {"images": self.images} | {name: round(value, 6) for name, value in self.metrics().items()}

    def epoch_line(self) -> list[str]:
        """The parts of the line that training prints after each epoch."""
        return [f"val {name} {value:.4g}" for name, value in self.metrics().items()]

    def summary(self) -> str:
        """The metrics in one line, which training prints at the end."""
        return ", ".join(f"{name} {value:.4g}" for name, value in self.metrics().items()) + f", of {self.images} images"

    def table(self) -> tuple[list[str], list[list[str]]]:
        """The titles and rows of the table that `mnv2zoo evaluate` prints above its last line. Empty by default.

        A title that starts with a space marks a right-aligned column of numbers.
        """
        return [], []

    def last_line(self) -> str:
        """The last line that `mnv2zoo evaluate` prints."""
        values = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics().items())
        return f"{self.images} images: {values}"


@dataclass(frozen=True)
class Seen:
    """An image of a prediction.

    Attributes:
        name: Its name in the row.
        size: Width and height of the upright image in pixels; None if the preprocessing does not record them.
        input_size: Width and height of the model's input.
    """

    name: str
    size: tuple[int, int] | None = None
    input_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Options:
    """The user's options for prediction rows.

    Attributes:
        topk: Number of classes per image.
        threshold: Minimum score to report; None for the task's default.
        folder: Folder for files that accompany the rows, such as masks; None for no files.
        root: The folder that contains all images.
        draws: Whether `draw` will be called for each row.
        temperature: Softmax temperature of a classifier.
    """

    topk: int = 5
    threshold: float | None = None
    folder: Path | None = None
    root: str = "."
    draws: bool = False
    temperature: float = 1.0

    def file_for(self, image: str, suffix: str) -> Path | None:
        """Returns the path of the file that accompanies an image, and creates its folder.

        Args:
            image: The image's name in its row.
            suffix: The file's suffix, such as `.png`.

        Returns:
            The file; None if there is no `folder`.
        """
        from mnv2zoo.data.discover import alongside  # imports Pillow, which `--help` does not need

        return None if self.folder is None else alongside(self.folder, image, suffix, self.root)


class Metric(ABC):
    """Accumulates the outputs of a model over a whole split.

    With several processes, each process receives the outputs of all processes, in the order of the images.

    Attributes:
        temperature: Softmax temperature of a classifier; None for no temperature. You can set it after adding outputs.
    """

    temperature: float | None = None

    @abstractmethod
    def update(self, outputs: Any, targets: Any) -> None:
        """Adds a batch.

        Args:
            outputs: The outputs of the model on the CPU, in single precision.
            targets: The targets on the CPU, as `collate` returned them.
        """

    @abstractmethod
    def compute(self) -> Scores:
        """Computes the metrics of all batches.

        Returns:
            The metrics.
        """


@dataclass(frozen=True)
class ImageTransform:
    """A transform of images that does not change targets.

    Attributes:
        transform: A function from an RGB image to a tensor (3, H, W).
        reader: Reads images at a reduced size; None to read them at full size.
    """

    transform: Callable[[Any], Any]
    reader: Reader | None = None

    def __call__(self, image: Any, target: Any) -> tuple[Any, Any]:
        """Transforms an image.

        Args:
            image: An RGB image.
            target: Its target.

        Returns:
            The tensor and the target.
        """
        return self.transform(image), target


class Task(ABC):
    """A task: its data, targets, model, head, loss, metrics, report and predictions.

    To create your own task, derive a class, implement the abstract methods, and override others as needed. By default,
    a task trains a zoo model with `num_outputs` outputs on images in class folders.

    Train it with `finetune(..., task=MyTask())` or `--task module:MyTask`. The trainer handles devices, processes,
    epochs, steps, the optimizer, checkpoints and the run folder. It calls the methods in the order in which they are
    defined here.

    Attributes:
        metric: Name of the metric in `Scores.metrics` that decides the best epoch, unless the recipe sets `monitor`.
        lower_is_better: Names of metrics for which lower values are better.
        metric_names: Names of all metrics, to check `monitor` before training; empty if they are unknown.
        defaults: Default values of recipe fields that differ for this task.
        ignores: Recipe fields that this task does not use. Setting one of them is an error.
        collate: Combines a list of (input, target) into a batch; None for PyTorch's default. It must be a static
            function, because worker processes get a copy.
        gather_objects: Whether processes exchange outputs and targets as Python objects. Set it if their sizes differ
            between images, as for detections. Both are then lists with one item per image.
        writes_files: Whether `rows` writes files, such as masks.
        on_device: What `augment` does with 8-bit images, from `augmentation.for_device`; None if `transforms` does
            everything. Set it in `setup`.
    """

    metric: ClassVar[str] = "loss"
    lower_is_better: ClassVar[tuple[str, ...]] = ("loss",)
    metric_names: ClassVar[tuple[str, ...]] = ()
    defaults: ClassVar[Mapping[str, Any]] = {}
    ignores: ClassVar[tuple[str, ...]] = (
        *(*OF_CLASSIFIERS, *OF_CLASSES, *OF_MULTILABEL),
        *(*OF_HEADS, *OF_DETECTORS, *OF_SEGMENTERS),
    )
    collate: ClassVar[Any] = None
    gather_objects: ClassVar[bool] = False
    writes_files: ClassVar[bool] = False
    on_device: Normalized | None = None

    @property
    def name(self) -> str:
        """The name of the task in the records of a run: a built-in name, or `module:Class`."""
        path = f"{type(self).__module__}:{type(self).__qualname__}"
        return next((name for name, place in BUILT_IN.items() if place == path), path)

    @property
    def loads_from_zoo(self) -> bool:
        """Whether trained models load like zoo models, whose preprocessing does not need PyTorch."""
        return type(self).load_model is Task.load_model

    @property
    def draws(self) -> bool:
        """Whether the task can draw its predictions into images."""
        return type(self).draw is not Task.draw

    @property
    def explains(self) -> bool:
        """Whether the task can explain its predictions with heat maps."""
        return type(self).explain is not Task.explain

    @property
    def rejects(self) -> bool:
        """Whether predictions have a top score, by which they can be rejected."""
        return type(self).top_score is not Task.top_score

    @property
    def keeps_scores(self) -> bool:
        """Whether the task can return the scores of each measured image."""
        return type(self).measured_rows is not Task.measured_rows

    # Before anything is read or written.

    def check(self, recipe: Recipe) -> None:
        """Rejects recipe values that this task does not use.

        Args:
            recipe: The recipe.

        Raises:
            RecipeError: If such a value is set.
        """
        if recipe.monitor is not None and self.metric_names and recipe.monitor not in self.metric_names:
            raise RecipeError(
                unknown(f"metric of the task {self.name}", recipe.monitor, self.metric_names),
                expected=nearest(recipe.monitor, self.metric_names, 3),
                found=repr(recipe.monitor),
                where="monitor",
                fix="Correct --monitor.",
            )
        for f in dataclasses.fields(recipe):
            default = self.defaults.get(f.name, f.default)
            if f.name in self.ignores and getattr(recipe, f.name) != default:
                raise RecipeError(
                    f"the task {self.name} does not use {f.name}",
                    expected=f"the default value {default!r}",
                    found=repr(getattr(recipe, f.name)),
                    where=f.name,
                    fix=f"Leave out --{f.name.replace('_', '-')}.",
                )

    def find_model(self, name: str, recipe: Recipe) -> tuple[Description, Description | Path | None]:
        """Finds the model and its initial weights, without loading them.

        Args:
            name: A model name from the zoo, or a folder or `hf-hub:` repository with `config.json`.
            recipe: The recipe, with the initial weights in `init`.

        Returns:
            The model and its weights, as `initialization.find` returns them.

        Raises:
            UnknownModelError: If the model or the weights are unknown.
        """
        from mnv2zoo.tasks import initialization

        return initialization.find(name, recipe, rgb_only="in_chans" in self.ignores)

    # Data: samples, batches, targets.

    def find_data(self, place: str | Path, layout: Layout) -> Data:
        """Finds the images and their targets.

        Args:
            place: The user's data.
            layout: The layout options of the recipe.

        Returns:
            Samples by split. The `target` of a sample can be any object that pickles and has a stable `str`. The split
            `val` may be missing. `class_names` is empty if targets are not classes.

        Raises:
            DataError: If there is no data in a supported layout.
        """
        from mnv2zoo.data import datasets

        return datasets.find(place, layout=layout)

    def transforms(
        self, preprocessing: Mapping[str, Any], recipe: Recipe | None = None
    ) -> Callable[[Any, Any], tuple[Any, Any]]:
        """Creates the transform of an RGB image and its target. `collate` combines its results.

        Args:
            preprocessing: timm's `input_size`, `mean`, `std`, `interpolation`, `crop_pct` and `crop_mode`.
            recipe: The recipe with the augmentation; None for evaluation.

        Returns:
            A function of image and target. It must be picklable. Its attribute `reader`, if it has one, reads images at
            a reduced size, which is faster for large photos. Without one, a task gets images at full size, because it
            may need every pixel. If your transform crops and resizes like the default one, keep the `reader` of that.
        """
        from mnv2zoo.data.copies import Fitted
        from mnv2zoo.data.transforms import Evaluation, image_transform
        from mnv2zoo.tasks import augmentation

        if recipe is None:
            transform, fitted = image_transform(preprocessing), Fitted(preprocessing)
            if preprocessing["input_size"][0] != 3:
                return ImageTransform(transform)
            return ImageTransform(Evaluation(transform, fitted), fitted)
        transform = augmentation.augmentation(recipe, self.on_device, **preprocessing)
        return ImageTransform(transform, augmentation.reader(recipe, preprocessing))

    def found(self, data: Data) -> str:
        """Describes the data in one line, which training prints first.

        Args:
            data: The data, checked and split.
        """
        counts = ", ".join(f"{len(samples)} {split}" for split, samples in data.splits.items())
        classes = f"{len(data.class_names)} classes; " if data.class_names else ""
        return f"{classes}images: {counts}"

    # Network and head.

    @abstractmethod
    def num_outputs(self, data: Data) -> int:
        """The number of outputs of the model.

        Args:
            data: The images.

        Returns:
            The size of the last layer.
        """

    def build_model(self, target: Description, source: Description | Path | None, recipe: Recipe, data: Data) -> Start:
        """Builds the model and loads its initial weights.

        Args:
            target: The model, from `find_model`.
            source: Its weights, from `find_model`.
            recipe: The recipe.
            data: The images.

        Returns:
            The model in training mode, with its preprocessing.

        Raises:
            WeightsError: If weights cannot be found, downloaded or verified.
            ConversionError: If the weights do not match the model.
            RecipeError: If a recipe value does not suit the model.
        """
        from mnv2zoo.tasks import initialization

        return initialization.build(
            target, source, recipe, data.class_names, data.splits["train"], self.num_outputs(data)
        )

    def load_model(self, name: str, device: str | None = None) -> Network:
        """Loads a trained model for evaluation and prediction.

        Args:
            name: A model name from the zoo, or a folder or `hf-hub:` repository with `config.json`.
            device: The device. By default the accelerator if there is one.

        Returns:
            The model in evaluation mode, with its preprocessing.

        Raises:
            WeightsError: If its weights cannot be found, downloaded or verified.
            DeviceError: If the device cannot be used.
        """
        from mnv2zoo.models import pretrained

        return pretrained.load(name, device)

    def in_chans(self, name: str) -> int:
        """The number of input channels of a trained model, without loading it.

        Args:
            name: As for `load_model`.

        Returns:
            The number of channels; 3 for a model that is not loaded from the zoo.
        """
        from mnv2zoo.models import names

        return names.describe(name).in_chans if self.loads_from_zoo else 3

    def of_model(self, name: str) -> Task:
        """The task for evaluation and prediction with a trained model.

        Args:
            name: The model, as for `load_model`.

        Returns:
            The task itself, or a copy with the prediction settings from the model's `config.json`.

        Raises:
            UnknownModelError: If the model is unknown.
        """
        return self

    def freeze(self, model: Any, recipe: Recipe) -> list[nn.Module]:
        """Prepares the model for training: freezes the layers that the recipe does not train.

        Args:
            model: The model.
            recipe: The recipe.

        Returns:
            Modules that stay in evaluation mode, so that their batch norm statistics do not change.

        Raises:
            RecipeError: If the model has no such layer.
        """
        from mnv2zoo.tasks import initialization

        frozen = initialization.freeze(model, recipe.train)
        if recipe.keep_statistics:
            frozen += initialization.norms(model)
        if recipe.loss_before_act:
            initialization.skip_last_activation_in_training(model)
        return frozen

    def split_head(self, model: Any) -> tuple[nn.Module, nn.Module] | None:
        """Splits the model for `--train head`, so that features can be cached.

        Args:
            model: The model.

        Returns:
            The frozen part, from images to features, and the head, from features to outputs; None if features cannot
            be cached.
        """
        from mnv2zoo.tasks import head

        return head.split(model)

    def compiled_parts(self, model: Any) -> list[nn.Module]:
        """The parts of the model that the recipe's `compile` compiles separately. By default the whole model.

        Args:
            model: The model.
        """
        return [model]

    def backbone(self, model: Any) -> nn.Module | None:
        """The part of the model whose learning rate is scaled by the recipe's `backbone_lr`; None for no part.

        Args:
            model: The model.
        """
        return None

    # Training.

    def setup(self, recipe: Recipe, data: Data, start: Start, device: torch.device) -> None:  # noqa: B027
        """Prepares what `training_step` needs, such as a loss with class weights.

        Args:
            recipe: The recipe.
            data: The images.
            start: The model and its preprocessing.
            device: The device of the model.
        """

    def fingerprints(self) -> dict[str, Any]:
        """Other facts that affect the result, such as a hash of the teacher's weights. A resumed run compares them."""
        return {}

    def augment(self, inputs: Any, targets: Any) -> tuple[Any, Any]:
        """Augments a batch on the device. By default, `on_device` does so with 8-bit images.

        Images of other types are unchanged: a task with its own `transforms` may have done everything.

        Args:
            inputs: The batch's inputs on the device. For random choices, use the CPU generators, which are seeded for
                each step.
            targets: The batch's targets.

        Returns:
            Inputs and targets.
        """
        import torch

        if self.on_device is not None and inputs.dtype == torch.uint8:
            inputs = self.on_device(inputs)
        return inputs, targets

    def shrink(self, inputs: Any, targets: Any, side: int, full: int) -> tuple[Any, Any]:
        """Resizes a batch for an epoch on smaller images.

        Args:
            inputs: The batch's inputs at full size. By default, images (N, C, H, W) are resized in proportion, to sides
                that are multiples of 8.
            targets: The batch's targets.
            side: The shorter side of images in this epoch, in pixels.
            full: Their shorter side at the end of training.

        Returns:
            Inputs and targets.
        """
        import torch

        if isinstance(inputs, torch.Tensor) and inputs.ndim == 4:
            size = [max(round(own * side / full / 8) * 8, 8) for own in inputs.shape[-2:]]
            inputs = torch.nn.functional.interpolate(inputs, size, mode="bilinear", antialias=True)
        return inputs, targets

    @abstractmethod
    def training_step(self, model: nn.Module, inputs: Any, targets: Any) -> Tensor:
        """Computes the loss of a batch. If the model computes its own losses, return their sum.

        Args:
            model: The model in training mode.
            inputs: The batch's inputs, such as images (N, 3, H, W).
            targets: The batch's targets.

        Returns:
            The loss, a scalar.
        """

    # Metrics.

    def condense(self, outputs: Any, targets: Any) -> tuple[Any, Any]:
        """Reduces a batch to the values that the metric needs, before processes exchange it.

        Args:
            outputs: The outputs of the model, in single precision.
            targets: The targets, as `collate` returned them.

        Returns:
            The arguments of `Metric.update`. With several processes, they must be tensors whose first axis is the
            image.
        """
        return outputs, targets

    @abstractmethod
    def metrics(self, label_names: Sequence[str]) -> Metric:
        """Creates the metric of a split.

        Args:
            label_names: Names of the model's outputs.

        Returns:
            An empty metric.
        """

    def calibrate(self, metric: Any) -> float | None:
        """Fits parameters of predictions, such as a temperature or a threshold per label.

        Called once after training, when all metrics have their outputs and before they are computed. Not called if
        there are no validation images. `model_files` then records the parameters.

        Args:
            metric: The metric of the validation images, with all outputs of the saved weights.

        Returns:
            The temperature to set on the metrics; None for no temperature.
        """
        return None

    def is_better(self, name: str, value: float, than: float) -> bool:
        """Compares two values of a metric.

        Args:
            name: The metric.
            value: One value.
            than: The other.

        Returns:
            Whether `value` is better than `than`.
        """
        return value < than if name in self.lower_is_better else value > than

    def measured(self, name: str, scores: Scores) -> float:
        """Returns the metric that decides the best epoch.

        Args:
            name: The metric: the recipe's `monitor`, or the task's `metric`.
            scores: The scores of the validation images.

        Returns:
            Its value.

        Raises:
            TaskError: If the scores lack the metric.
        """
        values = scores.metrics()
        if name not in values:
            raise TaskError(
                f"the scores of the task {self.name} lack the metric {name!r} that decides the best epoch",
                expected=repr(name),
                found=", ".join(values) or "no metrics",
                fix="Add it to the scores, set the task's attribute `metric`, or pass another --monitor.",
            )
        return values[name]

    def align(self, samples: Sequence[AnySample], data: Data, label_names: Sequence[str]) -> list[AnySample]:
        """Converts the targets of other data to match a trained model, for example by renumbering the classes.

        Args:
            samples: Samples of the data.
            data: The data.
            label_names: Names of the model's outputs.

        Returns:
            The samples with the converted targets.
        """
        return list(samples)

    def measured_rows(
        self, metric: Any, images: Sequence[str], label_names: Sequence[str]
    ) -> tuple[Iterable[Mapping[str, Any]], Mapping[str, list[str]]]:
        """Returns the scores of each measured image, for `evaluate --output`.

        Args:
            metric: The metric, with all outputs.
            images: Names of the images, in the order of the outputs.
            label_names: Names of the model's outputs.

        Returns:
            Rows and names, as `evaluation.predictions.write` takes them.
        """
        raise NotImplementedError  # `evaluate` checks `keeps_scores` first

    # The run folder.

    def model_files(self, model: Any, preprocessing: Mapping[str, Any], label_names: Sequence[str]) -> dict[str, bytes]:
        """Serializes the trained model.

        Args:
            model: The model.
            preprocessing: Its preprocessing, with timm's names.
            label_names: Names of its outputs; empty if they have no names.

        Returns:
            The content of the model files in the run folder, by file name.
        """
        from mnv2zoo.model_dir import files

        return files.model_files(model, preprocessing, label_names)

    def model_card(
        self, model: str, architecture: str, origin: str, run: Mapping[str, Any], scores: Mapping[str, Any]
    ) -> str:
        """Writes the model card.

        Args:
            model: The model's name.
            architecture: Its architecture.
            origin: Its initial weights, as text.
            run: The content of `recipe.json`.
            scores: Scores by split.

        Returns:
            Markdown.
        """
        from mnv2zoo.tasks import pages

        return pages.model_card(self.name, model, architecture, origin, run, scores)

    def write_report(
        self,
        folder: Path,
        history: Sequence[Mapping[str, Any]],
        metric: Any,
        scores: Any,
        samples: Sequence[AnySample],
        title: str,
    ) -> dict[str, Figure]:
        """Writes the report on a split: a page `README.md` and its figures.

        Args:
            folder: The output folder.
            history: One row per epoch.
            metric: The metric of the split, with all outputs.
            scores: The scores that the metric computed.
            samples: The images, in the order of the outputs.
            title: The heading of the page.

        Returns:
            Figures for TensorBoard, by name.
        """
        from mnv2zoo.tasks import pages

        pages.write_report(folder, history, scores, title)
        return {}

    # Predictions. These run without PyTorch.

    @abstractmethod
    def rows(
        self, outputs: Any, images: Sequence[Seen], label_names: Sequence[str], options: Options
    ) -> list[dict[str, Any]]:
        """Converts the outputs of a batch to rows that `json.dumps` accepts.

        Args:
            outputs: The outputs as NumPy arrays, whose first axis is the image.
            images: The images.
            label_names: Names of the outputs.
            options: The user's options.

        Returns:
            One dict per image. In the final row, `image` and `model` precede its keys. Keys that start with an
            underscore are only passed to `draw`.
        """

    def top_score(self, row: Mapping[str, Any]) -> float:
        """The score by which `reject_below` rejects a row.

        Args:
            row: The row.

        Returns:
            The score, from 0 to 1.
        """
        raise NotImplementedError  # `predict` checks `rejects` first

    def draw(self, image: Image.Image, row: Mapping[str, Any], label_names: Sequence[str]) -> Image.Image:
        """Draws a prediction into its image.

        Args:
            image: The upright RGB image at full size.
            row: The row, including keys that start with an underscore.
            label_names: Names of the outputs.

        Returns:
            The new image.
        """
        raise NotImplementedError  # `predict` checks `draws` first

    def explain(self, network: Network, images: Sequence[Any], rows: Sequence[Mapping[str, Any]]) -> list[Image.Image]:
        """Draws heat maps that explain predictions.

        Args:
            network: The model, as `load_model` returns it.
            images: The images at full size, as `decode.read` returns them.
            rows: Their rows.

        Returns:
            One heat map per image.
        """
        raise NotImplementedError  # `predict` checks `explains` first

    def facts(self) -> dict[str, Any]:
        """Other facts that affect predictions, as JSON values. `predict` only resumes if they are unchanged."""
        return {}

    def describe(self, row: Mapping[str, Any]) -> str:
        """Formats a row as text.

        Args:
            row: The row.

        Returns:
            Lines of text.
        """
        own = {name: value for name, value in row.items() if name not in ("image", "model")}
        return "\n".join([str(row["image"]), *(f"  {name}: {json.dumps(value)}" for name, value in own.items())])

    def csv_columns(self, topk: int) -> list[str] | None:
        """The columns of a CSV file after `image` and `model`.

        Args:
            topk: The number of predictions per row.

        Returns:
            Their names; None to use the keys of the first row.
        """
        return None

    def csv_cells(self, row: Mapping[str, Any]) -> list[Any]:
        """The cells of a row in a CSV file after `image` and `model`.

        Args:
            row: The row.

        Returns:
            One value per column. If there are fewer, the last columns are empty.
        """
        own = (value for name, value in row.items() if name not in ("image", "model"))
        return [json.dumps(value) if isinstance(value, list | dict) else value for value in own]

    def coco_results(self, row: Mapping[str, Any], number: int) -> list[dict[str, Any]] | None:
        """The boxes of a row as COCO results (https://cocodataset.org/#format-results).

        Args:
            row: The row.
            number: The number of its image, from 1.

        Returns:
            One dict per box; None for a task without boxes.
        """
        return None

    def parquet_fields(self) -> list[tuple[str, Any]] | None:
        """The columns of a Parquet file after `image` and `model`.

        Returns:
            Names with pyarrow types; None to infer them from the rows, which Ray cannot do.
        """
        return None

"""The seam between training, evaluation and inference on one side and whatever is learned on the other.

Importing this module does not import PyTorch, which inference can do without.
"""

from __future__ import annotations

import dataclasses
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mnv2zoo.errors import RecipeError, TaskError, nearest
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
    """The metrics of a network on a set of images. A task derives its own class and adds a field for each metric.

    Attributes:
        images: Number of images.
        measured: Which images these are, in words such as `37 val images that the run held out`; empty where nobody
            had to choose.
    """

    images: int
    measured: str = field(default="", kw_only=True)

    def metrics(self) -> dict[str, float]:
        """The metrics that the history of a training records, by name; by default every number."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "images"}
        return {name: value for name, value in values.items() if isinstance(value, int | float)}

    def to_json(self) -> dict[str, Any]:
        """The content of `results.json` and of the command line's `--json`, as `json.dumps` takes it."""
        measured = {"measured": self.measured} if self.measured else {}
        return measured | {"images": self.images} | {name: round(value, 6) for name, value in self.metrics().items()}

    def epoch_line(self) -> list[str]:
        """The parts of the line that training prints after each epoch."""
        return [f"val {name} {value:.4g}" for name, value in self.metrics().items()]

    def summary(self) -> str:
        """The metrics in one line, as training prints them at its end."""
        return ", ".join(f"{name} {value:.4g}" for name, value in self.metrics().items()) + f", of {self.images} images"

    def table(self) -> tuple[list[str], list[list[str]]]:
        """What `mnv2zoo evaluate` prints above its last line: titles and rows; none by default.

        A title that starts with a space is of a column of numbers.
        """
        return [], []

    def last_line(self) -> str:
        """The last line that `mnv2zoo evaluate` prints."""
        values = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics().items())
        return f"{self.images} images: {values}"


@dataclass(frozen=True)
class Seen:
    """An image that was predicted.

    Attributes:
        name: Its name in the row.
        size: Its width and height in pixels, upright; None where its preprocessing does not keep them.
        input_size: Width and height at which the network saw it.
    """

    name: str
    size: tuple[int, int] | None = None
    input_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Options:
    """What the user asks of rows.

    Attributes:
        topk: Number of classes per image.
        threshold: Lowest score that a row reports; None for the task's own.
        folder: Folder for files alongside the rows, such as masks; None if the user names none.
        root: The folder that holds all images.
        draws: Whether `draw` is called for each row.
        temperature: Number that divides a classifier's logits before the softmax.
    """

    topk: int = 5
    threshold: float | None = None
    folder: Path | None = None
    root: str = "."
    draws: bool = False
    temperature: float = 1.0

    def file_for(self, image: str, suffix: str) -> Path | None:
        """Names the file that goes with an image, and creates its folder.

        Args:
            image: The image's name in its row.
            suffix: The file's suffix, such as `.png`.

        Returns:
            The file; None if the user names no folder.
        """
        from mnv2zoo.data.discover import alongside  # with Pillow, which `--help` does without

        return None if self.folder is None else alongside(self.folder, image, suffix, self.root)


class Metric(ABC):
    """Accumulates the outputs of a network over a whole split.

    With several processes, each of them gets the outputs of all of them, in the order of the images.

    Attributes:
        temperature: Number that divides a classifier's logits before the softmax; None for none. It may be set after
            the outputs were added.
    """

    temperature: float | None = None

    @abstractmethod
    def update(self, outputs: Any, targets: Any) -> None:
        """Adds a batch.

        Args:
            outputs: The network's outputs on the CPU, in single precision.
            targets: The targets on the CPU, as `collate` gave them.
        """

    @abstractmethod
    def compute(self) -> Scores:
        """Computes the metrics of everything that was added.

        Returns:
            The metrics.
        """


@dataclass(frozen=True)
class ImageTransform:
    """A transform of images that leaves targets as they are.

    Attributes:
        transform: From an RGB image to a tensor (3, H, W).
        reader: How images for it are read; None for all of their pixels.
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
    """What a network learns: data and targets, network and head, loss, metrics, report and predictions.

    Derive a class, define the abstract methods, and replace any other where the default does not suit. The defaults
    train a network of the zoo that has `num_outputs` outputs, on images that `mnv2zoo.finetune` finds for classes.

    `finetune(..., task=MyTask())` and `--task module:MyTask` train it. The trainer knows devices, processes, epochs,
    steps, the optimizer, checkpoints and the run folder; it calls the methods in the order in which they stand here.

    Attributes:
        metric: Name of the metric, as `Scores.metrics` has it, that chooses the best epoch where the recipe names none.
        lower_is_better: Names of metrics whose lowest value is best; of all others it is the highest.
        metric_names: Names of all metrics, for `monitor` to be checked before training; empty if they are not known.
        defaults: Fields of the recipe whose default is another for this task.
        ignores: Fields of the recipe that this task does not use. A recipe that sets one is an error.
        collate: Makes a batch of a list of (input, target); None for PyTorch's default. A static function, since
            processes that read images get a copy.
        gather_objects: Whether processes exchange outputs and targets as Python objects. Set it where their sizes
            differ from image to image, as those of detections do. Both are then lists with an item per image.
        writes_files: Whether `rows` writes files alongside the rows.
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

    @property
    def name(self) -> str:
        """The name that a run records: that of a built-in task, or `module:Class`."""
        path = f"{type(self).__module__}:{type(self).__qualname__}"
        return next((name for name, place in BUILT_IN.items() if place == path), path)

    @property
    def loads_from_zoo(self) -> bool:
        """Whether trained networks are loaded as those of the zoo, whose preprocessing is known without PyTorch."""
        return type(self).load_model is Task.load_model

    @property
    def draws(self) -> bool:
        """Whether the task draws its rows into images."""
        return type(self).draw is not Task.draw

    @property
    def explains(self) -> bool:
        """Whether the task draws what its answers rest on."""
        return type(self).explain is not Task.explain

    @property
    def rejects(self) -> bool:
        """Whether the task's rows have a top score, by which they can be rejected."""
        return type(self).top_score is not Task.top_score

    @property
    def keeps_scores(self) -> bool:
        """Whether the task gives the outputs for each image that was measured."""
        return type(self).measured_rows is not Task.measured_rows

    # Before anything is read or written.

    def check(self, recipe: Recipe) -> None:
        """Refuses values of the recipe that this task would pass over in silence.

        Args:
            recipe: The recipe.

        Raises:
            RecipeError: If one is set.
        """
        if recipe.monitor is not None and self.metric_names and recipe.monitor not in self.metric_names:
            raise RecipeError(
                f"the task {self.name} has no metric {recipe.monitor!r}",
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
                    expected=f"the default, {default!r}",
                    found=repr(getattr(recipe, f.name)),
                    where=f.name,
                    fix=f"Leave out --{f.name.replace('_', '-')}.",
                )

    def find_model(self, name: str, recipe: Recipe) -> tuple[Description, Description | Path | None]:
        """Finds the network to train and the weights to start from, without loading either.

        Args:
            name: A name in the zoo, or a folder or `hf-hub:` repository with `config.json`.
            recipe: Gives the weights in `init`.

        Returns:
            The network, and its weights as `initialization.find` gives them.

        Raises:
            UnknownModelError: If there is no network or there are no weights of that name.
        """
        from mnv2zoo.tasks import initialization

        return initialization.find(name, recipe, rgb_only="in_chans" in self.ignores)

    # Data: samples, batches, targets.

    def find_data(self, place: str | Path, layout: Layout) -> Data:
        """Finds the images and their targets.

        Args:
            place: The data that the user names.
            layout: How its folders are laid out, where their names do not tell.

        Returns:
            Samples by split. A sample's `target` is anything that pickles and whose `str` is always the same; a split
            `val` may be missing. `class_names` are empty where targets are not classes.

        Raises:
            DataError: If there is no data of that kind.
        """
        from mnv2zoo.data import datasets

        return datasets.find(place, layout=layout)

    def transforms(
        self, preprocessing: Mapping[str, Any], recipe: Recipe | None = None
    ) -> Callable[[Any, Any], tuple[Any, Any]]:
        """Creates the transform from an RGB image and its target to what `collate` takes.

        Args:
            preprocessing: `input_size`, `mean`, `std`, `interpolation`, `crop_pct` and `crop_mode`, as timm names them.
            recipe: The augmentation; None for evaluation, where there is none.

        Returns:
            A function of image and target, which must pickle.
        """
        from mnv2zoo.data.copies import Fitted
        from mnv2zoo.data.transforms import Evaluation, image_transform
        from mnv2zoo.tasks.augmentation import augmentation, reader

        if recipe is None:
            transform, fitted = image_transform(preprocessing), Fitted(preprocessing)
            if preprocessing["input_size"][0] != 3:
                return ImageTransform(transform)
            return ImageTransform(Evaluation(transform, fitted), fitted)
        return ImageTransform(augmentation(recipe, **preprocessing), reader(recipe, preprocessing))

    def found(self, data: Data) -> str:
        """Describes the data in a line, which training prints first.

        Args:
            data: The data, checked and split.
        """
        counts = ", ".join(f"{len(samples)} {split}" for split, samples in data.splits.items())
        classes = f"{len(data.class_names)} classes; " if data.class_names else ""
        return f"{classes}images: {counts}"

    # Network and head.

    @abstractmethod
    def num_outputs(self, data: Data) -> int:
        """The number of outputs of the network.

        Args:
            data: The images.

        Returns:
            Size of the last layer.
        """

    def build_model(self, target: Description, source: Description | Path | None, recipe: Recipe, data: Data) -> Start:
        """Builds the network and loads the weights that training starts from.

        Args:
            target: The network, as `find_model` gives it.
            source: Its weights, as `find_model` gives them.
            recipe: The recipe.
            data: The images.

        Returns:
            The network in training mode, with its preprocessing.

        Raises:
            WeightsError: If weights cannot be found, fetched or verified.
            ConversionError: If they do not fit the network.
            RecipeError: If a value of the recipe does not suit the network.
        """
        from mnv2zoo.tasks import initialization

        return initialization.build(
            target, source, recipe, data.class_names, data.splits["train"], self.num_outputs(data)
        )

    def load_model(self, name: str, device: str | None = None) -> Network:
        """Loads a trained network for evaluation and prediction.

        Args:
            name: A name in the zoo, or a folder or `hf-hub:` repository with `config.json`.
            device: The device; by default the accelerator if there is one.

        Returns:
            The network in evaluation mode, with its preprocessing.

        Raises:
            WeightsError: If its weights cannot be found, fetched or verified.
            DeviceError: If the device cannot be used.
        """
        from mnv2zoo.models import pretrained

        return pretrained.load(name, device)

    def in_chans(self, name: str) -> int:
        """Finds the number of channels that a trained network takes, without loading it.

        Args:
            name: As for `load_model`.

        Returns:
            The number of channels; 3 for a network that the zoo does not load.
        """
        from mnv2zoo.models import names

        return names.describe(name).in_chans if self.loads_from_zoo else 3

    def of_model(self, name: str) -> Task:
        """The task as evaluation and prediction of a trained network use it.

        Args:
            name: The network, as for `load_model`.

        Returns:
            The task itself, or a copy with what the network's `config.json` records for predictions.

        Raises:
            UnknownModelError: If there is no network of that name.
        """
        return self

    def freeze(self, model: Any, recipe: Recipe) -> list[nn.Module]:
        """Prepares the network for training: freezes the part that the recipe does not train.

        Args:
            model: The network.
            recipe: The recipe.

        Returns:
            Modules that stay in evaluation mode, so that their statistics stay too.

        Raises:
            RecipeError: If the network has no such part.
        """
        from mnv2zoo.tasks import initialization

        frozen = initialization.freeze(model, recipe.train)
        if recipe.keep_statistics:
            frozen += initialization.norms(model)
        if recipe.loss_before_act:
            initialization.skip_last_activation_in_training(model)
        return frozen

    def split_head(self, model: Any) -> tuple[nn.Module, nn.Module] | None:
        """Splits the network for `--train head`, whose features are then computed once.

        Args:
            model: The network.

        Returns:
            The frozen part, from images to features, and the head, from features to outputs; None if features cannot
            be computed once.
        """
        from mnv2zoo.tasks import head

        return head.split(model)

    def compiled_parts(self, model: Any) -> list[nn.Module]:
        """The parts of the network that the recipe's `compile` compiles, each on its own; by default all of it.

        Args:
            model: The network.
        """
        return [model]

    def backbone(self, model: Any) -> nn.Module | None:
        """The part of the network whose learning rate the recipe's `backbone_lr` scales; None for no part.

        Args:
            model: The network.
        """
        return None

    # Training.

    def setup(self, recipe: Recipe, data: Data, start: Start, device: torch.device) -> None:  # noqa: B027
        """Prepares what `training_step` needs, such as a loss with weights of its own.

        Args:
            recipe: The recipe.
            data: The images.
            start: The network and its preprocessing.
            device: The device of the network.
        """

    def fingerprints(self) -> dict[str, Any]:
        """Whatever else decides the result, such as the hash of a teacher's weights; a resumed run compares them."""
        return {}

    def augment(self, inputs: Any, targets: Any) -> tuple[Any, Any]:
        """Augments a batch on the device; by default `transforms` has done all of it.

        Args:
            inputs: The batch's inputs on the device. Random choices follow from the generators of the CPU, which are
                seeded for each step.
            targets: The batch's targets.

        Returns:
            Inputs and targets.
        """
        return inputs, targets

    def shrink(self, inputs: Any, targets: Any, side: int, full: int) -> tuple[Any, Any]:
        """Shrinks a batch for an epoch on smaller images.

        Args:
            inputs: The batch's inputs at full size. By default images (N, C, H, W) are resized in proportion, to sides
                that are multiples of 8.
            targets: The batch's targets.
            side: The shorter side that images have in this epoch, in pixels.
            full: The shorter side that they have at the end of training.

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
        """Computes the loss of a batch. A network that computes its own losses returns their sum here.

        Args:
            model: The network in training mode.
            inputs: The batch's inputs, such as images (N, 3, H, W).
            targets: The batch's targets.

        Returns:
            The loss, a scalar.
        """

    # Metrics.

    def condense(self, outputs: Any, targets: Any) -> tuple[Any, Any]:
        """Reduces a batch to what the metric needs of it, before processes exchange it.

        Args:
            outputs: The network's outputs, in single precision.
            targets: The targets, as `collate` gave them.

        Returns:
            What `Metric.update` gets in their place. With several processes, tensors whose first axis is the image.
        """
        return outputs, targets

    @abstractmethod
    def metrics(self, label_names: Sequence[str]) -> Metric:
        """Creates the metric of a split.

        Args:
            label_names: Names of the network's outputs.

        Returns:
            An empty metric.
        """

    def calibrate(self, metric: Any) -> float | None:
        """Fits what predictions need beside the trained weights: a temperature, or a threshold per label.

        It is called once after training, when all metrics have their outputs and before they are computed; not at all
        where there are no validation images. `model_files` then records what was fitted.

        Args:
            metric: The metric of the validation images, with all outputs of the kept weights in it.

        Returns:
            The temperature, which the metrics get; None for none.
        """
        return None

    def is_better(self, name: str, value: float, than: float) -> bool:
        """Compares two values of a metric.

        Args:
            name: The metric.
            value: One value.
            than: The other.

        Returns:
            Whether the one is better.
        """
        return value < than if name in self.lower_is_better else value > than

    def measured(self, name: str, scores: Scores) -> float:
        """Takes the metric that chooses the best epoch.

        Args:
            name: The metric: the recipe's `monitor`, or the task's own.
            scores: The scores of the validation images.

        Returns:
            Its value.

        Raises:
            TaskError: If the scores lack it.
        """
        values = scores.metrics()
        if name not in values:
            raise TaskError(
                f"the scores of the task {self.name} lack the metric that chooses the best epoch",
                expected=repr(name),
                found=", ".join(values) or "no metrics",
                fix="Add it to the scores, set the task's attribute `metric`, or pass another --monitor.",
            )
        return values[name]

    def align(self, samples: Sequence[AnySample], data: Data, label_names: Sequence[str]) -> list[AnySample]:
        """Puts the targets of other data into a trained network's terms, such as the numbers of its classes.

        Args:
            samples: Samples of the data.
            data: The data.
            label_names: Names of the network's outputs.

        Returns:
            The samples with their targets.
        """
        return list(samples)

    def measured_rows(
        self, metric: Any, images: Sequence[str], label_names: Sequence[str]
    ) -> tuple[Iterable[Mapping[str, Any]], Mapping[str, list[str]]]:
        """Gives the outputs for each image that was measured, for `evaluate --output`.

        Args:
            metric: The metric, with all outputs in it.
            images: Names of the images, in the order of the outputs.
            label_names: Names of the network's outputs.

        Returns:
            Rows and names, as `evaluation.predictions.write` takes them.
        """
        raise NotImplementedError  # `evaluate` asks `keeps_scores` first

    # The run folder.

    def model_files(self, model: Any, preprocessing: Mapping[str, Any], label_names: Sequence[str]) -> dict[str, bytes]:
        """Serializes the trained network.

        Args:
            model: The network.
            preprocessing: Its preprocessing, as timm names it.
            label_names: Names of its outputs; none if they have none.

        Returns:
            The content of each file of the run folder, by name.
        """
        from mnv2zoo.model_dir import files

        return files.model_files(model, preprocessing, label_names)

    def model_card(
        self, model: str, architecture: str, origin: str, run: Mapping[str, Any], scores: Mapping[str, Any]
    ) -> str:
        """Writes the model card.

        Args:
            model: The network's name.
            architecture: Its architecture.
            origin: Where its weights started, in words.
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
        """Writes the report on a split: a page `README.md` and its pictures.

        Args:
            folder: The folder to write to.
            history: A row per epoch.
            metric: The metric of the split, as `metrics` made it, with all outputs in it.
            scores: The scores that it computed.
            samples: The images, in the order of the outputs.
            title: The page's heading.

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
        """Turns the outputs for a batch into rows that `json.dumps` takes.

        Args:
            outputs: The outputs as NumPy arrays, the first axis of which is the image.
            images: The images.
            label_names: Names of the outputs.
            options: What the user asks for.

        Returns:
            A dict per image. `image` and `model` come before its keys in the row. Keys that begin with an underscore
            are for `draw` alone.
        """

    def top_score(self, row: Mapping[str, Any]) -> float:
        """The score by which `reject_below` rejects a row.

        Args:
            row: The row.

        Returns:
            The score, from 0 to 1.
        """
        raise NotImplementedError  # `predict` asks `rejects` first

    def draw(self, image: Image.Image, row: Mapping[str, Any], label_names: Sequence[str]) -> Image.Image:
        """Draws a row into its image.

        Args:
            image: The upright RGB image in full size.
            row: The row, with the keys that begin with an underscore.
            label_names: Names of the outputs.

        Returns:
            The picture.
        """
        raise NotImplementedError  # `predict` asks `draws` first

    def explain(self, network: Network, images: Sequence[Any], rows: Sequence[Mapping[str, Any]]) -> list[Image.Image]:
        """Draws what the answers of rows rest on.

        Args:
            network: The network, as `load_model` gives it.
            images: The images in full size, as `decode.read` gives them.
            rows: Their rows.

        Returns:
            A picture per image.
        """
        raise NotImplementedError  # `predict` asks `explains` first

    def facts(self) -> dict[str, Any]:
        """What decides rows beside weights and options, as JSON can hold it; `predict` resumes with the same only."""
        return {}

    def describe(self, row: Mapping[str, Any]) -> str:
        """Describes a row for people.

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
            Their names; None for the keys of the first row.
        """
        return None

    def csv_cells(self, row: Mapping[str, Any]) -> list[Any]:
        """The cells of a row in a CSV file after `image` and `model`.

        Args:
            row: The row.

        Returns:
            A value per column; fewer leave the last columns empty.
        """
        own = (value for name, value in row.items() if name not in ("image", "model"))
        return [json.dumps(value) if isinstance(value, list | dict) else value for value in own]

    def coco_results(self, row: Mapping[str, Any], number: int) -> list[dict[str, Any]] | None:
        """The boxes of a row as COCO results, https://cocodataset.org/#format-results.

        Args:
            row: The row.
            number: The number of its image, from 1.

        Returns:
            A dict per box; None for a task without boxes.
        """
        return None

    def parquet_fields(self) -> list[tuple[str, Any]] | None:
        """The columns of a Parquet file after `image` and `model`.

        Returns:
            Names with pyarrow types; None to infer them from the rows, which Ray cannot do.
        """
        return None

"""The detection task. It can be imported without PyTorch, for inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnv2zoo.errors import RecipeError
from mnv2zoo.tasks.base import Options, Seen, Task
from mnv2zoo.tasks.detect import rows as own_rows
from mnv2zoo.tasks.recipe import OF_CLASSES, OF_CLASSIFIERS, OF_FITTING, OF_MULTILABEL, OF_SEGMENTERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image
    from torch import Tensor, nn

    from mnv2zoo.data.datasets import AnySample, Data
    from mnv2zoo.data.layout import Layout
    from mnv2zoo.models.names import Description
    from mnv2zoo.models.pretrained import Network
    from mnv2zoo.tasks.detect.metrics import Detections, Scores
    from mnv2zoo.tasks.initialization import Start
    from mnv2zoo.tasks.recipe import Recipe


def _collate(batch: Sequence[Any]) -> Any:
    from mnv2zoo.tasks.detect import network

    return network.collate(batch)


class Detect(Task):
    """Object detection: boxes and their classes, from Pascal VOC or COCO annotations."""

    metric = "map"
    metric_names = ("map", "map50", "map75")
    # For a few hundred images, starting from the weights of a classifier.
    defaults = {  # noqa: RUF012  # a ClassVar in the base class
        "epochs": 60,
        "batch_size": 8,
        "opt": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.01,
        "warmup_epochs": 2.0,
        "clip_grad": 10.0,
        "ema_decay": 0.99,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
    }
    ignores = (
        *OF_CLASSIFIERS,
        *OF_CLASSES,
        *OF_FITTING,
        *OF_MULTILABEL,
        *OF_SEGMENTERS,
        *("classifier", "loss_before_act", "layer_decay", "crop_pct", "scale", "auto_augment", "reprob"),
        *(
            "drop_rate",
            "drop_path_rate",
            "layout",
            "train_dir",
            "val_dir",
            "test_dir",
            "cache_features",
            "cache_images",
        ),
    )
    collate = staticmethod(_collate)
    gather_objects = True

    def check(self, recipe: Recipe) -> None:
        """Rejects recipe values that detection does not use, or that do not suit the head."""
        super().check(recipe)
        for name in ("input_size", "test_input_size"):
            if isinstance(size := getattr(recipe, name), tuple):
                raise RecipeError(
                    f"{name} must be a single number for detection",
                    expected="the side for ssdlite, or the short side for retinanet and fasterrcnn",
                    found="x".join(map(str, size)),
                    where=name,
                    fix=f"Pass one number to --{name.replace('_', '-')}.",
                )
        from mnv2zoo.tasks.detect import network

        network.head_of(recipe)
        self.metrics(())  # report missing packages now, not after the first epoch

    # Data.

    def find_data(self, place: str | Path, layout: Layout) -> Data:
        """Finds images and boxes in the layout of Pascal VOC or COCO."""
        from mnv2zoo.tasks.detect import objects

        return objects.find(place, layout)

    def found(self, data: Data) -> str:
        """The format, the number of images and the number of boxes per class."""
        from mnv2zoo.tasks.detect import objects

        counts = objects.count(sample for own in data.splits.values() for sample in own)
        boxes = ", ".join(f"{counts[number]} {name}" for number, name in enumerate(data.class_names))
        return f"{data.form}: {super().found(data)}; boxes: {boxes}"

    def transforms(
        self, preprocessing: Mapping[str, Any], recipe: Recipe | None = None
    ) -> Callable[[Any, Any], tuple[Any, Any]]:
        """Resizes images with their boxes, and augments them if there is a recipe."""
        from mnv2zoo.tasks.detect import transforms

        if recipe is None:
            return transforms.Evaluation(transforms.whole(preprocessing))
        return transforms.training(preprocessing, recipe)

    # Network and head.

    def num_outputs(self, data: Data) -> int:
        """One output per class; torchvision adds the background itself."""
        return len(data.class_names)

    def build_model(self, target: Description, source: Description | Path | None, recipe: Recipe, data: Data) -> Start:
        """Builds the detector from the weights of a classifier or of another detector."""
        from mnv2zoo.tasks.detect import network

        return network.build(target, source, recipe, data)

    def load_model(self, name: str, device: str | None = None) -> Network:
        """Loads a trained detector."""
        from mnv2zoo.tasks.detect import network

        return network.load(name, device)

    def freeze(self, model: Any, recipe: Recipe) -> list[nn.Module]:
        """Freezes the part of the backbone that the recipe does not train."""
        from mnv2zoo.models.timm_compat import resize_at_evaluation_only
        from mnv2zoo.tasks import initialization
        from mnv2zoo.tasks.detect import network

        resize_at_evaluation_only(model)
        if recipe.precision != "fp32":
            network.predict_in_single_precision(model)
        frozen = initialization.freeze(model.network, recipe.train)
        return frozen + (initialization.norms(model.network) if recipe.keep_statistics else [])

    def split_head(self, model: Any) -> None:
        """None: images are augmented with their boxes, so features cannot be computed once."""
        return

    def compiled_parts(self, model: Any) -> list[nn.Module]:
        """The backbone only, because matching boxes with anchors has no fixed shapes."""
        return [model.backbone]

    def backbone(self, model: Any) -> nn.Module:
        """The backbone."""
        taps: nn.Module = model.backbone.taps
        return taps

    # Training.

    def shrink(self, inputs: Any, targets: Any, side: int, full: int) -> tuple[Any, Any]:
        """Resizes images and boxes for an epoch on smaller images."""
        from mnv2zoo.tasks.detect import network

        return network.shrink(inputs, targets, side, full)

    def training_step(self, model: nn.Module, inputs: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]) -> Any:
        """The sum of the detector's losses for images (3, H, W) with `boxes` and `labels`."""
        return sum(model(inputs, targets).values())

    def metrics(self, label_names: Sequence[str]) -> Detections:
        """The COCO mean average precision and a confusion matrix."""
        from mnv2zoo.tasks.extra import needs_train_extra

        with needs_train_extra():
            from mnv2zoo.tasks.detect.metrics import Detections
        return Detections(label_names)

    def align(self, samples: Sequence[AnySample], data: Data, label_names: Sequence[str]) -> list[AnySample]:
        """Renumbers the classes of the data to match the model.

        Raises:
            DataError: If the model lacks a class.
        """
        from mnv2zoo.tasks.detect import objects

        return objects.align(samples, data.class_names, label_names)

    # The run folder.

    def model_files(self, model: Any, preprocessing: Mapping[str, Any], label_names: Sequence[str]) -> dict[str, bytes]:
        """The detector's tensors, and a `config.json` with its backbone and head."""
        from mnv2zoo.model_dir import files

        head = model.built_with.to_json()
        return files.model_files(model.network, preprocessing, label_names, whole=model, task=self.name, head=head)

    def model_card(
        self, model: str, architecture: str, origin: str, run: Mapping[str, Any], scores: Mapping[str, Scores]
    ) -> str:
        """The model card of a detector."""
        from mnv2zoo.tasks.detect import card

        return card.model_card(model, architecture, origin, run, scores)

    def write_report(
        self,
        folder: Path,
        history: Sequence[Mapping[str, Any]],
        metric: Detections,
        scores: Scores,
        samples: Sequence[AnySample],
        title: str,
    ) -> dict[str, Figure]:
        """Writes curves, metrics per class, the confusion matrix and the images with the most mistakes."""
        from mnv2zoo.tasks.detect import report

        names = [sample.name for sample in samples]
        return report.write(
            folder, history, scores, metric.judged(), lambda number: samples[number].read(), names, title
        )

    # Predictions.

    def rows(
        self, outputs: Any, images: Sequence[Seen], label_names: Sequence[str], options: Options
    ) -> list[dict[str, Any]]:
        """The boxes of each image in pixels of the original image, with scores of at least 0.5 or the threshold."""
        return own_rows.rows(outputs, images, label_names, options.threshold)

    def draw(self, image: Image.Image, row: Mapping[str, Any], label_names: Sequence[str]) -> Image.Image:
        """Draws the boxes into the image."""
        from mnv2zoo.data.drawing import draw_boxes

        return draw_boxes(image, row["detections"])

    def describe(self, row: Mapping[str, Any]) -> str:
        """A line per box."""
        return own_rows.describe(row)

    def csv_columns(self, topk: int) -> list[str]:
        """`detections`, a list in JSON."""
        return ["detections"]

    def coco_results(self, row: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
        """A dict per box."""
        return own_rows.coco(row, number)

    def parquet_fields(self) -> list[tuple[str, Any]]:
        """A column `detections`, a list of structures."""
        import pyarrow as pa

        kinds = [
            ("class", pa.int64()),
            ("label", pa.string()),
            ("score", pa.float32()),
            ("box", pa.list_(pa.float32())),
        ]
        return [("detections", pa.list_(pa.struct(kinds)))]

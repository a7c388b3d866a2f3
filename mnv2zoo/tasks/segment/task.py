"""The segmentation task. It can be imported without PyTorch, for inference."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv2zoo.errors import ArgumentError, RecipeError
from mnv2zoo.tasks.base import Options, Seen, Task
from mnv2zoo.tasks.recipe import OF_CLASSIFIERS, OF_DETECTORS, OF_FITTING, OF_MULTILABEL, Recipe

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure
    from PIL import Image
    from torch import Tensor, nn

    from mnv2zoo.data.datasets import AnySample, Data
    from mnv2zoo.data.layout import Layout
    from mnv2zoo.models.names import Description
    from mnv2zoo.models.pretrained import Network
    from mnv2zoo.tasks.initialization import Start
    from mnv2zoo.tasks.segment.metrics import PixelAccuracy, Scores

MASK = "_png"  # the mask of a row that is drawn


class Segment(Task):
    """Semantic segmentation: the class of each pixel.

    The data are folders `images` and `masks`, optionally in `train`, `val` and `test`, or a tar file of these. A mask
    is a PNG with class numbers, and `classes.txt` gives their names. Without masks, COCO polygons are rendered.

    The recipe's `input_size` is the short side of the input. The long side follows from the aspect ratio of most
    training images, unless `input_size` gives both. For evaluation and prediction the whole image is resized to that
    size, and the logits are interpolated to the size of the image before the best class is chosen.
    """

    metric = "miou"
    metric_names = ("miou", "pixel_accuracy", "mean_accuracy")
    # For a few hundred images: small batches give enough steps, and with a lower rate the backbone underfits
    # (examples/heads/camvid-lraspp.toml).
    defaults = {  # noqa: RUF012
        "head": "lraspp",
        "epochs": 40,
        "batch_size": 4,
        "opt": "adamw",
        "lr": 1e-3,
        "weight_decay": 0.01,
        "backbone_lr": 0.5,
        "ema_decay": 0.995,
        "scale_jitter": (0.5, 2.0),
        "smoothing": 0.0,
    }
    ignores = (
        *(name for name in OF_CLASSIFIERS if name != "smoothing"),
        *OF_MULTILABEL,
        *OF_DETECTORS,
        *OF_FITTING,
        *("classifier", "loss_before_act", "layer_decay", "crop_pct", "scale", "auto_augment", "reprob", "drop_rate"),
        *("layout", "train_dir", "val_dir", "test_dir", "cache_features", "cache_images"),
    )
    writes_files = True

    # Before anything is read or written.

    def check(self, recipe: Recipe) -> None:
        """Rejects recipe values that the head does not support, and a loss whose package is not installed."""
        from mnv2zoo import segmentation
        from mnv2zoo.tasks.segment.model import head_of

        super().check(recipe)
        try:
            segmentation.check_head(head_of(recipe))
        except ArgumentError as error:
            raise RecipeError(
                error.problem,
                expected=error.expected,
                found=error.found,
                where=error.where,
                fix=f"{error.fix} On the command line, the option is --{str(error.where).replace('_', '-')}.",
            ) from error
        if recipe.region_loss == "dice":
            segmentation.require_smp(f"the loss {recipe.region_loss}")

    # Data: samples, batches, targets.

    def find_data(self, place: str | Path, layout: Layout) -> Data:
        """Finds images with their masks."""
        from mnv2zoo.tasks.segment import data

        return data.find(place, layout)

    def transforms(
        self, preprocessing: Mapping[str, Any], recipe: Recipe | None = None
    ) -> Callable[[Any, Any], tuple[Any, Any]]:
        """Creates the augmentation of images and masks, or without a recipe their preprocessing."""
        from mnv2zoo.tasks.segment import augmentation

        if recipe is None:
            return augmentation.Evaluation(augmentation.whole(preprocessing))
        return augmentation.Augmentation(preprocessing, recipe)

    @staticmethod
    def collate(batch: list[Any]) -> Any:
        """Stacks images; masks stay a list, unless all of them have the size of the images."""
        import torch

        images, masks = zip(*batch, strict=True)
        same = all(mask.shape == images[0].shape[1:] for mask in masks)
        return torch.stack(images), torch.stack(masks) if same else list(masks)

    def align(self, samples: Sequence[AnySample], data: Data, label_names: Sequence[str]) -> list[AnySample]:
        """Renumbers the classes of the data to match the model.

        Raises:
            DataError: If a mask contains a class that the model lacks.
        """
        from mnv2zoo.tasks.segment.data import align

        return align(samples, data.class_names, label_names)

    # Network and head.

    def num_outputs(self, data: Data) -> int:
        """One output per class."""
        return len(data.class_names)

    def build_model(self, target: Description, source: Description | Path | None, recipe: Recipe, data: Data) -> Start:
        """Builds the segmenter; see `model.build`."""
        from mnv2zoo.tasks.segment import model

        return model.build(target, source, recipe, data)

    def load_model(self, name: str, device: str | None = None) -> Network:
        """Loads a trained segmenter."""
        from mnv2zoo import segmentation
        from mnv2zoo.models.pretrained import Network
        from mnv2zoo.tasks.segment.augmentation import whole

        model = segmentation.load(name, device)
        how = whole(model.pretrained_cfg)
        where = next(model.parameters()).device
        return Network(name, model, where, how.tensor, how, model.label_names, model.pretrained_cfg)

    def freeze(self, model: Any, recipe: Recipe) -> list[nn.Module]:
        """Freezes the part that the recipe does not train."""
        from mnv2zoo.tasks.segment.model import freeze

        return freeze(model, recipe)

    def split_head(self, model: Any) -> None:
        """Features are not computed once: augmentation moves their pixels."""
        return

    def backbone(self, model: Any) -> nn.Module:
        """The network below the head."""
        own: nn.Module = model.backbone
        return own

    # Training.

    def setup(self, recipe: Recipe, data: Data, start: Start, device: torch.device) -> None:
        """Prepares the loss."""
        from mnv2zoo.tasks import class_weights
        from mnv2zoo.tasks.segment.data import balanced
        from mnv2zoo.tasks.segment.loss import SegmentationLoss

        names, choice = data.class_names, recipe.class_weights
        by_pixels = balanced(data.splits["train"], len(names)) if choice == class_weights.BALANCED else None
        self._weights = class_weights.read(Path(choice), names) if choice and not by_pixels else by_pixels
        self._criterion = SegmentationLoss(self._weights, recipe.smoothing, recipe.region_loss).to(device)

    def fingerprints(self) -> dict[str, Any]:
        """The class weights."""
        return {} if self._weights is None else {"class_weights": [round(w, 6) for w in self._weights]}

    def shrink(self, inputs: Any, targets: Any, side: int, full: int) -> tuple[Any, Any]:
        """Crops images and masks at random, to the same aspect ratio and sides that are multiples of 8.

        Resizing would make thin objects, such as poles, thinner than they are in evaluation.
        """
        from mnv2zoo.tasks.segment import augmentation

        size = [max(round(own * side / full / 8) * 8, 8) for own in inputs.shape[-2:]]
        return augmentation.crop(inputs, targets, size)

    def training_step(self, model: nn.Module, inputs: Any, targets: Any) -> Tensor:
        """The loss of images (N, 3, H, W) and masks (N, H, W)."""
        loss: Tensor = self._criterion(model(inputs), targets)
        return loss

    # Metrics.

    def condense(self, outputs: Any, targets: Any) -> tuple[Any, Any]:
        """Reduces a batch to one confusion matrix per image."""
        from mnv2zoo.tasks.segment.metrics import condense

        return condense(outputs, targets)

    def metrics(self, label_names: Sequence[str]) -> PixelAccuracy:
        """The confusion matrix, mIoU and accuracies."""
        from mnv2zoo.tasks.segment.metrics import PixelAccuracy

        return PixelAccuracy(label_names)

    # The run folder.

    def model_files(self, model: Any, preprocessing: Mapping[str, Any], label_names: Sequence[str]) -> dict[str, bytes]:
        """All tensors of the segmenter, and a `config.json` that describes its head."""
        from mnv2zoo.tasks.segment.model import model_files

        return model_files(model, preprocessing, label_names)

    def model_card(
        self, model: str, architecture: str, origin: str, run: Mapping[str, Any], scores: Mapping[str, Scores]
    ) -> str:
        """The model card of a segmenter."""
        from mnv2zoo.tasks.segment import card

        return card.model_card(model, architecture, origin, run, scores)

    def write_report(
        self,
        folder: Path,
        history: Sequence[Mapping[str, Any]],
        metric: PixelAccuracy,
        scores: Scores,
        samples: Sequence[AnySample],
        title: str,
    ) -> dict[str, Figure]:
        """Writes curves, metrics per class, the confusion matrix and the images with the lowest IoU."""
        from mnv2zoo.tasks.segment import report

        return report.write(folder, history, scores, metric.worst(), samples, title)

    # Predictions.

    def rows(
        self, outputs: Any, images: Sequence[Seen], label_names: Sequence[str], options: Options
    ) -> list[dict[str, Any]]:
        """The mask file and the number of pixels per class at the image's size, from logits (N, C, H, W)."""
        return [self._row(own, seen, label_names, options) for own, seen in zip(outputs, images, strict=True)]

    def _row(self, logits: Any, seen: Seen, label_names: Sequence[str], options: Options) -> dict[str, Any]:
        from mnv2zoo.system.files import whole_file
        from mnv2zoo.tasks.segment.upsampling import class_mask

        assert seen.size is not None  # of `Whole`
        mask = class_mask(logits, seen.size)
        counts = np.bincount(mask.ravel(), minlength=len(label_names)).tolist()
        row: dict[str, Any] = {"mask": None}
        row["pixels"] = {label: count for label, count in zip(label_names, counts, strict=True) if count}
        file = options.file_for(seen.name, ".png")
        if file is not None or options.draws:
            png = _png(mask)
            if options.draws:
                row[MASK] = png
            if file is not None:
                with whole_file(file) as opened:
                    opened.write(png)
                row["mask"] = str(file)
        return row

    def draw(self, image: Image.Image, row: Mapping[str, Any], label_names: Sequence[str]) -> Image.Image:
        """Overlays the mask on the image, with a legend of its classes below."""
        from mnv2zoo.data import drawing, masks

        return drawing.draw_mask(image, masks.decode_mask(row[MASK]), label_names)

    def describe(self, row: Mapping[str, Any]) -> str:
        """Formats one line per class with its share of the pixels, the largest first."""
        total = sum(row["pixels"].values())
        lines = [
            f"  {100 * count / total:5.1f} %  {label}"
            for label, count in sorted(row["pixels"].items(), key=lambda item: -item[1])
        ]
        return "\n".join([row["image"], *lines, *([f"  mask: {row['mask']}"] if row["mask"] else [])])

    def csv_columns(self, topk: int) -> list[str]:
        """`mask`, and `pixels` as JSON."""
        return ["mask", "pixels"]

    def csv_cells(self, row: Mapping[str, Any]) -> list[Any]:
        """The mask's file, and the pixels of each class as JSON."""
        return [row["mask"] or "", json.dumps(row["pixels"], ensure_ascii=False)]

    def parquet_fields(self) -> list[tuple[str, Any]]:
        """Columns `mask` and `pixels`, a map."""
        import pyarrow as pa

        return [("mask", pa.string()), ("pixels", pa.map_(pa.string(), pa.int64()))]


def _png(mask: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    """Encodes a mask as a PNG with a palette of the class colors."""
    from mnv2zoo.data.drawing import palette_image

    buffer = BytesIO()
    palette_image(mask).save(buffer, "PNG")
    return buffer.getvalue()

"""The recipe of a training run: all hyperparameters in one frozen dataclass.

Each field becomes an option of `mnv2zoo finetune`, and `recipe.json` in the run folder records them all. This module
does not import torch.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

from msgspec import Meta

from mnv2zoo.errors import RecipeError, UnknownArgumentError, nearest, unknown
from mnv2zoo.system.validation import alternatives, choices_of, fits

if TYPE_CHECKING:
    from mnv2zoo.data.layout import Layout

MODEL = "mnv2zoo_100"  # the default model


# Bounds are part of a field's type. The bounds of colors only exclude NaN and infinity.
Share = Annotated[float, Meta(ge=0, le=1)]
Alpha = Annotated[float, Meta(ge=0, le=100)]
Side = Annotated[int, Meta(ge=32, le=4096)]
Finite = Annotated[float, Meta(ge=-1e300, le=1e300)]
# The side of a square, or height and width. msgspec crashes on a union with `tuple[Side, Side]`.
Size = Side | Annotated[tuple[Side, ...], Meta(min_length=2, max_length=2)]
Color = Annotated[tuple[Finite, ...], Meta(min_length=1, max_length=8)]
Factor = Annotated[float, Meta(ge=0.05, le=20)]

# Fields that only some tasks use; the other tasks ignore them.
OF_CLASSIFIERS = ("teacher", "mixup", "cutmix", "smoothing", "loss", "focal_gamma", "augment_on", "calibrate")
OF_FITTING = ("resize", "in_chans")  # for tasks that classify whole images
OF_CLASSES = ("class_weights",)  # for classifiers and segmenters
OF_HEADS = ("head", "backbone_lr", "scale_jitter", "rotate")  # for detectors and segmenters
OF_MULTILABEL = ("label_separator",)
OF_DETECTORS = (
    "anchor_size",
    "stride",
    "fpn_channels",
    "iou_crop",
    "score_threshold",
    "nms_threshold",
    "max_detections",
)
OF_SEGMENTERS = ("ignore_index", "region_loss", "output_stride")


def _choice(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of a training run. Optimizers, schedules and augmentation policies have timm's names.

    The defaults suit a few thousand photos and a model pretrained on ImageNet. The description of each field is in its
    metadata, and appears in `mnv2zoo finetune --help` and in the table below.

    Raises:
        RecipeError: If a value has the wrong type or is out of bounds.

    Examples:
        >>> from mnv2zoo.training import Recipe
        >>> Recipe(epochs=10).opt
        'sgd'
        >>> Recipe(epochs=0)
        Traceback (most recent call last):
        mnv2zoo.errors.RecipeError: ...
    """

    # Model and starting weights.
    train: str = _choice(
        "all", "Layers to train: `all`, `head`, or a bottleneck and everything after it, such as `Bottleneck_12`"
    )
    init: str = _choice(
        "pretrained",
        "Initial weights: `pretrained` (the model's own weights), `random`, a model name from the zoo, or a checkpoint "
        "file",
    )
    pad_type: Literal["symmetric", "same"] | None = _choice(
        None, "Padding of the convolutions: `symmetric`, or `same` for weights trained in TensorFlow"
    )
    classifier: Literal["linear", "conv", "conv_bn", "conv_bn_act"] | None = _choice(
        None, "Type of classifier: `linear`, `conv`, `conv_bn` or `conv_bn_act`"
    )
    keep_statistics: bool = _choice(
        False,
        "Freeze the running mean and variance of batch norms. Use it with small batches or images that look alike",
    )
    loss_before_act: bool = _choice(
        True, "Compute the loss before the final activation of the classifier, if it has one"
    )

    # The head of a detector or a segmenter.
    head: str | None = _choice(
        None,
        "Head: `ssdlite`, `retinanet` or `fasterrcnn` for detection; `lraspp`, `deeplabv3` or `smp:NAME`, such as "
        "`smp:Unet`, for segmentation",
    )
    stride: Annotated[int, Meta(ge=4, le=16)] | None = _choice(
        None, "Detection: stride of the finest feature map, `4`, `8` or `16`. By default, depends on the head"
    )
    fpn_channels: Annotated[int, Meta(ge=16, le=512)] | None = _choice(
        None, "Detection: channels of the feature pyramid of `retinanet` and `fasterrcnn`. By default 256"
    )
    anchor_size: Annotated[float, Meta(ge=2, le=2048)] | None = _choice(
        None, "Detection: side of the smallest anchors in pixels. By default, depends on the head"
    )
    score_threshold: Share = _choice(0.01, "Detection: minimum score of a predicted box")
    nms_threshold: Share = _choice(0.5, "Detection: IoU threshold of non-maximum suppression")
    max_detections: Annotated[int, Meta(ge=1, le=10_000)] = _choice(
        100, "Detection: maximum number of predicted boxes per image"
    )
    output_stride: Annotated[int, Meta(ge=8, le=16)] | None = _choice(
        None, "Segmentation: stride of the backbone's last feature map, `8` or `16`. By default 16"
    )

    # Knowledge distillation.
    teacher: str | None = _choice(
        None,
        "Teacher for knowledge distillation: a model with the same classes, as a model name from the zoo or a run "
        "folder",
    )
    teacher_weight: Share = _choice(0.9, "Weight of the distillation loss; the loss on the labels gets the rest")
    temperature: Annotated[float, Meta(ge=0.1, le=100)] = _choice(
        2.0, "Softmax temperature for distillation; higher is softer"
    )

    # Optimization.
    epochs: Annotated[int, Meta(ge=1, le=100_000)] = _choice(30, "Number of epochs")
    # A batch norm cannot train on one image.
    batch_size: Annotated[int, Meta(ge=2, le=1_000_000)] = _choice(32, "Images per batch, over all processes")
    accumulate: Annotated[int, Meta(ge=1, le=100_000)] = _choice(
        1, "Gradient accumulation: number of batches per optimizer step"
    )
    opt: str = _choice("sgd", "Optimizer, as timm names it, such as `adamw`")
    lr: Annotated[float, Meta(ge=1e-12, le=1e6)] | None = _choice(
        None, "Peak learning rate. By default 0.02 x (images per optimizer step) / 32"
    )
    momentum: Annotated[float, Meta(ge=0, le=0.9999)] = _choice(0.9, "Momentum, for optimizers that have one")
    weight_decay: Annotated[float, Meta(ge=0, le=10)] = _choice(
        1e-4, "Weight decay; not applied to biases and normalization layers"
    )
    backbone_lr: Annotated[float, Meta(ge=0, le=10)] = _choice(
        1.0, "Detection and segmentation: multiplier for the learning rate of the backbone"
    )
    layer_decay: Annotated[float, Meta(ge=0.01, le=1)] | None = _choice(
        None, "Layer-wise learning rate decay: multiplier from each layer to the one before it"
    )
    clip_grad: Annotated[float, Meta(ge=1e-6, le=1e9)] | None = _choice(None, "Clip the gradient to this norm")
    # Those that are a function of the step alone.
    sched: Literal["cosine", "poly", "tanh"] = _choice("cosine", "Learning rate schedule: `cosine`, `poly` or `tanh`")
    warmup_epochs: Annotated[float, Meta(ge=0, le=100_000)] = _choice(1.0, "Number of warmup epochs")
    min_lr: Share = _choice(0.0, "Minimum learning rate, as a fraction of the peak")
    ema_decay: Annotated[float, Meta(ge=0, le=0.99999)] = _choice(
        0.0, "Decay of the moving average of the weights (EMA), which is then evaluated and saved; 0 turns it off"
    )
    keep: Literal["best", "last"] = _choice(
        "best", "Weights to save: those of the `best` epoch on the validation images, or of the `last`"
    )
    monitor: str | None = _choice(
        None,
        "Validation metric that decides the best epoch, such as `f1_macro` or `loss`. By default, depends on the task",
    )
    patience: Annotated[int, Meta(ge=0, le=100_000)] = _choice(
        0, "Early stopping: stop after this many epochs without improvement of the metric; 0 turns it off"
    )

    # Preprocessing and augmentation.
    resize: Literal["crop", "squash", "letterbox"] | None = _choice(
        None,
        "How images are resized to the input size: `crop` takes the center, `squash` ignores the aspect ratio, "
        "`letterbox` preserves it and pads with the mean color. By default, as for the initial weights",
    )
    input_size: Size | None = _choice(
        None,
        "Image size for training in pixels: one side, or HxW such as `160x320`. By default, as for the initial weights",
    )
    start_input_size: Side | None = _choice(
        None,
        "Progressive resizing: train on images with this shorter side at first, and increase it after each quarter of "
        "the epochs. Shortens training. Segmentation crops to this size instead of resizing",
    )
    test_input_size: Size | None = _choice(
        None, "Image size for validation and prediction: one side, or HxW. By default, as for training"
    )
    in_chans: Annotated[int, Meta(ge=1, le=8)] | None = _choice(
        None,
        "Number of image channels, 1 to 8: 1 for grayscale; more than 3 from .npy, TIFF or RGBA files. By default, as "
        "for the model",
    )
    crop_pct: Annotated[float, Meta(ge=0.1, le=1)] | None = _choice(
        None,
        "Center-crop ratio for validation and prediction. By default, as for the initial weights; 1 if you change the "
        "resizing to `squash` or `letterbox`",
    )
    interpolation: Literal["bilinear", "bicubic"] | None = _choice(None, "Interpolation: `bilinear` or `bicubic`")
    mean: Color | None = _choice(
        None,
        "Mean per channel, from 0 to 1. For other than 3 channels, give it in a recipe file or in Python. By default, "
        "as for the initial weights: averaged for 1 channel, repeated in turn for more than 3",
    )
    std: Color | None = _choice(None, "Standard deviation per channel; same rules as for the mean")
    scale: Annotated[float, Meta(ge=0.01, le=1)] = _choice(
        0.35, "Random resized crop: minimum fraction of the image area"
    )
    scale_jitter: tuple[Factor, Factor] | None = _choice(
        None, "Detection and segmentation: range of the random scale of training images, such as 0.5 2"
    )
    iou_crop: Share = _choice(0.0, "Detection: probability of SSD's random IoU crop")
    rotate: Share = _choice(0.0, "Detection and segmentation: probability of a random rotation in steps of 90 degrees")
    hflip: Share = _choice(0.5, "Probability of a horizontal flip")
    vflip: Share = _choice(0.0, "Probability of a vertical flip")
    color_jitter: Share = _choice(
        0.2, "Strength of random brightness, contrast and saturation, for grayscale and RGB images"
    )
    auto_augment: str | None = _choice(
        None, "AutoAugment or RandAugment policy, as timm names it, such as `rand-m7-mstd0.5-inc1`"
    )
    reprob: Share = _choice(0.0, "Probability of random erasing")
    augment_on: Literal["workers", "device"] = _choice(
        "workers",
        "Where to flip images, change their colors and erase rectangles: in the `workers` that load them, or in whole "
        "batches on the `device`",
    )
    mixup: Alpha = _choice(0.0, "Mixup alpha; 0 turns it off")
    cutmix: Alpha = _choice(0.0, "CutMix alpha; 0 turns it off")
    smoothing: Annotated[float, Meta(ge=0, le=0.9)] = _choice(0.1, "Label smoothing")
    loss: Literal["ce", "bce", "focal", "asymmetric"] = _choice(
        "ce",
        "Loss: `ce` for cross-entropy, `bce` for binary cross-entropy, `focal` for focal loss. Multi-label tasks take "
        "`bce`, `focal` or `asymmetric`",
    )
    focal_gamma: Annotated[float, Meta(ge=0, le=20)] = _choice(
        2.0, "Focusing parameter (gamma) of the focal loss; higher puts less weight on easy images"
    )
    class_weights: str | None = _choice(
        None,
        "Class weights in the loss: `balanced` (inversely proportional to the class frequency), or a .json or .csv "
        "file with one number per class",
    )
    region_loss: Literal["dice", "lovasz"] | None = _choice(
        None, "Segmentation: loss to add to the cross-entropy, `dice` or `lovasz`"
    )
    calibrate: bool = _choice(
        True,
        "Fit a softmax temperature on the validation images, so that scores match the accuracy. Needs at least 30 "
        "images",
    )
    drop_rate: Annotated[float, Meta(ge=0, le=0.99)] = _choice(0.0, "Dropout before the classifier")
    drop_path_rate: Annotated[float, Meta(ge=0, le=0.99)] = _choice(0.0, "Stochastic depth rate")

    # Data and splits.
    layout: Literal["classes", "splits"] | None = _choice(
        None,
        "The meaning of the subfolders of the data: `classes`, or `splits` such as train and val. By default, detected",
    )
    train_dir: str | None = _choice(None, "Folder of training images, absolute or inside the data")
    val_dir: str | None = _choice(None, "Folder of validation images, absolute or inside the data")
    test_dir: str | None = _choice(None, "Folder of test images, absolute or inside the data")
    val_fraction: Annotated[float, Meta(ge=0, le=0.9)] = _choice(
        0.1,
        "Fraction of each class to hold out for validation, if the data has no validation split. 0 trains on all "
        "images and saves the last epoch",
    )
    split_file: str | None = _choice(
        None,
        "File that assigns images to splits: a .csv, .tsv or .json file with columns `image` and `split`, or the "
        "`split.json` of another run",
    )
    group_by: str | None = _choice(
        None,
        "Keep related images in the same split: a column of the split file, or a regular expression with one group "
        "that is searched for in image paths, such as `plant(\\d+)`",
    )
    folds: Annotated[int, Meta(ge=0, le=1000)] = _choice(
        0, "Cross-validation: number of folds, each of which trains one run; 0 trains a single run"
    )
    fold: Annotated[int, Meta(ge=0, le=1000)] = _choice(
        0, "Cross-validation: train only this fold, counted from 1; 0 trains all folds in turn"
    )
    ignore_index: Annotated[int, Meta(ge=0, le=255)] = _choice(255, "Segmentation: mask value of pixels to ignore")
    label_separator: str | None = _choice(
        None, "Multi-label: separator of labels in a CSV file. By default a vertical bar, `;` or `,`"
    )
    skip_bad_images: bool = _choice(False, "Skip unreadable images instead of stopping before training")
    sampler: Literal["shuffle", "balanced"] = _choice(
        "shuffle",
        "How each epoch samples training images: `shuffle` takes each image once, `balanced` draws every class equally "
        "often",
    )
    cache_features: bool = _choice(
        True, "If only the head is trained: compute the backbone's features once, without augmentation"
    )
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = _choice(0, "Random seed")
    precision: Literal["fp32", "bf16", "fp16"] = _choice(
        "fp32", "Precision: `fp32`, or mixed precision with `bf16` or `fp16`. `fp16` needs a GPU"
    )
    channels_last: bool = _choice(True, "Use the channels-last memory format, which is faster on most machines")
    deterministic: bool = _choice(
        False, "Use deterministic algorithms, for bit-for-bit reproducible training on a GPU; slower"
    )
    compile: bool = _choice(
        False, "Compile the training step with torch.compile: takes about a minute and speeds up training on a GPU"
    )
    workers: Annotated[int, Meta(ge=0, le=256)] = _choice(2, "Number of data loading processes")
    cache_images: Literal["ram", "disk", "off"] | None = _choice(
        None,
        "Where to cache downscaled copies of large photos, so that later epochs load faster: in memory (`ram`), on "
        "`disk` in MNV2ZOO_HOME, or `off`. By default on disk, using up to 10 GiB and a fifth of the free space",
    )
    checkpoint_steps: Annotated[int, Meta(ge=0, le=10**9)] = _choice(
        0, "Optimizer steps between checkpoints within an epoch; 0 saves one checkpoint per epoch"
    )

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            given, value = value, normal(name, value)
            if name == "pad_type" and value == "":  # timm's name, which older runs recorded
                value = "symmetric"
            if not fits(value, KINDS[name]):
                raise _bad(name, SIZE if name in SIZES else _expected(KINDS[name], value), given)
            object.__setattr__(self, name, value)
        if self.label_separator is not None and not self.label_separator:
            raise _bad("label_separator", "at least one character", self.label_separator)
        if self.std is not None and min(self.std) <= 0:
            raise _bad("std", "numbers greater than 0", self.std)
        if self.scale_jitter is not None and self.scale_jitter[0] > self.scale_jitter[1]:
            raise _bad("scale_jitter", "two factors, the lower one first", self.scale_jitter)
        if self.keep_statistics and self.init == "random":
            raise _bad("keep_statistics", "false with random weights, whose batch norms have no statistics yet", True)
        if self.teacher is not None and self.train == "head" and self.cache_features:
            raise _bad("teacher", "no teacher with cached features, because the teacher needs the images", self.teacher)
        if self.mixes and self.train == "head" and self.cache_features:
            name = "mixup" if self.mixup else "cutmix"
            raise _bad(name, "0 with cached features, because there are no images to mix", getattr(self, name))
        if self.augment_on == "device" and self.auto_augment is not None:
            raise _bad("augment_on", "workers with auto_augment, which processes one image at a time", self.augment_on)
        self._check_splits()
        if self.mixes and self.batch_size % 2:
            raise _bad(
                "batch_size", "an even number, because mixup and cutmix pair the images of a batch", self.batch_size
            )

    def _check_splits(self) -> None:
        if self.folds == 1:
            raise _bad("folds", "2 or more, or 0 for a single run", self.folds)
        if self.fold > self.folds:
            raise _bad("fold", f"a number from 1 to {self.folds}" if self.folds else "0 without folds", self.fold)
        if self.group_by is not None and "(" in self.group_by:
            try:
                found = f"{re.compile(self.group_by).groups} groups in {self.group_by!r}"
            except re.error as error:
                found = f"{self.group_by!r}: {error}"
            if not found.startswith("1 groups"):
                raise _bad("group_by", r"a regular expression with one group, such as plant(\d+)", found)

    @property
    def mixes(self) -> bool:
        """Whether mixup or cutmix is on, which produces soft targets."""
        return bool(self.mixup or self.cutmix)

    def images(self) -> Layout:
        """The data layout options of the recipe."""
        from mnv2zoo.data.layout import LAYOUT_FIELDS, Layout  # imports Pillow, which `--help` does not need

        return Layout(**{name: getattr(self, name) for name in LAYOUT_FIELDS} | {"in_chans": self.in_chans or 3})

    def to_json(self) -> dict[str, Any]:
        """Returns all fields by name, as `json.dumps` takes them."""
        return asdict(self)


# The type of each field with its bounds, and the choices of the fields that have a fixed set of them.
KINDS: dict[str, Any] = get_type_hints(Recipe, include_extras=True)
CHOICES = {name: choices for name, kind in KINDS.items() if (choices := choices_of(kind))}


# Image size fields, and their description in errors.
SIZES = ("input_size", "test_input_size")
SIZE = "pixels from 32 to 4096: one side such as 224, or HxW such as 160x320"


def normal(name: str, value: Any) -> Any:
    """Normalizes the value of a field.

    Args:
        name: The field.
        value: The value. Lists become tuples, because JSON and TOML have no tuples. A size may be a string such as
            `160x320`.

    Returns:
        The normalized value. A value in an unknown form is returned unchanged.
    """
    if name in SIZES and isinstance(value, str) and re.fullmatch(r"\d{1,5}(x\d{1,5})?", value, re.ASCII):
        value = [int(side) for side in value.split("x")]
        value = value if value[1:] else value[0]
    if isinstance(value, list) and (name in SIZES or name in ("mean", "std", "scale_jitter")):
        value = tuple(value)
    if name in SIZES and isinstance(value, tuple) and len(value) == 2 and value[0] == value[1]:
        return value[0]
    return value


def _bad(name: str, expected: object, found: object) -> RecipeError:
    return RecipeError(
        f"the recipe field {name} has an invalid value",
        expected=expected,
        found=repr(found),
        where=name,
        fix=f"Change {name} (--{name.replace('_', '-')} on the command line).",
    )


def _expected(kind: Any, value: object) -> str:
    """Describes a type, for the `expected` of an error."""
    if choices := choices_of(kind):
        return " or ".join(choices)
    words = []
    for one in alternatives(kind):
        plain, *metas = get_args(one) if get_origin(one) is Annotated else (one,)
        if metas and fits(value, plain) and value == value:  # not for NaN
            return f"a number from {metas[0].ge} to {metas[0].le}"
        words.append("null" if plain is type(None) else getattr(plain, "__name__", str(plain)))
    return " or ".join(words)


FIELDS = tuple(f.name for f in fields(Recipe))


def make(**values: Any) -> Recipe:
    """Creates a recipe.

    Args:
        **values: Fields of `Recipe`. Fields that you leave out have their defaults.

    Returns:
        The recipe.

    Raises:
        UnknownArgumentError: If a field is unknown. The message suggests the closest name.
        RecipeError: If a value has the wrong type or is out of bounds.
    """
    check_names(values)
    return Recipe(**values)


def check_names(values: Iterable[str]) -> None:
    """Checks that all names are fields of `Recipe`.

    Args:
        values: The names.

    Raises:
        UnknownArgumentError: If a field is unknown. The message suggests the closest name.
    """
    for name in values:
        if name not in FIELDS:
            raise UnknownArgumentError(
                unknown("recipe field", name, FIELDS),
                expected=nearest(name, FIELDS, 2),
                found=repr(name),
                fix="See `mnv2zoo finetune --help` for all fields.",
            )


def read(path: Path) -> dict[str, Any]:
    """Reads the values of a recipe from a TOML or JSON file.

    Args:
        path: The file, such as the `recipe.json` of an earlier run.

    Returns:
        The values, not yet checked.

    Raises:
        RecipeError: If the file cannot be read as TOML or JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise RecipeError(
            "the recipe file cannot be read",
            expected="a TOML or JSON file",
            found=f"{error}".rstrip("."),
            where=path,
            fix="Check the path and the syntax of the file.",
        ) from error
    values = document.get("recipe", document) if isinstance(document, dict) else None
    if not isinstance(values, dict):
        raise RecipeError(
            "the recipe file does not contain a recipe",
            expected="an object from field names to values",
            found=type(values).__name__,
            where=path,
            fix="Write one field per line, such as `epochs = 10`.",
        )
    return values


# Fields that do not affect the result, so you can change them when you resume a run.
FREE = ("workers", "cache_images", "checkpoint_steps", "compile")
# Fields that can be the path of a file or folder.
PLACES = ("init", "teacher", "class_weights")


def resumed(recorded: dict[str, Any], given: dict[str, Any]) -> Recipe:
    """Returns the recipe of a run that is resumed.

    Args:
        recorded: The recipe that the run recorded. Missing fields have their defaults.
        given: Values passed for this call.

    Returns:
        The run's recipe, updated with the given values that do not affect the result.

    Raises:
        UnknownArgumentError: If a field is unknown.
        RecipeError: If a given value contradicts the run, or the recorded recipe is damaged.
    """
    check_names(given)
    others = sorted(recorded.keys() - {*FIELDS})
    if others:
        raise RecipeError(
            "the run was created by another version of mnv2zoo",
            expected="a recipe with the fields of this version",
            found=f"the unknown field {others[0]!r}",
            fix="Resume the run with the mnv2zoo version in its recipe.json, or start a new run with another --out.",
        )
    recipe = make(**recorded)
    now: dict[str, Any] = {}
    for name, value in given.items():
        value = normal(name, value)
        was = getattr(recipe, name)
        if name in FREE or (name in PLACES and may_have_moved(value, was)):
            now[name] = value
        elif value != was:
            raise contradiction(name, was, value)
    return replace(recipe, **now)


def contradiction(name: str, recorded: object, given: object) -> RecipeError:
    """Returns the error for a value that differs from that of the resumed run."""
    return RecipeError(
        f"--{name.replace('_', '-')} {given} contradicts the run that is resumed",
        expected=repr(recorded),
        found=repr(given),
        where=name,
        fix="Leave the option out to resume, or start a new run with another --out.",
    )


def may_have_moved(given: object, recorded: object) -> bool:
    """Whether a path may have moved: both values are paths. The content is compared when it is read."""
    return (
        isinstance(given, str) and isinstance(recorded, str) and Path(given).exists() and Path(recorded).is_absolute()
    )

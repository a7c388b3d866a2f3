"""Everything that can be chosen about a training, in one frozen value.

The command line's options are made from its fields, and a run folder records all of them. Nothing here
needs torch.
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

from mnv2zoo.errors import RecipeError, UnknownArgumentError, nearest
from mnv2zoo.system.validation import alternatives, choices_of, fits

if TYPE_CHECKING:
    from mnv2zoo.data.layout import Layout

MODEL = "mnv2zoo_100"  # the network that is trained if none is named


# Bounds are part of a field's type. Those of colors only keep NaN and infinity out.
Share = Annotated[float, Meta(ge=0, le=1)]
Alpha = Annotated[float, Meta(ge=0, le=100)]
Side = Annotated[int, Meta(ge=32, le=4096)]
Finite = Annotated[float, Meta(ge=-1e300, le=1e300)]
# Of a square, or height and width. msgspec crashes on a union with `tuple[Side, Side]`.
Size = Side | Annotated[tuple[Side, ...], Meta(min_length=2, max_length=2)]
Color = Annotated[tuple[Finite, ...], Meta(min_length=1, max_length=8)]
Factor = Annotated[float, Meta(ge=0.05, le=20)]

# Fields of one kind of task, for the others to ignore.
OF_CLASSIFIERS = ("teacher", "mixup", "cutmix", "smoothing", "loss", "focal_gamma", "augment_on", "calibrate")
OF_FITTING = ("resize", "in_chans")  # of tasks that classify whole images
OF_CLASSES = ("class_weights",)  # of classifiers and segmenters
OF_HEADS = ("head", "backbone_lr", "scale_jitter", "rotate")  # of detectors and segmenters
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
    """How to train. Names of optimizers, schedules and augmentations are timm's.

    The defaults suit a few thousand photos and a network that was trained on ImageNet. Each field tells what it
    means in its metadata, which `mnv2zoo finetune --help` and the documentation's table of the fields show.

    Raises:
        RecipeError: If a value is of the wrong kind or out of bounds.

    Examples:
        >>> from mnv2zoo.training import Recipe
        >>> Recipe(epochs=10).opt
        'sgd'
        >>> Recipe(epochs=0)
        Traceback (most recent call last):
        mnv2zoo.errors.RecipeError: ...
    """

    # What is trained, from where.
    train: str = _choice("all", "what to train: `all`, `head`, or from a bottleneck on, such as `Bottleneck_12`")
    init: str = _choice(
        "pretrained",
        "where to start: `pretrained` (the model's own weights), `random`, a name in the zoo, or a checkpoint file",
    )
    pad_type: Literal["symmetric", "same"] | None = _choice(
        None, "padding of the convolutions: `symmetric`, or `same` for weights that TensorFlow trained"
    )
    classifier: Literal["linear", "conv", "conv_bn", "conv_bn_act"] | None = _choice(
        None, "kind of classifier: `linear`, `conv`, `conv_bn` or `conv_bn_act`"
    )
    keep_statistics: bool = _choice(
        False, "leave the mean and variance of batch norms as they are; for batches that are small or look alike"
    )
    loss_before_act: bool = _choice(
        True, "train on the classifier's output before its last activation, where there is one"
    )

    # The head of a detector or a segmenter.
    head: str | None = _choice(
        None,
        "head: `ssdlite`, `retinanet` or `fasterrcnn` to detect; `lraspp`, `deeplabv3` or `smp:NAME`, such as "
        "`smp:Unet`, to segment",
    )
    stride: Annotated[int, Meta(ge=4, le=16)] | None = _choice(
        None, "detectors: stride of the finest feature map, `4`, `8` or `16`; by default the head's own"
    )
    fpn_channels: Annotated[int, Meta(ge=16, le=512)] | None = _choice(
        None, "detectors: channels of the feature pyramid of `retinanet` and `fasterrcnn` [default: 256]"
    )
    anchor_size: Annotated[float, Meta(ge=2, le=2048)] | None = _choice(
        None, "detectors: side of the smallest anchors in pixels; by default the head's own"
    )
    score_threshold: Share = _choice(0.01, "detectors: lowest score of a box")
    nms_threshold: Share = _choice(0.5, "detectors: overlap (IoU) from which the lower of two boxes is dropped")
    max_detections: Annotated[int, Meta(ge=1, le=10_000)] = _choice(100, "detectors: most boxes per image")
    output_stride: Annotated[int, Meta(ge=8, le=16)] | None = _choice(
        None, "segmenters: stride of the backbone's last feature map, `8` or `16` [default: 16]"
    )

    # Whom to learn from, beside the labels.
    teacher: str | None = _choice(
        None, "a network of the same classes whose answers are learnt too: a name in the zoo, or a run folder"
    )
    teacher_weight: Share = _choice(0.9, "part of the loss that tells the distance from the teacher's answers")
    temperature: Annotated[float, Meta(ge=0.1, le=100)] = _choice(
        2.0, "what divides the logits before the two are compared; more makes softer answers"
    )

    # How long, and how fast.
    epochs: Annotated[int, Meta(ge=1, le=100_000)] = _choice(30, "times that every training image is seen")
    # A batch norm cannot train on one image.
    batch_size: Annotated[int, Meta(ge=2, le=1_000_000)] = _choice(32, "images a step, over all processes")
    accumulate: Annotated[int, Meta(ge=1, le=100_000)] = _choice(
        1, "batches whose gradients are summed before each step, for the effect of a batch that does not fit in memory"
    )
    opt: str = _choice("sgd", "optimizer, by timm's name")
    lr: Annotated[float, Meta(ge=1e-12, le=1e6)] | None = _choice(
        None, "peak learning rate; by default 0.02 for 32 images per step, in proportion"
    )
    momentum: Annotated[float, Meta(ge=0, le=0.9999)] = _choice(0.9, "momentum, for optimizers that have one")
    weight_decay: Annotated[float, Meta(ge=0, le=10)] = _choice(1e-4, "weight decay; biases and norms have none")
    backbone_lr: Annotated[float, Meta(ge=0, le=10)] = _choice(
        1.0, "detectors and segmenters: factor on the learning rate of the backbone"
    )
    layer_decay: Annotated[float, Meta(ge=0.01, le=1)] | None = _choice(
        None, "factor on the learning rate from each layer to the one before it"
    )
    clip_grad: Annotated[float, Meta(ge=1e-6, le=1e9)] | None = _choice(None, "highest norm of the gradient")
    # Those that are a function of the step alone.
    sched: Literal["cosine", "poly", "tanh"] = _choice(
        "cosine", "schedule of the learning rate: `cosine`, `poly` or `tanh`"
    )
    warmup_epochs: Annotated[float, Meta(ge=0, le=100_000)] = _choice(1.0, "epochs in which the learning rate rises")
    min_lr: Share = _choice(0.0, "lowest learning rate, as a part of the highest")
    ema_decay: Annotated[float, Meta(ge=0, le=0.99999)] = _choice(
        0.0, "decay of the moving average of the weights, which is what is kept; 0 for none"
    )
    keep: Literal["best", "last"] = _choice(
        "best", "weights to keep: of the `best` epoch on the validation images, or of the `last`"
    )
    monitor: str | None = _choice(
        None, "validation metric that chooses the best epoch, such as `f1_macro` or `loss`; by default the task's own"
    )
    patience: Annotated[int, Meta(ge=0, le=100_000)] = _choice(
        0, "epochs without a better value of that metric after which training stops; 0 for all epochs"
    )

    # What is seen.
    resize: Literal["crop", "squash", "letterbox"] | None = _choice(
        None,
        "how images are fitted: `crop` cuts the middle, `squash` resizes to the input size whatever the aspect, "
        "`letterbox` keeps the aspect and pads with the mean color; by default as the weights",
    )
    input_size: Size | None = _choice(
        None,
        "size of the images in training, in pixels: a side, or height x width such as `160x320`; by default that of "
        "the weights",
    )
    start_input_size: Side | None = _choice(
        None,
        "shorter side of the images in the first quarter of the epochs, from which it grows by the quarter; saves "
        "time. Segmenters crop to it, so that objects keep their size",
    )
    test_input_size: Size | None = _choice(
        None, "size of the images otherwise, a side or height x width; by default that of training"
    )
    in_chans: Annotated[int, Meta(ge=1, le=8)] | None = _choice(
        None,
        "channels of the images, 1 to 8: 1 for gray; others from .npy files, TIFF or RGBA; by default those of the "
        "model",
    )
    crop_pct: Annotated[float, Meta(ge=0.1, le=1)] | None = _choice(
        None,
        "part of the image's side that is looked at, except in training; by default that of the weights, and 1 where "
        "resizing changes to `squash` or `letterbox`",
    )
    interpolation: Literal["bilinear", "bicubic"] | None = _choice(None, "interpolation: `bilinear` or `bicubic`")
    mean: Color | None = _choice(
        None,
        "mean of the channels, from 0 to 1; with other channels than 3, as a list in a recipe file or Python; by "
        "default that of the weights, averaged for 1 channel and repeated in turn for more",
    )
    std: Color | None = _choice(None, "standard deviation of the channels, as for the mean")
    scale: Annotated[float, Meta(ge=0.01, le=1)] = _choice(
        0.35, "smallest part of an image's area that is cut out in training"
    )
    scale_jitter: tuple[Factor, Factor] | None = _choice(
        None, "detectors and segmenters: range of the factor by which training images are resized, such as 0.5 2"
    )
    iou_crop: Share = _choice(0.0, "detectors: how often SSD's crop around objects is applied in training")
    rotate: Share = _choice(0.0, "detectors and segmenters: how often images are turned by 90 degrees in training")
    hflip: Share = _choice(0.5, "how often images are mirrored in training")
    vflip: Share = _choice(0.0, "how often they are turned upside down")
    color_jitter: Share = _choice(0.2, "how far brightness, contrast and saturation of gray and RGB images are changed")
    auto_augment: str | None = _choice(None, "automatic augmentation as timm names it, such as `rand-m7-mstd0.5-inc1`")
    reprob: Share = _choice(0.0, "how often a rectangle is erased")
    augment_on: Literal["workers", "device"] = _choice(
        "workers",
        "where images are flipped, changed in color and erased: by the `workers` that read them, or on the `device`, a "
        "batch at a time",
    )
    mixup: Alpha = _choice(0.0, "alpha of mixup; 0 for none")
    cutmix: Alpha = _choice(0.0, "alpha of cutmix; 0 for none")
    smoothing: Annotated[float, Meta(ge=0, le=0.9)] = _choice(0.1, "label smoothing")
    loss: Literal["ce", "bce", "focal", "asymmetric"] = _choice(
        "ce",
        "loss: `ce` for cross-entropy, `bce` for binary cross-entropy per class, `focal` for focal loss; for several "
        "labels per image `bce`, `focal` or `asymmetric`",
    )
    focal_gamma: Annotated[float, Meta(ge=0, le=20)] = _choice(
        2.0, "focusing parameter of the focal loss; the higher, the less easy images count"
    )
    class_weights: str | None = _choice(
        None,
        "weights of the classes in the loss: `balanced` for rare classes to count as much as others, or a .json or "
        ".csv file with a number per class",
    )
    region_loss: Literal["dice", "lovasz"] | None = _choice(
        None, "segmenters: loss to add to the cross-entropy, `dice` or `lovasz`"
    )
    calibrate: bool = _choice(
        True, "fit a temperature on 30 or more validation images, which makes scores as high as the network is right"
    )
    drop_rate: Annotated[float, Meta(ge=0, le=0.99)] = _choice(0.0, "dropout before the classifier")
    drop_path_rate: Annotated[float, Meta(ge=0, le=0.99)] = _choice(0.0, "stochastic depth")

    # On which images, and how computed.
    layout: Literal["classes", "splits"] | None = _choice(
        None, "`classes` if each folder is a class, `splits` if the folders are splits; by default what they look like"
    )
    train_dir: str | None = _choice(None, "folder of the training images, within the data or anywhere")
    val_dir: str | None = _choice(None, "folder of the validation images, within the data or anywhere")
    test_dir: str | None = _choice(None, "folder of the test images, within the data or anywhere")
    val_fraction: Annotated[float, Meta(ge=0, le=0.9)] = _choice(
        0.1, "part of each class to validate on, where the data has no such split; 0 to train on all and keep the last"
    )
    split_file: str | None = _choice(
        None,
        "list of the images with their splits: a .csv, .tsv or .json file with columns `image` and `split`, or the "
        "`split.json` of another run",
    )
    group_by: str | None = _choice(
        None,
        "keep images of a group in one split: a column of that list, or a pattern with one group that is searched for "
        "in their paths, such as `plant(\\d+)`",
    )
    folds: Annotated[int, Meta(ge=0, le=1000)] = _choice(
        0, "cross-validation: train as many runs, each validated on another fold of the images; 0 for one run"
    )
    fold: Annotated[int, Meta(ge=0, le=1000)] = _choice(
        0, "with `folds`: the number of the one fold to hold out, from 1; 0 for all, one after the other"
    )
    ignore_index: Annotated[int, Meta(ge=0, le=255)] = _choice(
        255, "segmenters: number in the masks of pixels that belong to no class"
    )
    label_separator: str | None = _choice(
        None, "several labels per image: what separates labels in a CSV file; by default a vertical bar, `;` or `,`"
    )
    skip_bad_images: bool = _choice(False, "leave out images that cannot be read, instead of stopping before training")
    sampler: Literal["shuffle", "balanced"] = _choice(
        "shuffle", "training images of an epoch: `shuffle` for each once, `balanced` for each class equally often"
    )
    cache_features: bool = _choice(True, "with `head`: run the images through the network once, without augmentation")
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = _choice(0, "seed of everything random")
    precision: Literal["fp32", "bf16", "fp16"] = _choice(
        "fp32", "precision: `fp32`, or autocast to `bf16` or, with a scaled loss, to `fp16`, which needs a GPU"
    )
    channels_last: bool = _choice(True, "keep channels last in memory, which is faster on most machines")
    deterministic: bool = _choice(
        False, "compute the same bits in every run on a GPU too, with algorithms that are slower"
    )
    compile: bool = _choice(
        False, "compile the training step with `torch.compile`, which takes about a minute and saves time on a GPU"
    )
    workers: Annotated[int, Meta(ge=0, le=256)] = _choice(2, "processes that read images ahead")
    cache_images: Literal["ram", "disk", "off"] | None = _choice(
        None,
        "where smaller copies of large photos are kept, so that no later epoch decodes them: in memory (`ram`), on "
        "`disk` in MNV2ZOO_HOME, or nowhere (`off`); by default on disk, up to 10 GiB and a fifth of what is free",
    )
    checkpoint_steps: Annotated[int, Meta(ge=0, le=10**9)] = _choice(
        0, "steps between checkpoints within an epoch; 0 for one an epoch"
    )

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            given, value = value, normal(name, value)
            if name == "pad_type" and value == "":  # timm's word, which older runs wrote down
                value = "symmetric"
            if not fits(value, KINDS[name]):
                raise _bad(name, SIZE if name in SIZES else _expected(KINDS[name], value), given)
            object.__setattr__(self, name, value)
        if self.label_separator is not None and not self.label_separator:
            raise _bad("label_separator", "a character or more", self.label_separator)
        if self.std is not None and min(self.std) <= 0:
            raise _bad("std", "numbers above 0", self.std)
        if self.scale_jitter is not None and self.scale_jitter[0] > self.scale_jitter[1]:
            raise _bad("scale_jitter", "the lower factor first", self.scale_jitter)
        if self.keep_statistics and self.init == "random":
            raise _bad("keep_statistics", "false with random weights, whose batch norms have seen no image", True)
        if self.teacher is not None and self.train == "head" and self.cache_features:
            raise _bad("teacher", "no teacher with cached features: it has to see the images", self.teacher)
        if self.mixes and self.train == "head" and self.cache_features:
            name = "mixup" if self.mixup else "cutmix"
            raise _bad(name, "0 with cached features, which are no images to mix", getattr(self, name))
        if self.augment_on == "device" and self.auto_augment is not None:
            raise _bad("augment_on", "workers with auto_augment, which takes one image at a time", self.augment_on)
        self._check_splits()
        if self.mixes and self.batch_size % 2:
            raise _bad("batch_size", "an even number, because mixup and cutmix make pairs", self.batch_size)

    def _check_splits(self) -> None:
        if self.folds == 1:
            raise _bad("folds", "2 or more, or 0 for one run", self.folds)
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
        """Whether images are mixed, which gives soft targets."""
        return bool(self.mixup or self.cutmix)

    def images(self) -> Layout:
        """How the images are laid out, where their folders do not tell."""
        from mnv2zoo.data.layout import LAYOUT_FIELDS, Layout  # with Pillow, which `--help` does without

        return Layout(**{name: getattr(self, name) for name in LAYOUT_FIELDS} | {"in_chans": self.in_chans or 3})

    def to_json(self) -> dict[str, Any]:
        """All fields.

        Returns:
            Their values by name, for `json.dumps`.
        """
        return asdict(self)


# The type of each field, with its bounds and choices, and the same without bounds, in which choices are strings.
KINDS: dict[str, Any] = get_type_hints(Recipe, include_extras=True)
CHOICES = {name: choices for name, kind in KINDS.items() if (choices := choices_of(kind))}


# Fields that are a side or a height and a width, and what to say is expected.
SIZES = ("input_size", "test_input_size")
SIZE = "pixels from 32 to 4096: a side such as 224, or height x width such as 160x320"


def normal(name: str, value: Any) -> Any:
    """A value of a field in the one form that a recipe has it in.

    Args:
        name: The field.
        value: The value. Lists are as JSON and TOML have tuples. A size may be written as text, such as `160x320`.

    Returns:
        The value; what fits no form stays as it is.
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
        f"bad value for {name} in the recipe",
        expected=expected,
        found=repr(found),
        where=name,
        fix=f"Change {name} (--{name.replace('_', '-')} on the command line).",
    )


def _expected(kind: Any, value: object) -> str:
    """What to say is expected in place of a value that does not fit a type."""
    if choices := choices_of(kind):
        return " or ".join(choices)
    words = []
    for one in alternatives(kind):
        plain, *metas = get_args(one) if get_origin(one) is Annotated else (one,)
        if metas and fits(value, plain) and value == value:  # NaN is no number
            return f"a number from {metas[0].ge} to {metas[0].le}"
        words.append("null" if plain is type(None) else getattr(plain, "__name__", str(plain)))
    return " or ".join(words)


FIELDS = tuple(f.name for f in fields(Recipe))


def make(**values: Any) -> Recipe:
    """Makes a recipe.

    Args:
        **values: Fields of `Recipe`; the others have their defaults.

    Returns:
        The recipe.

    Raises:
        UnknownArgumentError: If there is no such field; the message names the nearest.
        RecipeError: If a value is of the wrong kind or out of bounds.
    """
    check_names(values)
    return Recipe(**values)


def check_names(values: Iterable[str]) -> None:
    """Checks names of fields.

    Args:
        values: The names.

    Raises:
        UnknownArgumentError: If there is no such field; the message names the nearest.
    """
    for name in values:
        if name not in FIELDS:
            raise UnknownArgumentError(
                "no such value in a recipe",
                expected=nearest(name, FIELDS, 2),
                found=repr(name),
                fix="`mnv2zoo finetune --help` lists them.",
            )


def read(path: Path) -> dict[str, Any]:
    """Reads values of a recipe from a TOML or JSON file.

    Args:
        path: The file, such as the `recipe.json` of an earlier run.

    Returns:
        The values, unchecked.

    Raises:
        RecipeError: If it is no such file.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise RecipeError(
            "cannot read the recipe", expected="a TOML or JSON file", found=f"{error}".rstrip("."), where=path
        ) from error
    values = document.get("recipe", document) if isinstance(document, dict) else None
    if not isinstance(values, dict):
        raise RecipeError("cannot read the recipe", expected="values by name", found=type(values).__name__, where=path)
    return values


# Fields that do not decide what a run ends with, and so may be others when it is resumed.
FREE = ("workers", "cache_images", "checkpoint_steps", "compile")
# Fields that may name a file or a folder.
PLACES = ("init", "teacher", "class_weights")


def resumed(recorded: dict[str, Any], given: dict[str, Any]) -> Recipe:
    """The recipe of an interrupted run.

    Args:
        recorded: The recipe that the run wrote down. Fields that it lacks have their defaults.
        given: Values that were given now.

    Returns:
        The run's recipe, with what was given now where that does not decide the result.

    Raises:
        UnknownArgumentError: If there is no such field.
        RecipeError: If a value given now contradicts the run, or the recorded recipe is damaged.
    """
    check_names(given)
    unknown = sorted(recorded.keys() - {*FIELDS})
    if unknown:
        raise RecipeError(
            "the run was made by another version of mnv2zoo",
            expected="a recipe of this version",
            found=f"{unknown[0]!r} in it",
            fix="Resume it with the version in its recipe.json, or start a new run with another --out.",
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
    """The error for a value that is not that of the run that is resumed."""
    return RecipeError(
        f"--{name.replace('_', '-')} contradicts the run that is resumed",
        expected=repr(recorded),
        found=repr(given),
        where=name,
        fix="Leave it out to resume, or start a new run with another --out.",
    )


def may_have_moved(given: object, recorded: object) -> bool:
    """Whether two names are those of files or folders; whether they hold the same is seen where they are read."""
    return (
        isinstance(given, str) and isinstance(recorded, str) and Path(given).exists() and Path(recorded).is_absolute()
    )

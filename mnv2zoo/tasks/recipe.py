"""Everything that can be chosen about a training, in one frozen value.

The command line's options are made from its fields, and a run folder records all of them. Nothing here
needs torch.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from mnv2zoo.errors import RecipeError, UnknownArgumentError, nearest

if TYPE_CHECKING:
    from mnv2zoo.data.layout import Layout

MODEL = "mnv2zoo_100"  # the network that is trained if none is named


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
    pad_type: str | None = _choice(
        None, "padding of the convolutions: `symmetric`, or `same` for weights that TensorFlow trained"
    )
    classifier: str | None = _choice(None, "kind of classifier: `linear`, `conv`, `conv_bn` or `conv_bn_act`")
    keep_statistics: bool = _choice(
        False, "leave the mean and variance of batch norms as they are; for batches that are small or look alike"
    )
    loss_before_act: bool = _choice(
        True, "train on the classifier's output before its last activation, where there is one"
    )

    # Whom to learn from, beside the labels.
    teacher: str | None = _choice(
        None, "a network of the same classes whose answers are learnt too: a name in the zoo, or a run folder"
    )
    teacher_weight: float = _choice(0.9, "part of the loss that tells the distance from the teacher's answers")
    temperature: float = _choice(2.0, "what divides the logits before the two are compared; more makes softer answers")

    # How long, and how fast.
    epochs: int = _choice(30, "times that every training image is seen")
    batch_size: int = _choice(32, "images a step, over all processes")
    opt: str = _choice("sgd", "optimizer, by timm's name")
    lr: float | None = _choice(None, "highest learning rate; by default 0.02 for 32 images, and in step")
    momentum: float = _choice(0.9, "momentum, for optimizers that have one")
    weight_decay: float = _choice(1e-4, "weight decay; biases and norms have none")
    layer_decay: float | None = _choice(None, "factor on the learning rate from each layer to the one before it")
    clip_grad: float | None = _choice(None, "highest norm of the gradient")
    sched: str = _choice("cosine", "schedule of the learning rate: `cosine`, `poly` or `tanh`")
    warmup_epochs: float = _choice(1.0, "epochs in which the learning rate rises")
    min_lr: float = _choice(0.0, "lowest learning rate, as a part of the highest")
    ema_decay: float = _choice(0.0, "decay of the moving average of the weights, which is what is kept; 0 for none")
    keep: str = _choice("best", "weights to keep: of the `best` epoch on the validation images, or of the `last`")

    # What is seen.
    input_size: int | None = _choice(None, "side of the images in training, in pixels; by default that of the weights")
    start_input_size: int | None = _choice(
        None, "side of the images in the first quarter of the epochs, from which it grows by the quarter; saves time"
    )
    test_input_size: int | None = _choice(None, "side of the images otherwise; by default that of training")
    crop_pct: float | None = _choice(None, "part of the image's side that is looked at, except in training")
    interpolation: str | None = _choice(None, "interpolation: `bilinear` or `bicubic`")
    mean: tuple[float, float, float] | None = _choice(None, "mean of the colours, from 0 to 1")
    std: tuple[float, float, float] | None = _choice(None, "standard deviation of the colours")
    scale: float = _choice(0.35, "smallest part of an image's area that is cut out in training")
    hflip: float = _choice(0.5, "how often images are mirrored in training")
    vflip: float = _choice(0.0, "how often they are turned upside down")
    color_jitter: float = _choice(0.2, "how far brightness, contrast and saturation are changed")
    auto_augment: str | None = _choice(None, "automatic augmentation as timm names it, such as `rand-m7-mstd0.5-inc1`")
    reprob: float = _choice(0.0, "how often a rectangle is erased")
    mixup: float = _choice(0.0, "alpha of mixup; 0 for none")
    cutmix: float = _choice(0.0, "alpha of cutmix; 0 for none")
    smoothing: float = _choice(0.1, "label smoothing")
    loss: str = _choice("ce", "loss: `ce` for cross-entropy, `bce` for binary cross-entropy per class")
    drop_rate: float = _choice(0.0, "dropout before the classifier")
    drop_path_rate: float = _choice(0.0, "stochastic depth")

    # On which images, and how computed.
    layout: str | None = _choice(
        None, "`classes` if each folder is a class, `splits` if the folders are splits; by default what they look like"
    )
    train_dir: str | None = _choice(None, "folder of the training images, within the data or anywhere")
    val_dir: str | None = _choice(None, "folder of the validation images, within the data or anywhere")
    test_dir: str | None = _choice(None, "folder of the test images, within the data or anywhere")
    val_fraction: float = _choice(0.1, "part of each class to validate on, where the data has no split for that")
    skip_bad_images: bool = _choice(False, "leave out images that cannot be read, instead of stopping before training")
    cache_features: bool = _choice(True, "with `head`: run the images through the network once, without augmentation")
    seed: int = _choice(0, "seed of everything random")
    precision: str = _choice("fp32", "precision: `fp32`, or `bf16` for autocast")
    channels_last: bool = _choice(True, "keep channels last in memory, which is faster on most machines")
    workers: int = _choice(2, "processes that read images ahead")
    checkpoint_steps: int = _choice(0, "steps between checkpoints within an epoch; 0 for one an epoch")

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            if isinstance(value, list):  # as JSON and TOML have it
                object.__setattr__(self, name, tuple(value))
        if self.pad_type == "":  # timm's word, which older runs wrote down
            object.__setattr__(self, "pad_type", "symmetric")
        for name, kind in get_type_hints(Recipe).items():
            _check_type(name, getattr(self, name), kind)
        for name, (low, high) in BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise _bad(name, f"a number from {low} to {high}", value)
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise _bad(name, " or ".join(choices), value)
        if self.std is not None and min(self.std) <= 0:
            raise _bad("std", "numbers above 0", self.std)
        if self.keep_statistics and self.init == "random":
            raise _bad("keep_statistics", "false with random weights, whose batch norms have seen no image", True)
        if self.teacher is not None and self.train == "head" and self.cache_features:
            raise _bad("teacher", "no teacher with cached features: it has to see the images", self.teacher)
        if self.mixes and self.train == "head" and self.cache_features:
            name = "mixup" if self.mixup else "cutmix"
            raise _bad(name, "0 with cached features, which are no images to mix", getattr(self, name))
        if self.mixes and self.batch_size % 2:
            raise _bad("batch_size", "an even number, because mixup and cutmix make pairs", self.batch_size)

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, which gives soft targets."""
        return bool(self.mixup or self.cutmix)

    def images(self) -> Layout:
        """How the images are laid out, where their folders do not tell."""
        from mnv2zoo.data.layout import Layout  # with Pillow, which `--help` does without

        return Layout(self.layout, self.train_dir, self.val_dir, self.test_dir)

    def to_json(self) -> dict[str, Any]:
        """All fields.

        Returns:
            Their values by name, for `json.dumps`.
        """
        return asdict(self)


BOUNDS: dict[str, tuple[float, float]] = {
    "teacher_weight": (0, 1),
    "temperature": (0.1, 100),
    "epochs": (1, 100_000),
    "batch_size": (2, 1_000_000),  # a batch norm cannot train on one
    "lr": (1e-12, 1e6),
    "momentum": (0, 0.9999),
    "weight_decay": (0, 10),
    "layer_decay": (0.01, 1),
    "clip_grad": (1e-6, 1e9),
    "warmup_epochs": (0, 100_000),
    "min_lr": (0, 1),
    "ema_decay": (0, 0.99999),
    "input_size": (32, 4096),
    "start_input_size": (32, 4096),
    "test_input_size": (32, 4096),
    "crop_pct": (0.1, 1),
    "scale": (0.01, 1),
    "hflip": (0, 1),
    "vflip": (0, 1),
    "color_jitter": (0, 1),
    "reprob": (0, 1),
    "mixup": (0, 100),
    "cutmix": (0, 100),
    "smoothing": (0, 0.9),
    "drop_rate": (0, 0.99),
    "drop_path_rate": (0, 0.99),
    "val_fraction": (0.01, 0.9),
    "seed": (0, 2**31 - 1),
    "workers": (0, 256),
    "checkpoint_steps": (0, 10**9),
}
CHOICES: dict[str, tuple[str, ...]] = {
    "layout": ("classes", "splits"),
    "pad_type": ("symmetric", "same"),
    "classifier": ("linear", "conv", "conv_bn", "conv_bn_act"),
    "keep": ("best", "last"),
    "interpolation": ("bilinear", "bicubic"),
    "loss": ("ce", "bce"),
    "sched": ("cosine", "poly", "tanh"),  # those that are a function of the step alone
    "precision": ("fp32", "bf16"),
}


def _bad(name: str, expected: object, found: object) -> RecipeError:
    return RecipeError(
        f"bad value for {name} in the recipe",
        expected=expected,
        found=repr(found),
        where=name,
        fix=f"Change {name} (--{name.replace('_', '-')} on the command line).",
    )


def _check_type(name: str, value: Any, kind: Any) -> None:
    choices = getattr(kind, "__args__", ()) if getattr(kind, "__origin__", None) is not tuple else ()
    kinds = choices or (kind,)
    if value is None and type(None) in kinds:
        return
    for one in kinds:
        if getattr(one, "__origin__", None) is tuple:
            numbers = isinstance(value, tuple) and all(_number(v) for v in value)
            if numbers and len(value) == len(one.__args__):
                return
        elif (one is float and _number(value)) or (one is not float and type(value) is one):
            return
    words = " or ".join("null" if one is type(None) else getattr(one, "__name__", str(one)) for one in kinds)
    raise _bad(name, words, value)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


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
FREE = ("workers", "checkpoint_steps")
# Fields that may name a file or a folder.
PLACES = ("init", "teacher")


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
        value = tuple(value) if isinstance(value, list) else value
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
